// Register tiles: the only place where products are summed.
//
// A tile is R rows by P panels of G registers. Its sum over k runs in the order of k for every element,
// one multiply-add each, whatever R and P are: a row's result does not depend on its neighbours, nor
// on the tile that it fell into.
//
// Packed operand B, a sequence of panels: panel p holds, for k = 0 .. K-1, G registers side by side:
//   b[p * panel_stride + (k * G + g) * L + l]
#pragma once

#include <algorithm>

#include "vec.h"

namespace timelike {
namespace TIMELIKE_ISA {

// acc[r][p SLOTS + FIRST + g] += sum_k a[r * row_stride + k * A_STEP] * B[k][p, g] for g < COUNT: the slots
// of an accumulator that this operand feeds. Lines of B are b_step apart.
template <int R, int P, int SLOTS, int FIRST, int COUNT, int A_STEP, class T>
TIMELIKE_INLINE void multiply_add(Vec<T> (&acc)[R][P * SLOTS], const T* a, int64_t row_stride, const T* b,
                                  int64_t b_step, int64_t panel_stride, int64_t K) {
  constexpr int L = Lanes<T>::count;
  for (int64_t k = 0; k < K; ++k) {
    Vec<T> w[P * COUNT];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int g = 0; g < COUNT; ++g) w[p * COUNT + g] = load(b + p * panel_stride + g * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> v = broadcast(a[r * row_stride]);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
        for (int g = 0; g < COUNT; ++g)
          acc[r][p * SLOTS + FIRST + g] = fma(v, w[p * COUNT + g], acc[r][p * SLOTS + FIRST + g]);
    }
    a += A_STEP;
    b += b_step;
  }
}

constexpr int kColumnGroup = 2;  // registers per panel of a column-packed matrix

template <class T>
constexpr int64_t kPanelColumns = kColumnGroup * Lanes<T>::count;

// Elements of a column-packed matrix [K, columns]: panels of columns, in each a line per k.
template <class T>
int64_t column_packed_size(int64_t K, int64_t columns) {
  return (columns + kPanelColumns<T> - 1) / kPanelColumns<T> * kPanelColumns<T> * K;
}

// The left operand of a product: row r is `panels` pieces of `width` numbers, piece p of it at
// data + p * panel_stride + r * row_stride.
template <class T>
struct Rowset {
  const T* data;
  int64_t row_stride, panels, panel_stride, width;
  Rowset from(int64_t r) const { return {data + r * row_stride, row_stride, panels, panel_stride, width}; }
};

// One tile of C = A B, B packed in column panels with its K index in the order of A's pieces.
// C[r][column] = (or +=, with `add`) for the `columns` columns that exist.
template <int R, int P, class T>
TIMELIKE_INLINE void product_tile(const Rowset<T>& a, const T* b, int64_t b_panel_stride, T* const* c,
                                  int columns, bool add) {
  constexpr int L = Lanes<T>::count;
  constexpr int G = kColumnGroup;
  Vec<T> acc[R][P * G] = {};
  for (int64_t p = 0; p < a.panels; ++p)
    multiply_add<R, P, G, 0, G, 1, T>(acc, a.data + p * a.panel_stride, a.row_stride, b + p * a.width * G * L,
                                      G * L, b_panel_stride, a.width);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < P * G; ++j) {
      const int n = columns - j * L;
      if (n <= 0) continue;
      T* to = c[r] + j * L;
      store(to, add ? acc[r][j] + load(to, n) : acc[r][j], n);
    }
}

// C = A B for R rows and all columns.
template <int R, int P, class T>
void product_rows(const Rowset<T>& a, const T* b, int64_t b_panel_stride, T* const* c, int64_t columns,
                  bool add) {
  constexpr int64_t step = P * kPanelColumns<T>;
  T* shifted[R];
  for (int64_t column = 0; column < columns; column += step) {
    for (int r = 0; r < R; ++r) shifted[r] = c[r] + column;
    const int64_t left = columns - column;
    const T* panel = b + column / kPanelColumns<T> * b_panel_stride;
    if constexpr (P > 1) {
      if (left <= step - kPanelColumns<T>) {  // fewer panels left than a tile has
        product_rows<R, P - 1, T>(a, panel, b_panel_stride, shifted, left, add);
        return;
      }
    }
    product_tile<R, P, T>(a, panel, b_panel_stride, shifted, int(std::min(left, step)), add);
  }
}

// C = A B for any number of rows: c[r] is where row r of C lies.
template <class T>
void product(const Rowset<T>& a, int64_t rows, const T* b, T* const* c, int64_t columns, bool add) {
  const int64_t stride = a.panels * a.width * kPanelColumns<T>;
  // With six rows a panel is taken through all rows before the next one, since it is the larger operand.
  const int64_t sixes = rows / 6 * 6;
  for (int64_t column = 0; sixes && column < columns; column += kPanelColumns<T>) {
    const int n = int(std::min(columns - column, kPanelColumns<T>));
    for (int64_t r = 0; r < sixes; r += 6) {
      T* to[6];
      for (int i = 0; i < 6; ++i) to[i] = c[r + i] + column;
      product_tile<6, 1, T>(a.from(r), b + column / kPanelColumns<T> * stride, stride, to, n, add);
    }
  }
  const Rowset<T> rest = a.from(sixes);
  switch (rows - sixes) {
    case 5: return product_rows<5, 1, T>(rest, b, stride, c + sixes, columns, add);
    case 4: return product_rows<4, 1, T>(rest, b, stride, c + sixes, columns, add);
    case 3: return product_rows<3, 2, T>(rest, b, stride, c + sixes, columns, add);
    case 2: return product_rows<2, 2, T>(rest, b, stride, c + sixes, columns, add);
    case 1: return product_rows<1, 4, T>(rest, b, stride, c + sixes, columns, add);
    default: return;
  }
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
