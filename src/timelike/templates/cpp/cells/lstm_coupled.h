// LSTM whose forget gate is 1 - i (Greff et al. 2017), gates i g o. a = W x + U h_prev + b:
//
//   i, o = sigmoid(a_i, a_o)         g = tanh(a_g)
//   c = (1 - i) c_prev + i g         h = o tanh(c)
template <class Layer>
inline void lstm_coupled(const real* x, real* h, real* c) {
  constexpr int H = Layer::units;
  real a[padded(3 * H) + most_lanes] = {};
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh, a);
  for (int u = 0; u < H; u += lanes) {
    const Lanes i = sigmoid(load(a + u)), g = tanh(load(a + H + u)), o = sigmoid(load(a + 2 * H + u));
    const Lanes c_new = multiply_add(i, g, (real(1) - i) * load(c + u));
    store(c + u, c_new);
    store(h + u, o * tanh(c_new));
  }
}
