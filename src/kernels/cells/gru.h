// GRU (Cho et al. 2014), gates r z n as in torch.nn: h = (1 - z) n + z h_{t-1}.
#pragma once

#include "cell.h"

namespace timelike {
namespace TIMELIKE_ISA {

// Reset after: n = tanh(W_n x + b_in + r (U_n h_{t-1} + b_hn)). The candidate's two sums are kept apart, in
// the slots n r z u with u = U_n h_{t-1} + b_hn, so that W feeds the first three and U the last three.
struct GRU : PlainCell {
  static constexpr const char* name = "gru";
  static constexpr int slots = 4, gates = 3, tape_gates = 4;
  static constexpr Range input{0, 3}, state{1, 3};
  static constexpr int gate[slots] = {2, 0, 1, 2}, tape_place[slots] = {2, 0, 1, 3};
  static constexpr bool two_biases = true, reads_state = true;

  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<GRU, T, M>& s) {
    auto &n = s.gate[0], &r = s.gate[1], &z = s.gate[2], &u = s.gate[3];
    sigmoid<T, M>(r), sigmoid<T, M>(z);
    for (int m = 0; m < M; ++m) n[m] = fma(r[m], u[m], n[m]);
    tanh<T, M>(n);
    for (int m = 0; m < M; ++m) s.h[m] = fma(z[m], s.state[m], (T(1) - z[m]) * n[m]);
  }

  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<GRU, T, M>& s) {
    const auto &n = s.gate[0], &r = s.gate[1], &z = s.gate[2], &u = s.gate[3];
    const Vec<T> one = broadcast(T(1));
    for (int m = 0; m < M; ++m) {
      const Vec<T> da_n = s.dh[m] * (one - z[m]) * fma(-n[m], n[m], one);
      s.da[0][m] = da_n;
      s.da[1][m] = da_n * u[m] * (r[m] * (one - r[m]));
      s.da[2][m] = s.dh[m] * (s.past[m] - n[m]) * (z[m] * (one - z[m]));
      s.da[3][m] = da_n * r[m];
      s.carried[m] = s.dh[m] * z[m];
    }
  }
};

// Reset before: n = tanh(W_n x + U_n (r h_{t-1}) + b). The reset of all units stands before the product with
// U_n, so that a step has two halves, forward and backward.
struct GRUResetBefore : PlainCell {
  static constexpr const char* name = "gru_reset_before";
  static constexpr int slots = 3, gates = 3, tape_gates = 3;
  static constexpr Range input{0, 3}, state{1, 2};  // slots n r z; U_n comes later
  static constexpr int gate[slots] = {2, 0, 1}, tape_place[slots] = {2, 0, 1};
  static constexpr bool reset_before = true, reads_state = true;

  // h: r h_{t-1}, which U_n is multiplied with. The slot of n still lacks that product.
  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<GRUResetBefore, T, M>& s) {
    sigmoid<T, M>(s.gate[1]), sigmoid<T, M>(s.gate[2]);
    for (int m = 0; m < M; ++m) s.h[m] = s.gate[1][m] * s.state[m];
  }
  template <class T>
  static TIMELIKE_INLINE Vec<T> finish(Vec<T> (&n)[1], Vec<T> z, Vec<T> h_past) {
    tanh<T, 1>(n);
    return fma(z, h_past, (T(1) - z) * n[0]);
  }

  // The slot of r still lacks its gradient: it comes through U_n.
  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<GRUResetBefore, T, M>& s) {
    const auto &n = s.gate[0], &r = s.gate[1], &z = s.gate[2];
    const Vec<T> one = broadcast(T(1));
    for (int m = 0; m < M; ++m) {
      s.da[0][m] = s.dh[m] * (one - z[m]) * fma(-n[m], n[m], one);
      s.da[1][m] = Vec<T>{};
      s.da[2][m] = s.dh[m] * (s.past[m] - n[m]) * (z[m] * (one - z[m]));
      s.carried[m] = s.dh[m] * z[m];
      s.inner[m] = r[m] * s.past[m];
    }
  }
  // d_inner: of r h_{t-1}. Returns da_r and adds to the carried dh_{t-1}.
  template <class T>
  static TIMELIKE_INLINE Vec<T> finish_backward(Vec<T> r, Vec<T> h_past, Vec<T> d_inner, Vec<T>& carried) {
    carried = fma(d_inner, r, carried);
    return d_inner * h_past * (r * (T(1) - r));
  }
};

}  // namespace TIMELIKE_ISA
}  // namespace timelike
