// LSTM with forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000), no peepholes.
// Gate order i f g o, as in torch.nn; g is the candidate. a = W x + U h_{t-1} + b:
//
//   i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)
//   c = f c_{t-1} + i g                 h = o tanh(c)
#pragma once

#include "../math.h"

namespace timelike {
namespace TIMELIKE_ISA {

struct LSTM {
  static constexpr int G = 4;

  // M registers of units at once. Gates: a on entry, their values on return; c: c_{t-1}, then c.
  template <class T, int M>
  static TIMELIKE_INLINE void forward(Vec<T> (&gate)[G][M], Vec<T> (&c)[M], Vec<T> (&h)[M]) {
    auto &i = gate[0], &f = gate[1], &g = gate[2], &o = gate[3];
    sigmoid<T, M>(i), tanh<T, M>(g), sigmoid<T, M>(f), sigmoid<T, M>(o);
    for (int m = 0; m < M; ++m) c[m] = h[m] = fma(f[m], c[m], i[m] * g[m]);
    tanh<T, M>(h);
    for (int m = 0; m < M; ++m) h[m] = o[m] * h[m];
  }

  // da (dL/da of each gate) from the tape and dL/dh; dc: carried from step t+1 on entry, to t-1 on return.
  template <class T, int M>
  static TIMELIKE_INLINE void backward(const Vec<T> (&gate)[G][M], const Vec<T> (&c_previous)[M],
                                       const Vec<T> (&c)[M], const Vec<T> (&dh)[M], Vec<T> (&dc)[M],
                                       Vec<T> (&da)[G][M]) {
    const auto &i = gate[0], &f = gate[1], &g = gate[2], &o = gate[3];
    const Vec<T> one = broadcast(T(1));
    Vec<T> tanh_c[M];
    for (int m = 0; m < M; ++m) tanh_c[m] = c[m];
    tanh<T, M>(tanh_c);
    for (int m = 0; m < M; ++m) {
      const Vec<T> dh_o = dh[m] * o[m];
      dc[m] = fma(-dh_o * tanh_c[m], tanh_c[m], dh_o + dc[m]);
      da[0][m] = dc[m] * g[m] * (i[m] * (one - i[m]));
      da[1][m] = dc[m] * c_previous[m] * (f[m] * (one - f[m]));
      da[2][m] = dc[m] * i[m] * fma(-g[m], g[m], one);
      da[3][m] = dh[m] * tanh_c[m] * (o[m] * (one - o[m]));
      dc[m] = dc[m] * f[m];
    }
  }
};

}  // namespace TIMELIKE_ISA
}  // namespace timelike
