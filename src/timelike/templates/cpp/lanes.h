// -- Lanes --------------------------------------------------------------------------------------------------
//
// One register of numbers, by the vector extensions of GCC and Clang, as wide as the compiler's target has it
// (-march=native, -mavx2); elsewhere, or with TIMELIKE_ONE_LANE, one number at a time. The results are the
// same for any width; whether a multiply-add rounds once or twice depends on the target.

using bits_type = $BITS;
constexpr int most_lanes = 64 / int(sizeof(real));  // arrays are made for the widest

#if defined(__GNUC__) && !defined(TIMELIKE_ONE_LANE)
#if defined(__AVX512F__)
constexpr int lanes = most_lanes;
#elif defined(__AVX__)
constexpr int lanes = most_lanes / 2;
#else
constexpr int lanes = most_lanes / 4;
#endif
typedef real Lanes __attribute__((vector_size(lanes * sizeof(real))));
typedef bits_type Bits __attribute__((vector_size(lanes * sizeof(real))));
#else
constexpr int lanes = 1;
using Lanes = real;
using Bits = bits_type;
#endif

constexpr int padded(int n) { return (n + most_lanes - 1) / most_lanes * most_lanes; }

inline Lanes load(const real* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(real* p, Lanes v) { std::memcpy(p, &v, sizeof v); }
inline Lanes all(real number) { return number - Lanes{}; }

inline Bits bits_of(Lanes v) {
  Bits b;
  std::memcpy(&b, &v, sizeof b);
  return b;
}
inline Lanes number_of(Bits b) {
  Lanes v;
  std::memcpy(&v, &b, sizeof v);
  return v;
}

// a b + c; rounded once where the target has it.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if !defined(__GNUC__) || defined(TIMELIKE_ONE_LANE)
  return a * b + c;
#elif defined(__AVX512F__)
  return _mm512_fmadd_$PD(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_$PD(a, b, c);
#elif defined(__aarch64__)
  return (Lanes)vfmaq_$NEON(($NEON_TYPE)c, ($NEON_TYPE)a, ($NEON_TYPE)b);
#else
  return a * b + c;
#endif
}

// The larger, the smaller; a NaN in v stays.
inline Lanes larger(real bound, Lanes v) { return v < all(bound) ? all(bound) : v; }
inline Lanes smaller(real bound, Lanes v) { return v > all(bound) ? all(bound) : v; }

// exp, sigmoid and tanh, with the errors that timelike's own kernels have:
//
//   exp      <= 1.1 ULP for x in [$LOW, $HIGH]; outside, the value at the border
//   sigmoid  <= 2.6 ULP for x >= $LOW; below, the value at the border
//   tanh     <= $TANH_ULP ULP everywhere
//
// All three write K x = n ln 2 + K r with |K r| <= ln(2)/2, and
//
//   e^(K r) = (c + r) / (c - r),    c = r coth(K r/2) = 2/K + y g(y),    y = r^2
//
// where c is even in r, so that a short polynomial g is enough.
constexpr real exp_low = $LOW, exp_high = $HIGH, tanh_range = $TANH_RANGE;

struct Reduced {
  Lanes r, scale, y, g;  // scale = 2^(n + E)
};

template <int K, int E>
inline Reduced reduce(Lanes x) {
  constexpr real rounder = real($ROUNDER) + real($BIAS + E);  // adding it rounds to an integer
  constexpr real log2e = real(1.44269504088896340736), ln2 = real(0.693147180559945309417);
  constexpr real ln2_high = real($LN2_HIGH), ln2_low = real($LN2_LOW);
  constexpr double k = K < 0 ? -K : K;
  Lanes n = multiply_add(x, all(K * log2e), all(rounder));
  // The sum has n + E and the bias of exponents in its low bits: a shift makes it 2^(n + E).
  const Lanes scale = number_of(bits_of(n) << $SHIFT);
  n = n - rounder;
  if constexpr (K == 2) {  // what is lost of ln 2 matters for large n alone, and tanh(x) is 1 there
    x = multiply_add(n, all(-ln2 / K), x);
  } else {  // in two parts, so that n ln2_high is exact
    x = multiply_add(n, all(-ln2_high / K), x);
    x = multiply_add(n, all(-ln2_low / K), x);
  }
  const Lanes y = x * x;
$POLYNOMIAL
  return {x, scale, y, g};
}

// e^r = 1 + r + r (r - d) / (c - r) with d = c - 2: the last term is small, and so are its errors.
inline Lanes exp(Lanes x) {
  const Reduced p = reduce<1, 0>(smaller(exp_high, larger(exp_low, x)));
  const Lanes d = p.y * p.g;
  const Lanes expm1 = multiply_add((p.r - d) / (real(2) + d - p.r), p.r, p.r);
  return multiply_add(expm1, p.scale, p.scale);
}

// 1 / (1 + e^-x), with e^-x = scale (c - r) / (c + r).
inline Lanes sigmoid(Lanes x) {
  const Reduced p = reduce<-1, 0>(smaller(-exp_low, larger(exp_low, x)));
  const Lanes c = multiply_add(p.g, p.y, all(2));
  const Lanes numerator = c + p.r;
  return numerator / multiply_add(c - p.r, p.scale, numerator);
}

// (e^2x - 1) / (e^2x + 1) of |x|, with e^2x = s (c + r) / (c - r), all taken by half; then the sign.
inline Lanes tanh(Lanes x) {
  const Bits sign = bits_of(x) & bits_of(all(real(-0.0)));
  const Reduced p = reduce<2, -1>(smaller(tanh_range, number_of(bits_of(x) ^ sign)));
  const Lanes c = multiply_add(p.g, p.y, all(1));
  const Lanes numerator = multiply_add(p.scale - real(0.5), c, (p.scale + real(0.5)) * p.r);
  return number_of(bits_of(numerator / (numerator + (c - p.r))) | sign);
}
