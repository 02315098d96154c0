// LSTM with forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000) and its variants.
// Gate order i f g o, as in torch.nn; g is the candidate. a = W x + U h_{t-1} + b:
//
//   i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)
//   c = f c_{t-1} + i g                 h = o tanh(c)
#pragma once

#include "cell.h"

namespace timelike {
namespace TIMELIKE_ISA {

// `Self` is the cell as the time loop knows it.
template <class Self>
struct LSTMGates : PlainCell {
  static constexpr int slots = 4, gates = 4, tape_gates = 4;
  static constexpr Range input{0, 4}, state{0, 4};
  static constexpr int gate[slots] = {0, 1, 2, 3}, tape_place[slots] = {0, 1, 2, 3};
  static constexpr bool cell_state = true;

  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<Self, T, M>& s) {
    auto &i = s.gate[0], &f = s.gate[1], &g = s.gate[2], &o = s.gate[3];
    sigmoid<T, M>(i), tanh<T, M>(g), sigmoid<T, M>(f), sigmoid<T, M>(o);
    for (int m = 0; m < M; ++m) s.state[m] = s.h[m] = fma(f[m], s.state[m], i[m] * g[m]);
    tanh<T, M>(s.h);
    for (int m = 0; m < M; ++m) s.h[m] = o[m] * s.h[m];
  }

  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<Self, T, M>& s) {
    const auto &i = s.gate[0], &f = s.gate[1], &g = s.gate[2], &o = s.gate[3];
    const Vec<T> one = broadcast(T(1));
    Vec<T> tanh_c[M];
    for (int m = 0; m < M; ++m) tanh_c[m] = s.now[m];
    tanh<T, M>(tanh_c);
    for (int m = 0; m < M; ++m) {
      const Vec<T> dh_o = s.dh[m] * o[m];
      const Vec<T> dc = s.dc[m] = fma(-dh_o * tanh_c[m], tanh_c[m], dh_o + s.carried[m]);
      s.da[0][m] = dc * g[m] * (i[m] * (one - i[m]));
      s.da[1][m] = dc * s.past[m] * (f[m] * (one - f[m]));
      s.da[2][m] = dc * i[m] * fma(-g[m], g[m], one);
      s.da[3][m] = s.dh[m] * tanh_c[m] * (o[m] * (one - o[m]));
      s.carried[m] = dc * f[m];
      s.inner[m] = o[m] * tanh_c[m];
    }
  }
};

struct LSTM : LSTMGates<LSTM> {
  static constexpr const char* name = "lstm";
};

// h = P (o tanh(c)) (Sak, Senior & Beaufays 2014), as torch.nn's proj_size.
struct LSTMProjected : LSTMGates<LSTMProjected> {
  static constexpr const char* name = "lstm_projected";
  static constexpr bool projected = true;
};

// i and f see c_{t-1}, o sees c_t, each through a weight per unit (Gers & Schmidhuber 2000).
struct LSTMPeephole : LSTMGates<LSTMPeephole> {
  static constexpr const char* name = "lstm_peephole";
  static constexpr int diagonals = 3;

  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<LSTMPeephole, T, M>& s) {
    auto &i = s.gate[0], &f = s.gate[1], &g = s.gate[2], &o = s.gate[3];
    for (int m = 0; m < M; ++m) {
      i[m] = fma(s.diagonal[0][m], s.state[m], i[m]);
      f[m] = fma(s.diagonal[1][m], s.state[m], f[m]);
    }
    sigmoid<T, M>(i), tanh<T, M>(g), sigmoid<T, M>(f);
    for (int m = 0; m < M; ++m) {
      s.state[m] = s.h[m] = fma(f[m], s.state[m], i[m] * g[m]);
      o[m] = fma(s.diagonal[2][m], s.state[m], o[m]);
    }
    sigmoid<T, M>(o), tanh<T, M>(s.h);
    for (int m = 0; m < M; ++m) s.h[m] = o[m] * s.h[m];
  }

  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<LSTMPeephole, T, M>& s) {
    const auto &i = s.gate[0], &f = s.gate[1], &g = s.gate[2], &o = s.gate[3];
    const Vec<T> one = broadcast(T(1));
    Vec<T> tanh_c[M];
    for (int m = 0; m < M; ++m) tanh_c[m] = s.now[m];
    tanh<T, M>(tanh_c);
    for (int m = 0; m < M; ++m) {
      const Vec<T> dh_o = s.dh[m] * o[m];
      s.da[3][m] = s.dh[m] * tanh_c[m] * (o[m] * (one - o[m]));
      const Vec<T> dc = s.dc[m] =
          fma(s.diagonal[2][m], s.da[3][m], fma(-dh_o * tanh_c[m], tanh_c[m], dh_o + s.carried[m]));
      s.da[0][m] = dc * g[m] * (i[m] * (one - i[m]));
      s.da[1][m] = dc * s.past[m] * (f[m] * (one - f[m]));
      s.da[2][m] = dc * i[m] * fma(-g[m], g[m], one);
      s.carried[m] = fma(s.diagonal[0][m], s.da[0][m], fma(s.diagonal[1][m], s.da[1][m], dc * f[m]));
    }
  }
};

// f = 1 - i (Greff et al. 2017, CIFG); gates i g o.
struct LSTMCoupled : PlainCell {
  static constexpr const char* name = "lstm_coupled";
  static constexpr int slots = 3, gates = 3, tape_gates = 3;
  static constexpr Range input{0, 3}, state{0, 3};
  static constexpr int gate[slots] = {0, 1, 2}, tape_place[slots] = {0, 1, 2};
  static constexpr bool cell_state = true;

  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<LSTMCoupled, T, M>& s) {
    auto &i = s.gate[0], &g = s.gate[1], &o = s.gate[2];
    sigmoid<T, M>(i), tanh<T, M>(g), sigmoid<T, M>(o);
    for (int m = 0; m < M; ++m) s.state[m] = s.h[m] = fma(i[m], g[m], (T(1) - i[m]) * s.state[m]);
    tanh<T, M>(s.h);
    for (int m = 0; m < M; ++m) s.h[m] = o[m] * s.h[m];
  }

  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<LSTMCoupled, T, M>& s) {
    const auto &i = s.gate[0], &g = s.gate[1], &o = s.gate[2];
    const Vec<T> one = broadcast(T(1));
    Vec<T> tanh_c[M];
    for (int m = 0; m < M; ++m) tanh_c[m] = s.now[m];
    tanh<T, M>(tanh_c);
    for (int m = 0; m < M; ++m) {
      const Vec<T> dh_o = s.dh[m] * o[m];
      const Vec<T> dc = s.dc[m] = fma(-dh_o * tanh_c[m], tanh_c[m], dh_o + s.carried[m]);
      s.da[0][m] = dc * (g[m] - s.past[m]) * (i[m] * (one - i[m]));
      s.da[1][m] = dc * i[m] * fma(-g[m], g[m], one);
      s.da[2][m] = s.dh[m] * tanh_c[m] * (o[m] * (one - o[m]));
      s.carried[m] = dc * (one - i[m]);
    }
  }
};

}  // namespace TIMELIKE_ISA
}  // namespace timelike
