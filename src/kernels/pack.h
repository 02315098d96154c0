// Weights as the register tiles read them.
//
// Widths: L lanes, P = ceil(H / L) panels of units, HP = P L units with padding, RP the same for the hidden
// state. A panel's numbers for one input stand side by side, one register per slot of the cell.
//
// Packed for forward, per panel:  [slots][L] biases, [diagonals][L] peepholes, then one line [input slots][L]
//                                 per input and one line [state slots][L] per number of the hidden state
// and behind the panels           the second product: the projection, or U_n of reset-before
// Packed for backward:            U, then W, then the second product, in column panels (gemm.h) with K in the
//                                 order [panel][slot][L]; then the peepholes
// Padding lanes hold zero weights, so padded units stay at h = c = 0 and their gradients at 0.
#pragma once

#include "cells/cell.h"
#include "gemm.h"

namespace timelike {
namespace TIMELIKE_ISA {

template <class T>
int64_t panels_of(int64_t units) {
  return (units + Lanes<T>::count - 1) / Lanes<T>::count;
}

template <class T>
int64_t padded(int64_t units) {
  return panels_of<T>(units) * Lanes<T>::count;
}

template <class Cell, class T>
struct ForwardLayout {
  static constexpr int L = Lanes<T>::count;
  static constexpr int64_t S = Cell::slots * L, input_line = Cell::input.count * L,
                           state_line = Cell::state.count * L;
  int64_t diagonals, input, state, panel;  // offsets in a panel, and from panel to panel
  int64_t second, size;                    // offset of the second product, and of the end

  ForwardLayout(int64_t D, int64_t H, int64_t R)
      : diagonals(S),
        input(diagonals + Cell::diagonals * L),
        state(input + D * input_line),
        panel(state + R * state_line),
        second(panels_of<T>(H) * panel),
        size(second + (Cell::projected      ? column_packed_size<T>(padded<T>(H), R)
                       : Cell::reset_before ? column_packed_size<T>(padded<T>(H), H)
                                            : 0)) {}
};

template <class Cell, class T>
struct BackwardLayout {
  int64_t W, second, diagonals, size;  // U stands at 0

