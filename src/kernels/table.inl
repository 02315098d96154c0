// The table of one instruction set. Included once by each of baseline.cpp, avx2.cpp, ...
#include "backward.h"
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

namespace timelike {
namespace TIMELIKE_ISA {

template <class Cell, class T>
constexpr Layer<T> layer() {
  return {Cell::name,
          Cell::gates,
          Cell::tape_gates,
          forward_size<Cell, T>,
          backward_size<Cell, T>,
          pack_forward<Cell, T>,
          pack_backward<Cell, T>,
          forward<Cell, T>,
          backward<Cell, T>};
}

template <class T, void (*function)(Vec<T> (&)[1])>
void map(const T* x, T* y, int64_t n) {
  constexpr int L = Lanes<T>::count;
  for (int64_t i = 0; i < n; i += L) {
    const int lanes = int(std::min<int64_t>(L, n - i));
    Vec<T> v[1] = {load(x + i, lanes)};
    function(v);
    store(y + i, v[0], lanes);
  }
}

template <class T>
int64_t multiply_adds(int64_t n) {
  constexpr int chains = 12;  // of dependent operations: enough for any processor, and all in registers
  Vec<T> sum[chains];
  TIMELIKE_EACH(j, chains) sum[j] = broadcast(T(j));
  const Vec<T> a = broadcast(T(0.999)), b = broadcast(T(0.001));
  int64_t done = 0;
  for (; done < n; done += chains * Lanes<T>::count)
    TIMELIKE_EACH(j, chains) sum[j] = fma(a, sum[j], b);
  [[maybe_unused]] static volatile T sink;  // or the compiler would see that nobody wants it
  TIMELIKE_EACH(j, chains) sink = sum[j][0];
  return done;
}

template <class T>
constexpr Functions<T> functions() {
  return {map<T, exp<T, 1>>, map<T, sigmoid<T, 1>>, map<T, tanh<T, 1>>, multiply_adds<T>};
}

template <class... Cells>
constexpr Table table_of() {
  return {TIMELIKE_ISA_NAME,
          {layer<Cells, float>()...},
          {layer<Cells, double>()...},
          functions<float>(),
          functions<double>()};
}

}  // namespace TIMELIKE_ISA

const Table TIMELIKE_TABLE =
    TIMELIKE_ISA::table_of<TIMELIKE_ISA::RNNTanh, TIMELIKE_ISA::RNNRelu, TIMELIKE_ISA::LSTM,
                           TIMELIKE_ISA::LSTMPeephole, TIMELIKE_ISA::LSTMCoupled, TIMELIKE_ISA::LSTMProjected,
                           TIMELIKE_ISA::GRU, TIMELIKE_ISA::GRUResetBefore>();

}  // namespace timelike
