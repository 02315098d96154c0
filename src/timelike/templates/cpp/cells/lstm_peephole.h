// LSTM with peepholes (Gers & Schmidhuber 2000), gates i f g o: weights p, one for each unit, from the cell
// state to the gates; the output gate sees the new one. a = W x + U h_prev + b:
//
//   i, f = sigmoid(a_i + p_i c_prev, a_f + p_f c_prev)    g = tanh(a_g)
//   c = f c_prev + i g
//   o = sigmoid(a_o + p_o c)                              h = o tanh(c)
template <class Layer>
inline void lstm_peephole(const real* x, real* h, real* c) {
  constexpr int H = Layer::units;
  real a[padded(4 * H) + most_lanes] = {};
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh, a);
  for (int u = 0; u < H; u += lanes) {
    const Lanes c_prev = load(c + u);
    const Lanes i = sigmoid(multiply_add(load(Layer::peephole_i + u), c_prev, load(a + u)));
    const Lanes f = sigmoid(multiply_add(load(Layer::peephole_f + u), c_prev, load(a + H + u)));
    const Lanes g = tanh(load(a + 2 * H + u));
    const Lanes c_new = multiply_add(f, c_prev, i * g);
    const Lanes o = sigmoid(multiply_add(load(Layer::peephole_o + u), c_new, load(a + 3 * H + u)));
    store(c + u, c_new);
    store(h + u, o * tanh(c_new));
  }
}
