// -- Products -----------------------------------------------------------------------------------------------
//
// A matrix lies line by line: line k is what input k adds to all columns, a column being a row of the
// trained matrix (a unit of a gate). Lines are padded with zeros to full registers.

template <class T, int Inputs, int Columns>
struct Matrix {
  T at[Inputs * Columns];
};

$STORED
// `M` registers of columns: sums[j] += sum_k x[k] w[k][j], in the order of k.
template <int M, int Inputs, int Columns, class T>
inline void add_registers(const real* x, const T* w, real* sums) {
  Lanes sum[M];
  TIMELIKE_UNROLL for (int m = 0; m < M; ++m) sum[m] = load(sums + m * lanes);
  for (int k = 0; k < Inputs; ++k, w += Columns) {
    const Lanes x_k = all(x[k]);
    TIMELIKE_UNROLL for (int m = 0; m < M; ++m) sum[m] = multiply_add(x_k, weights_at(w + m * lanes), sum[m]);
  }
  TIMELIKE_UNROLL for (int m = 0; m < M; ++m) store(sums + m * lanes, sum[m]);
}

// sums += x W.  x [Inputs], sums [Columns]
template <class T, int Inputs, int Columns>
inline void add_product(const real* x, const Matrix<T, Inputs, Columns>& w, real* sums) {
  constexpr int registers = Columns / lanes, together = 8, rest = registers % together;
  for (int r = 0; r + together <= registers; r += together)
    add_registers<together, Inputs, Columns>(x, w.at + r * lanes, sums + r * lanes);
  if constexpr (rest > 0)
    add_registers<rest, Inputs, Columns>(x, w.at + (Columns - rest * lanes), sums + (Columns - rest * lanes));
}

template <int N>
inline void copy(const real (&from)[N], real* to) {
  for (int j = 0; j < N; ++j) to[j] = from[j];
}
