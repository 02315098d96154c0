@relu
inline Lanes relu(Lanes x) { return larger(0, x); }
@elu
// x, or e^x - 1 where x < 0: by tanh, which is accurate near 0
inline Lanes elu(Lanes x) {
  const Lanes t = tanh(smaller(0, x) * real(0.5));
  return x > all(0) ? x : real(2) * t / (real(1) - t);
}
@gelu
// x Phi(x), Phi of the normal distribution
inline Lanes gelu(Lanes x) {
  real at[lanes];
  store(at, x);
  constexpr real root_half = real(0.70710678118654752440);
  for (int l = 0; l < lanes; ++l) at[l] *= real(0.5) * (real(1) + std::erf(at[l] * root_half));
  return load(at);
}
@silu
inline Lanes silu(Lanes x) { return x * sigmoid(x); }
@softsign
inline Lanes softsign(Lanes x) { return x / (real(1) + larger(0, x) + larger(0, -x)); }
@symmrelu
// |x|
inline Lanes symmrelu(Lanes x) { return larger(0, x) + larger(0, -x); }
@gauss
// exp(-x^2)
inline Lanes gauss(Lanes x) { return exp(-(x * x)); }
