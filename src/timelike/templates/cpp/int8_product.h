
template <int Inputs, int Columns>
inline void add_product(const real* x, const ScaledMatrix<Inputs, Columns>& w, real* sums) {
  real own[Columns] = {};
  add_product(x, w.numbers, own);
  for (int j = 0; j < Columns; j += lanes)
    store(sums + j, multiply_add(load(own + j), load(w.scale + j), load(sums + j)));
}
