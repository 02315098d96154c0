// Simple recurrent network (Elman 1990): a = W x + U h_{t-1} + b, h = tanh(a) or max(0, a).
// The slope of the rectifier at 0 is taken as 0.
#pragma once

#include "cell.h"

namespace timelike {
namespace TIMELIKE_ISA {

struct RNN : PlainCell {
  static constexpr int slots = 1, gates = 1, tape_gates = 0;  // h is all that backward needs
  static constexpr Range input{0, 1}, state{0, 1};
  static constexpr int gate[slots] = {0}, tape_place[slots] = {0};
  static constexpr bool reads_output = true;
};

struct RNNTanh : RNN {
  static constexpr const char* name = "rnn_tanh";

  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<RNNTanh, T, M>& s) {
    for (int m = 0; m < M; ++m) s.h[m] = s.gate[0][m];
    tanh<T, M>(s.h);
  }

  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<RNNTanh, T, M>& s) {
    for (int m = 0; m < M; ++m) s.da[0][m] = s.dh[m] * fma(-s.now[m], s.now[m], broadcast(T(1)));
  }
};

struct RNNRelu : RNN {
  static constexpr const char* name = "rnn_relu";

  template <class T, int M>
  static TIMELIKE_INLINE void forward(ForwardStep<RNNRelu, T, M>& s) {
    for (int m = 0; m < M; ++m) s.h[m] = larger(broadcast(T(0)), s.gate[0][m]);
  }

  template <class T, int M>
  static TIMELIKE_INLINE void backward(BackwardStep<RNNRelu, T, M>& s) {
    for (int m = 0; m < M; ++m) s.da[0][m] = s.now[m] > T(0) ? s.dh[m] : Vec<T>{};
  }
};

}  // namespace TIMELIKE_ISA
}  // namespace timelike
