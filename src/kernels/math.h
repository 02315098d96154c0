// exp, sigmoid and tanh on lanes. The bounds below are what the tests hold them to, over all floats:
//
//   exp      <= 2 ULP for x in [-87, 88] (float), [-708, 709] (double); outside, the value at the border
//   sigmoid  <= 3 ULP wherever |x| <= 87 (float), 708 (double); below, the value at the border (~1e-38)
//   tanh     <= 3 ULP everywhere, relative also near 0
//
// NaN gives NaN. All three reduce x = n ln 2 + r with |r| <= ln(2)/2 (ln 2 in two parts, so that n ln 2 is
// exact) and use expm1(r) = r + r^2 q(r), q the minimax polynomial for the relative error (1.3e-8 in
// float, 1.8e-17 in double). Adding 1.5 * 2^(mantissa bits) rounds to n and leaves n in the low bits,
// from where one shift makes it an exponent.
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
  static constexpr int32_t one_bits = 0x3f800000;
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
  static constexpr int64_t one_bits = 0x3ff0000000000000;
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 1.9082149292705877e-10;
  static constexpr double low = -708.0, high = 709.0;
  static constexpr double tanh_range = 40.0;
  static constexpr double q[] = {0.50000000000000055155,    0.16666666666666685957,    0.041666666666573806242,
                                 0.00833333333331460407,    0.0013888888932359676356,  0.00019841269903028732211,
                                 0.000024801504437733251063, 2.7557227936587062694e-6, 2.7626338794905043872e-7,
                                 2.5114483760506675332e-8};
};

template <class T>
TIMELIKE_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
  return smaller(broadcast(high), larger(broadcast(low), x));
}

// x = n ln 2 + r; returns expm1(r) and, in bits, 2^n as something to add to an exponent.
template <class T>
TIMELIKE_INLINE Vec<T> reduced_expm1(Vec<T> x, typename Lanes<T>::ints& exponent) {
  using C = ExpConstants<T>;
  using Ints = typename Lanes<T>::ints;
  const Vec<T> rounded = fma(x, broadcast(C::log2e), broadcast(C::rounder));
  exponent = reinterpret_cast<Ints>(rounded) << C::exponent_shift;
  const Vec<T> n = rounded - C::rounder;
  const Vec<T> r = fma(n, broadcast(-C::ln2_low), fma(n, broadcast(-C::ln2_high), x));
  constexpr int terms = sizeof(C::q) / sizeof(C::q[0]);
  Vec<T> q = broadcast(C::q[terms - 1]);
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k) q = fma(q, r, broadcast(C::q[k]));
  return fma(r * r, q, r);
}

template <class T>
TIMELIKE_INLINE Vec<T> exp_in_range(Vec<T> x) {
  typename Lanes<T>::ints exponent;
  const Vec<T> p = reduced_expm1<T>(x, exponent) + T(1);
  return reinterpret_cast<Vec<T>>(reinterpret_cast<typename Lanes<T>::ints>(p) + exponent);
}

template <class T>
TIMELIKE_INLINE Vec<T> exp(Vec<T> x) {
  return exp_in_range<T>(clamp<T>(x, ExpConstants<T>::low, ExpConstants<T>::high));
}

// 1 / (1 + exp(-x)): relative accuracy on the negative side too, where 1/2 + tanh(x/2)/2 has none.
template <class T>
TIMELIKE_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exp_in_range<T>(clamp<T>(-x, ExpConstants<T>::low, -ExpConstants<T>::low));
  return T(1) / (T(1) + e);
}

// expm1(2x) / (expm1(2x) + 2): no cancellation near 0, since expm1 is computed as such.
template <class T>
TIMELIKE_INLINE Vec<T> tanh(Vec<T> x) {
  using C = ExpConstants<T>;
  using Ints = typename Lanes<T>::ints;
  Ints exponent;
  const Vec<T> p = reduced_expm1<T>(clamp<T>(x + x, -C::tanh_range, C::tanh_range), exponent);
  const Vec<T> scale = reinterpret_cast<Vec<T>>(exponent + C::one_bits);
  const Vec<T> e = fma(p, scale, scale - T(1));
  return e / (e + T(2));
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
