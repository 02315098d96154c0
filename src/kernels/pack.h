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

#include <utility>

#include "cells/cell.h"
#include "gemm.h"

namespace timelike {
namespace TIMELIKE_ISA {

// Weights of more bytes do not stay in the L2 cache.
constexpr int64_t kLarge = int64_t(4) << 20;

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

// Lanes 0, L, 1, L + 1, ... of two registers side by side, from the middle on with HIGH.
template <bool HIGH, class T, size_t... I>
TIMELIKE_INLINE Vec<T> zipped(Vec<T> a, Vec<T> b, std::index_sequence<I...>) {
  constexpr size_t L = sizeof...(I), from = HIGH ? L / 2 : 0;
#ifdef __clang__
  return __builtin_shufflevector(a, b, (I % 2 ? L + from + I / 2 : from + I / 2)...);
#else  // GCC knows the other name from release 12 on
  return __builtin_shuffle(a, b, typename Lanes<T>::ints{(I % 2 ? L + from + I / 2 : from + I / 2)...});
#endif
}

// Rows become columns: each round of zips exchanges one bit of a row's number for one of a lane's.
template <class T>
TIMELIKE_INLINE void transpose(Vec<T> (&rows)[Lanes<T>::count]) {
  constexpr int L = Lanes<T>::count;
  constexpr std::make_index_sequence<size_t(L)> lanes;
  TIMELIKE_EACH(bit, (L >= 16 ? 4 : L >= 8 ? 3 : L >= 4 ? 2 : 1)) {
    Vec<T> next[L];
    TIMELIKE_EACH(r, L / 2) {
      next[2 * r] = zipped<false, T>(rows[r], rows[r + L / 2], lanes);
      next[2 * r + 1] = zipped<true, T>(rows[r], rows[r + L / 2], lanes);
    }
    TIMELIKE_EACH(r, L) rows[r] = next[r];
  }
}

// `real` rows of a matrix with K columns become lanes: to[k][lane] = row[lane][k], lines apart by `line`.
template <class T>
void pack_lanes(const T* matrix, int64_t K, int real, int64_t line, T* to) {
  constexpr int L = Lanes<T>::count;
  for (int64_t k = 0; k < K; k += L) {
    const int n = int(std::min<int64_t>(L, K - k));
    Vec<T> rows[L];
    TIMELIKE_EACH(r, L) rows[r] = r < real ? load(matrix + r * K + k, n) : Vec<T>{};
    transpose<T>(rows);
    TIMELIKE_EACH(j, L)
      if (j < n) store(to + (k + j) * line, rows[j]);
  }
}

// L lines of a matrix, of which the first `real` exist: zeros stand for the others.
template <class T>
struct Piece {
  const T* at;
  int64_t real;
};

// A matrix in column panels: `pieces` of its lines, piece(q) each, lines apart by `line` and their numbers by
// `apart`.
template <class T, class PieceOf>
void pack_columns(int64_t pieces, int64_t columns, int64_t line, int64_t apart, T* to, PieceOf piece_of) {
  constexpr int L = Lanes<T>::count;
  constexpr int64_t width = kPanelColumns<T>;
  for (int64_t column = 0; column < columns; column += width) {
    const int64_t n = std::min(width, columns - column);
    for (int64_t q = 0; q < pieces; ++q) {
      const Piece<T> piece = piece_of(q);
      for (int64_t k = 0; k < L; ++k, to += width) {
        const T* from = piece.at + k * line + column * apart;
        if (apart == 1)
          for (int j = 0; j < kColumnGroup; ++j) {
            const int lanes = k < piece.real ? int(std::min<int64_t>(L, n - j * L)) : 0;
            store(to + j * L, lanes > 0 ? load(from + j * L, lanes) : Vec<T>{});
          }
        else
          for (int64_t j = 0; j < width; ++j) to[j] = k < piece.real && j < n ? from[j * apart] : T(0);
      }
    }
  }
}

// The lines of a [G H, columns] matrix in the order [panel][slot][L] of the slots in `range`.
template <class Cell, class T>
void pack_gradient_columns(const T* matrix, int64_t H, int64_t columns, Range range, T* to) {
  constexpr int L = Lanes<T>::count;
  pack_columns(panels_of<T>(H) * range.count, columns, columns, 1, to, [=](int64_t q) -> Piece<T> {
    const int64_t unit = q / range.count * L, slot = range.first + q % range.count;
    return {matrix + (Cell::gate[slot] * H + unit) * columns, H - unit};
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
  const int64_t H = w.H;
  const auto units_of = [H](const T* matrix) {
    return [=](int64_t q) { return Piece<T>{matrix + q * L, H - q * L}; };
  };
  if constexpr (Cell::projected)
    pack_columns(panels_of<T>(H), w.R, 1, H, packed + at.second, units_of(w.projection));
  if constexpr (Cell::reset_before)
    pack_columns(panels_of<T>(H), H, 1, H, packed + at.second, units_of(w.U + Cell::gate[0] * H * H));
}

template <class Cell, class T>
void pack_backward(const Weights<T>& w, T* packed) {
  const BackwardLayout<Cell, T> at(w.D, w.H, w.R);
  pack_gradient_columns<Cell>(w.U, w.H, w.R, Cell::state, packed);
  pack_gradient_columns<Cell>(w.W, w.H, w.D, Cell::input, packed + at.W);
  if constexpr (Cell::projected)
    pack_columns(panels_of<T>(w.R), w.H, w.H, 1, packed + at.second, [&](int64_t q) -> Piece<T> {
      return {w.projection + q * Lanes<T>::count * w.H, w.R - q * Lanes<T>::count};
    });
  if constexpr (Cell::reset_before)
    pack_gradient_columns<Cell>(w.U, w.H, w.H, Range{0, 1}, packed + at.second);
  pack_diagonals<Cell>(w, packed + at.diagonals, Cell::diagonals * Lanes<T>::count);
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
