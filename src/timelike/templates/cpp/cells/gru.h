// GRU (Cho et al. 2014), reset after the product, gates r z n:
//
//   r, z = sigmoid(W x + U h_prev + b)
//   n = tanh(W_n x + b_n + r (U_n h_prev + b_hn))
//   h = (1 - z) n + z h_prev
template <class Layer>
inline void gru(const real* x, real* h) {
  constexpr int H = Layer::units;
  real a[padded(3 * H) + most_lanes] = {}, inner[padded(H)];
  copy(Layer::bias, a);
  copy(Layer::bias_hn, inner);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh_rz, a);
  add_product(h, Layer::weight_hn, inner);
  for (int u = 0; u < H; u += lanes) {
    const Lanes r = sigmoid(load(a + u)), z = sigmoid(load(a + H + u));
    const Lanes n = tanh(multiply_add(r, load(inner + u), load(a + 2 * H + u)));
    store(h + u, multiply_add(z, load(h + u), (real(1) - z) * n));
  }
}
