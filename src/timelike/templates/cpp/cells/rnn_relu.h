// Simple recurrent layer with rectifier: h = max(0, W x + U h_prev + b).
template <class Layer>
inline void rnn_relu(const real* x, real* h) {
  real a[padded(Layer::units)];
  copy(Layer::bias, a);
  add_product(x, Layer::weight_ih, a);
  add_product(h, Layer::weight_hh, a);
  for (int u = 0; u < Layer::units; u += lanes) store(h + u, larger(0, load(a + u)));
}
