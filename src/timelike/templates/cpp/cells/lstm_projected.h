// LSTM with a projection (Sak, Senior & Beaufays 2014), gates i f g o. a = W x + U h_prev + b:
//
//   i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)
//   c = f c_prev + i g                  h = P (o tanh(c))
template <class Layer>
inline void lstm_projected(const real* x, real* h, real* c) {
  constexpr int H = Layer::units, R = Layer::state_size;
  real a[padded(4 * H) + most_lanes] = {}, m[padded(H)];
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh, a);
  for (int u = 0; u < H; u += lanes) {
    const Lanes i = sigmoid(load(a + u)), f = sigmoid(load(a + H + u));
    const Lanes g = tanh(load(a + 2 * H + u)), o = sigmoid(load(a + 3 * H + u));
    const Lanes c_new = multiply_add(f, load(c + u), i * g);
    store(c + u, c_new);
    store(m + u, o * tanh(c_new));
  }
  for (int r = 0; r < padded(R); ++r) h[r] = 0;
  add_product(m, Layer::weight_hr, h);
}
