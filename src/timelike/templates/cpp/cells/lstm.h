// LSTM (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000), gates i f g o, of
// a = W x + U h_prev + b:
//
//   i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)
//   c = f c_prev + i g                  h = o tanh(c)
template <class Layer>
inline void lstm(const real* x, real* h, real* c) {
  constexpr int H = Layer::units;
  real a[padded(4 * H) + most_lanes] = {};
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh, a);
  for (int u = 0; u < H; u += lanes) {
    const Lanes i = sigmoid(load(a + u)), f = sigmoid(load(a + H + u));
    const Lanes g = tanh(load(a + 2 * H + u)), o = sigmoid(load(a + 3 * H + u));
    const Lanes c_new = multiply_add(f, load(c + u), i * g);
    store(c + u, c_new);
    store(h + u, o * tanh(c_new));
  }
}