  BackwardLayout(int64_t D, int64_t H, int64_t R)
      : W(column_packed_size<T>(padded<T>(H) * Cell::state.count, R)),
        second(W + column_packed_size<T>(padded<T>(H) * Cell::input.count, D)),
        diagonals(second + (Cell::projected      ? column_packed_size<T>(padded<T>(R), H)
                            : Cell::reset_before ? column_packed_size<T>(padded<T>(H), H)
                                                 : 0)),
        size(diagonals + padded<T>(H) * Cell::diagonals) {}
};

template <class Cell, class T>
int64_t forward_size(int64_t D, int64_t H, int64_t R) {
  return ForwardLayout<Cell, T>(D, H, R).size;
}

template <class Cell, class T>
int64_t backward_size(int64_t D, int64_t H, int64_t R) {
  return BackwardLayout<Cell, T>(D, H, R).size;
}

// `real` rows of a matrix with K columns become lanes: to[k][lane] = row[lane][k], lines apart by `line`.
template <class T>
void pack_lanes(const T* matrix, int64_t K, int real, int64_t line, T* to) {
  constexpr int L = Lanes<T>::count;
  if (real == L) {
    for (int64_t k = 0; k < K; ++k, to += line)
      for (int l = 0; l < L; ++l) to[l] = matrix[l * K + k];
  } else {
    for (int64_t k = 0; k < K; ++k, to += line)
      for (int l = 0; l < L; ++l) to[l] = l < real ? matrix[l * K + k] : T(0);
  }
}

// A matrix in column panels: line k of it is where(k), numbers `apart`, or zeros where that is null.
template <class T, class Where>
void pack_columns(int64_t K, int64_t columns, int64_t apart, T* to, Where where) {
  constexpr int64_t width = kPanelColumns<T>;
  for (int64_t column = 0; column < columns; column += width) {
    const int64_t n = std::min(width, columns - column);
    for (int64_t k = 0; k < K; ++k, to += width) {
      const T* from = where(k);
      if (from && n == width && apart == 1)
        for (int64_t j = 0; j < width; ++j) to[j] = from[column + j];
      else if (from && apart == 1)
        for (int64_t j = 0; j < width; ++j) to[j] = j < n ? from[column + j] : T(0);
      else
        for (int64_t j = 0; j < width; ++j) to[j] = from && j < n ? from[(column + j) * apart] : T(0);
    }
  }
}

// The lines of a [G H, columns] matrix in the order [panel][slot][L] of the slots in `range`.
template <class Cell, class T>
void pack_gradient_columns(const T* matrix, int64_t H, int64_t columns, Range range, T* to) {
  constexpr int L = Lanes<T>::count;
  pack_columns(panels_of<T>(H) * range.count * L, columns, 1, to, [=](int64_t k) -> const T* {
    const int64_t unit = k / (range.count * L) * L + k % L;
    const int slot = range.first + int(k / L % range.count);
    return unit < H ? matrix + (Cell::gate[slot] * H + unit) * columns : nullptr;
  });
}

template <class T>
T bias(const T* b, int64_t row) {
  return b ? b[row] : T(0);
}

// Peepholes, [diagonals][L] per panel, panels `apart`.
template <class Cell, class T>
void pack_diagonals(const Weights<T>& w, T* to, int64_t apart) {
  constexpr int L = Lanes<T>::count;
  for (int d = 0; d < Cell::diagonals; ++d)
    for (int64_t unit = 0; unit < padded<T>(w.H); ++unit)
      to[unit / L * apart + d * L + unit % L] = unit < w.H && w.peephole ? w.peephole[d * w.H + unit] : T(0);
}

template <class Cell, class T>
void pack_forward(const Weights<T>& w, T* packed) {
  constexpr int L = Lanes<T>::count;
  using Layout = ForwardLayout<Cell, T>;
  const Layout at(w.D, w.H, w.R);
  for (int64_t p = 0; p < panels_of<T>(w.H); ++p) {
    T* panel = packed + p * at.panel;
    const int real = int(std::min<int64_t>(L, w.H - p * L));
    for (int s = 0; s < Cell::slots; ++s) {
      const int64_t row = Cell::gate[s] * w.H + p * L;
      const int input = s - Cell::input.first, state = s - Cell::state.first;
      const bool from_x = input >= 0 && input < Cell::input.count;
      const bool from_h = state >= 0 && state < Cell::state.count;
      for (int l = 0; l < L; ++l) {
        T sum = T(0);
        if (l < real && (from_x || !Cell::two_biases)) sum = bias(w.b_ih, row + l);
        if (l < real && (from_h || !Cell::two_biases)) sum += bias(w.b_hh, row + l);
        panel[s * L + l] = sum;
      }
      if (from_x) pack_lanes(w.W + row * w.D, w.D, real, Layout::input_line, panel + at.input + input * L);
      if (from_h) pack_lanes(w.U + row * w.R, w.R, real, Layout::state_line, panel + at.state + state * L);
    }
  }
  pack_diagonals<Cell>(w, packed + at.diagonals, at.panel);
  const int64_t H = w.H, HP = padded<T>(H);
  if constexpr (Cell::projected)
    pack_columns(HP, w.R, H, packed + at.second,
                 [&](int64_t unit) { return unit < H ? w.projection + unit : nullptr; });
  if constexpr (Cell::reset_before) {
    const T* U_n = w.U + Cell::gate[0] * H * H;
    pack_columns(HP, H, H, packed + at.second, [=](int64_t unit) { return unit < H ? U_n + unit : nullptr; });
  }
}

template <class Cell, class T>
void pack_backward(const Weights<T>& w, T* packed) {
  const BackwardLayout<Cell, T> at(w.D, w.H, w.R);
  pack_gradient_columns<Cell>(w.U, w.H, w.R, Cell::state, packed);
  pack_gradient_columns<Cell>(w.W, w.H, w.D, Cell::input, packed + at.W);
  if constexpr (Cell::projected)
    pack_columns(padded<T>(w.R), w.H, 1, packed + at.second,
                 [&](int64_t r) { return r < w.R ? w.projection + r * w.H : nullptr; });
  if constexpr (Cell::reset_before)
    pack_gradient_columns<Cell>(w.U, w.H, w.H, Range{0, 1}, packed + at.second);
  pack_diagonals<Cell>(w, packed + at.diagonals, Cell::diagonals * Lanes<T>::count);
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
