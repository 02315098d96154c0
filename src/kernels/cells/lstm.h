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

  // Gates: a on entry, their values on return.
  template <class T>
  static TIMELIKE_INLINE void forward(Vec<T> (&gate)[G], Vec<T>& c, Vec<T>& h) {
    const Vec<T> i = sigmoid<T>(gate[0]), f = sigmoid<T>(gate[1]), g = tanh<T>(gate[2]), o = sigmoid<T>(gate[3]);
    c = fma(f, c, i * g);
    h = o * tanh<T>(c);
    gate[0] = i, gate[1] = f, gate[2] = g, gate[3] = o;
  }

  // da (dL/da of each gate) from the tape and dL/dh; dc: carried from step t+1 on entry, to t-1 on return.
  template <class T>
  static TIMELIKE_INLINE void backward(const Vec<T> (&gate)[G], Vec<T> c_previous, Vec<T> c, Vec<T> dh, Vec<T>& dc,
                                       Vec<T> (&da)[G]) {
    const Vec<T> i = gate[0], f = gate[1], g = gate[2], o = gate[3];
    const Vec<T> tanh_c = tanh<T>(c);
    const Vec<T> dh_o = dh * o;
    dc = fma(-dh_o * tanh_c, tanh_c, dh_o + dc);
    const Vec<T> one = broadcast(T(1));
    da[0] = dc * g * (i * (one - i));
    da[1] = dc * c_previous * (f * (one - f));
    da[2] = dc * i * fma(-g, g, one);
    da[3] = dh * tanh_c * (o * (one - o));
    dc = dc * f;
  }
};

}  // namespace TIMELIKE_ISA
}  // namespace timelike
