// GRU (Cho et al. 2014), reset before the product, gates r z n:
//
//   r, z = sigmoid(W x + U h_prev + b)
//   n = tanh(W_n x + b_n + U_n (r h_prev))
//   h = (1 - z) n + z h_prev
template <class Layer>
inline void gru_reset_before(const real* x, real* h) {
  constexpr int H = Layer::units;
  real a[padded(3 * H) + most_lanes] = {}, kept[padded(H)], inner[padded(H)] = {};
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh_rz, a);
  for (int u = 0; u < H; u += lanes) store(kept + u, sigmoid(load(a + u)) * load(h + u));
  add_product(kept, Layer::weight_hn, inner);
  for (int u = 0; u < H; u += lanes) {
    const Lanes z = sigmoid(load(a + H + u)), n = tanh(load(a + 2 * H + u) + load(inner + u));
    store(h + u, multiply_add(z, load(h + u), (real(1) - z) * n));
  }
}
