// exp, sigmoid and tanh on lanes. The tests hold them to these bounds, on samples and on the worst numbers
// known: 1.05, 2.49 and 2.58 ULP, found among all floats and 10^8 doubles.
//
//   exp      <= 1.1 ULP for x in [-87, 88] (float), [-708, 709] (double); outside, the value at the border
//   sigmoid  <= 2.6 ULP for x >= -87 (float), -708 (double); below, the value at the border (1e-38, 3e-308)
//   tanh     <= 2.7 ULP everywhere, relative also near 0
//
// NaN gives NaN, whatever its payload. All three reduce x = n ln 2 + r with |r| <= ln(2)/2 (ln 2 in two
// parts, so that n ln 2 is exact) and use expm1(r) = r + r^2 q(r), q the minimax polynomial for the relative
// error (1.3e-8 in float, 1.8e-17 in double). Adding 1.5 * 2^(mantissa bits) rounds to n and leaves n in the
// low bits, from where one shift makes it an exponent.
#pragma once

#include "vec.h"

namespace timelike {
namespace TIMELIKE_ISA {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float rounder = 12582912.0f;  // 1.5 * 2^23
  static constexpr int exponent_shift = 23;
  static constexpr uint32_t one_bits = 0x3f800000;
  static constexpr float log2e = 1.44269504088896341f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 1.4286068203094173e-06f;
  static constexpr float low = -87.0f, high = 88.0f;
  static constexpr float tanh_range = 18.5f;  // tanh(9.25) rounds to 1
  static constexpr float q[] = {0.50000000618952048869f, 0.16666542924832931451f, 0.041666281840163390205f,
                                0.0083665980321887975207f, 0.0013946473569668391984f};
};

template <>
struct ExpConstants<double> {
  static constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int exponent_shift = 52;
  static constexpr uint64_t one_bits = 0x3ff0000000000000;
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 1.9082149292705877e-10;
  static constexpr double low = -708.0, high = 709.0;
  static constexpr double tanh_range = 40.0;
  static constexpr double q[] = {0.50000000000000055155,     0.16666666666666685957,
                                 0.041666666666573806242,    0.00833333333331460407,
                                 0.0013888888932359676356,   0.00019841269903028732211,
                                 0.000024801504437733251063, 2.7557227936587062694e-6,
                                 2.7626338794905043872e-7,   2.5114483760506675332e-8};
};

// The functions below work on M registers at once, stage by stage: one evaluation is a chain of ~15
// dependent operations, and the processor only fills its units when several chains are in flight.

template <class T, int M>
TIMELIKE_INLINE void clamp(Vec<T> (&x)[M], T low, T high) {
  for (int m = 0; m < M; ++m) x[m] = larger(broadcast(low), x[m]);
  for (int m = 0; m < M; ++m) x[m] = smaller(broadcast(high), x[m]);
}

// x = n ln 2 + r: x becomes expm1(r), and exponent n where an exponent's bits are.
template <class T, int M>
TIMELIKE_INLINE void reduced_expm1(Vec<T> (&x)[M], typename Lanes<T>::ints (&exponent)[M]) {
  using C = ExpConstants<T>;
  using Ints = typename Lanes<T>::ints;
  Vec<T> n[M], q[M];
  for (int m = 0; m < M; ++m) n[m] = fma(x[m], broadcast(C::log2e), broadcast(C::rounder));
  for (int m = 0; m < M; ++m) exponent[m] = reinterpret_cast<Ints>(n[m]) << C::exponent_shift;
  for (int m = 0; m < M; ++m) n[m] = n[m] - C::rounder;
  for (int m = 0; m < M; ++m) x[m] = fma(n[m], broadcast(-C::ln2_high), x[m]);
  for (int m = 0; m < M; ++m) x[m] = fma(n[m], broadcast(-C::ln2_low), x[m]);
  constexpr int terms = sizeof(C::q) / sizeof(C::q[0]);
  for (int m = 0; m < M; ++m) q[m] = broadcast(C::q[terms - 1]);
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k)
    for (int m = 0; m < M; ++m) q[m] = fma(q[m], x[m], broadcast(C::q[k]));
  for (int m = 0; m < M; ++m) x[m] = fma(x[m] * x[m], q[m], x[m]);
}

// 2^n of the exponents of reduced_expm1.
template <class T>
TIMELIKE_INLINE Vec<T> power_of_two(typename Lanes<T>::ints exponent) {
  return reinterpret_cast<Vec<T>>(exponent + ExpConstants<T>::one_bits);
}

template <class T, int M>
TIMELIKE_INLINE void exp_in_range(Vec<T> (&x)[M]) {
  typename Lanes<T>::ints exponent[M];
  reduced_expm1<T, M>(x, exponent);
  for (int m = 0; m < M; ++m) {
    // Multiplied, not added to the exponent's bits: those of a NaN are its payload, which would be lost.
    const Vec<T> scale = power_of_two<T>(exponent[m]);
    x[m] = fma(x[m], scale, scale);
  }
}

template <class T, int M>
TIMELIKE_INLINE void exp(Vec<T> (&x)[M]) {
  clamp<T, M>(x, ExpConstants<T>::low, ExpConstants<T>::high);
  exp_in_range<T, M>(x);
}

// 1 / (1 + exp(-x)): relative accuracy on the negative side too, where 1/2 + tanh(x/2)/2 has none.
template <class T, int M>
TIMELIKE_INLINE void sigmoid(Vec<T> (&x)[M]) {
  for (int m = 0; m < M; ++m) x[m] = -x[m];
  clamp<T, M>(x, ExpConstants<T>::low, -ExpConstants<T>::low);
  exp_in_range<T, M>(x);
  for (int m = 0; m < M; ++m) x[m] = T(1) / (T(1) + x[m]);
}

// expm1(2x) / (expm1(2x) + 2): no cancellation near 0, since expm1 is computed as such.
template <class T, int M>
TIMELIKE_INLINE void tanh(Vec<T> (&x)[M]) {
  using C = ExpConstants<T>;
  typename Lanes<T>::ints exponent[M];
  for (int m = 0; m < M; ++m) x[m] = x[m] + x[m];
  clamp<T, M>(x, -C::tanh_range, C::tanh_range);
  reduced_expm1<T, M>(x, exponent);
  for (int m = 0; m < M; ++m) {
    const Vec<T> scale = power_of_two<T>(exponent[m]);
    x[m] = fma(x[m], scale, scale - T(1));
  }
  for (int m = 0; m < M; ++m) x[m] = x[m] / (x[m] + T(2));
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
