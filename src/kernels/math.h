// exp, sigmoid and tanh on lanes. The tests hold them to these bounds, over all floats and on samples of
// doubles; the largest errors found are 1.07, 2.44 and 2.37 ULP for floats, 1.06, 2.43 and 2.72 for doubles.
//
//   exp      <= 1.1 ULP for x in [-87, 88] (float), [-708, 709] (double); outside, the value at the border
//   sigmoid  <= 2.6 ULP for x >= -87 (float), -708 (double); below, the value at the border (1e-38, 3e-308);
//            never above 1
//   tanh     <= 2.7 ULP (float), 2.8 (double) everywhere, relative also near 0; odd to the bit, never above 1
//
// NaN gives NaN, whatever its payload. All three write K x = n ln 2 + K r with |K r| <= ln(2)/2, and
//
//   e^(K r) = (c + r) / (c - r),    c = r coth(K r/2) = 2/K + y g(y),    y = r^2
//
// c is even in r, so that a short polynomial g suffices (minimax for the relative error of c, which is
// 2.2e-9 in float and 8.5e-19 in double), and the one division is that of sigmoid or tanh itself.
#pragma once

#include "vec.h"

namespace timelike {
namespace TIMELIKE_ISA {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int exponent_shift = 23, bias = 127;
  static constexpr float log2e = 1.44269504088896341f;
  static constexpr float ln2 = 0.693147180559945309f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 1.4286068203094173e-06f;
  static constexpr float low = -87.0f, high = 88.0f;
  static constexpr float tanh_range = 9.25f;  // tanh of it rounds to 1
  static constexpr double g[] = {0.16666625840667634, -0.0027667638876337761};
};

template <>
struct ExpConstants<double> {
  static constexpr double rounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int exponent_shift = 52, bias = 1023;
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2 = 0.693147180559945309417;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 1.9082149292705877e-10;
  static constexpr double low = -708.0, high = 709.0;
  static constexpr double tanh_range = 20.0;
  static constexpr double g[] = {0.16666666666666602351, -0.0027777777777017595641, 6.6137563220124996648e-5,
                                 -1.6533902817212750232e-6, 4.1381587163541344276e-8};
};

constexpr double power(double base, int n) { return n == 0 ? 1.0 : base * power(base, n - 1); }

// The functions below work on M registers at once, stage by stage: one evaluation is a chain of ~12
// dependent operations, and the processor only fills its units when several chains are in flight.

// K x = n ln 2 + K r: x becomes r. scale = 2^(n + E), y = r^2, g of it.
template <class T, int K, int E, int M>
TIMELIKE_INLINE void reduce(Vec<T> (&x)[M], Vec<T> (&scale)[M], Vec<T> (&y)[M], Vec<T> (&g)[M]) {
  using C = ExpConstants<T>;
  using Ints = typename Lanes<T>::ints;
  // The sum has n in its low bits, here as an exponent with its bias, so that a shift makes it 2^(n + E).
  constexpr T rounder = C::rounder + (C::bias + E);
  Vec<T> n[M];
  TIMELIKE_EACH(m, M) n[m] = fma(x[m], broadcast(K * C::log2e), broadcast(rounder));
  TIMELIKE_EACH(m, M) scale[m] = reinterpret_cast<Vec<T>>(reinterpret_cast<Ints>(n[m]) << C::exponent_shift);
  TIMELIKE_EACH(m, M) n[m] = n[m] - rounder;
  if constexpr (K == 2) {  // what is lost of ln 2 matters for large n alone, and tanh(x) is 1 there
    TIMELIKE_EACH(m, M) x[m] = fma(n[m], broadcast(-C::ln2 / K), x[m]);
  } else {  // in two parts, so that n ln2_high is exact
    TIMELIKE_EACH(m, M) x[m] = fma(n[m], broadcast(-C::ln2_high / K), x[m]);
    TIMELIKE_EACH(m, M) x[m] = fma(n[m], broadcast(-C::ln2_low / K), x[m]);
  }
  TIMELIKE_EACH(m, M) y[m] = x[m] * x[m];
  constexpr int terms = sizeof(C::g) / sizeof(C::g[0]);
  constexpr double k = K < 0 ? -K : K;
  TIMELIKE_EACH(m, M) g[m] = broadcast(T(C::g[terms - 1] * power(k, 2 * terms - 1)));
  TIMELIKE_EACH(i, terms - 1) {
    const int j = terms - 2 - i;
    TIMELIKE_EACH(m, M) g[m] = fma(g[m], y[m], broadcast(T(C::g[j] * power(k, 2 * j + 1))));
  }
}

// e^r = 1 + r + r (r - d) / (c - r) with d = c - 2: the last term is small, and so are its errors.
template <class T, int M>
TIMELIKE_INLINE void exp(Vec<T> (&x)[M]) {
  using C = ExpConstants<T>;
  Vec<T> scale[M], y[M], g[M];
  TIMELIKE_EACH(m, M) x[m] = smaller(broadcast(C::high), larger(broadcast(C::low), x[m]));
  reduce<T, 1, 0, M>(x, scale, y, g);
  TIMELIKE_EACH(m, M) {
    const Vec<T> d = y[m] * g[m];
    const Vec<T> expm1 = fma((x[m] - d) / (T(2) + d - x[m]), x[m], x[m]);
    // Multiplied, not added to the exponent's bits: those of a NaN are its payload, which would be lost.
    x[m] = fma(expm1, scale[m], scale[m]);
  }
}

// 1 / (1 + e^-x) with e^-x = scale (c - r) / (c + r): relative accuracy on the negative side too, where
// 1/2 + tanh(x/2)/2 has none.
template <class T, int M>
TIMELIKE_INLINE void sigmoid(Vec<T> (&x)[M]) {
  using C = ExpConstants<T>;
  Vec<T> scale[M], y[M], c[M];
  TIMELIKE_EACH(m, M) x[m] = larger(broadcast(C::low), x[m]);
  TIMELIKE_EACH(m, M) x[m] = smaller(broadcast(-C::low), x[m]);
  reduce<T, -1, 0, M>(x, scale, y, c);
  TIMELIKE_EACH(m, M) c[m] = fma(c[m], y[m], broadcast(T(2)));
  TIMELIKE_EACH(m, M) {
    const Vec<T> numerator = c[m] + x[m];
    x[m] = numerator / fma(c[m] - x[m], scale[m], numerator);
  }
}

// (e^2x - 1) / (e^2x + 1) with e^2x = s (c + r) / (c - r). The numerator, s (c + r) - (c - r), is written as
// (s - 1) c + (s + 1) r, which keeps its accuracy near 0; the denominator is the numerator and 2 (c - r), so
// that for x >= 0 the quotient does not pass 1, nor feel the numerator's error where it is close to 1. Both
// are taken by half.
template <class T, int M>
TIMELIKE_INLINE void tanh(Vec<T> (&x)[M]) {
  using C = ExpConstants<T>;
  using Ints = typename Lanes<T>::ints;
  const Ints sign_bit = reinterpret_cast<Ints>(broadcast(T(-0.0)));
  Vec<T> sign[M], half[M], y[M], c[M];
  TIMELIKE_EACH(m, M) {
    sign[m] = reinterpret_cast<Vec<T>>(reinterpret_cast<Ints>(x[m]) & sign_bit);
    x[m] = reinterpret_cast<Vec<T>>(reinterpret_cast<Ints>(x[m]) & ~sign_bit);
  }
  TIMELIKE_EACH(m, M) x[m] = smaller(broadcast(C::tanh_range), x[m]);
  reduce<T, 2, -1, M>(x, half, y, c);  // half: s / 2
  TIMELIKE_EACH(m, M) c[m] = fma(c[m], y[m], broadcast(T(1)));
  TIMELIKE_EACH(m, M) {
    const Vec<T> numerator = fma(half[m] - T(0.5), c[m], (half[m] + T(0.5)) * x[m]);
    const Vec<T> quotient = numerator / (numerator + (c[m] - x[m]));
    x[m] = reinterpret_cast<Vec<T>>(reinterpret_cast<Ints>(quotient) | reinterpret_cast<Ints>(sign[m]));
  }
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
