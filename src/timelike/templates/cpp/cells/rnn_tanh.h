// Simple recurrent layer (Elman 1990): h = tanh(W x + U h_prev + b).
template <class Layer>
inline void rnn_tanh(const real* x, real* h) {
  real a[padded(Layer::units)];
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh, a);
  for (int u = 0; u < Layer::units; u += lanes) store(h + u, tanh(load(a + u)));
}
