// Register tiles: the only place where products are summed.
//
// A tile is R rows by P panels of G registers. Its sum over k runs in the order of k for every element,
// one multiply-add each, whatever R and P are: a row's result does not depend on its neighbours, nor
// on the tile that it fell into.
//
// Packed operand B, a sequence of panels: panel p holds, for k = 0 .. K-1, G registers side by side:
//   b[p * panel_stride + (k * G + g) * L + l]
#pragma once

#include "vec.h"

namespace timelike {
namespace TIMELIKE_ISA {

// acc[r][p G + g] += sum_k a[r * row_stride + k * A_STEP] * B[k][p, g]
template <int R, int P, int G, int A_STEP, class T>
TIMELIKE_INLINE void multiply_add(Vec<T> (&acc)[R][P * G], const T* a, int64_t row_stride, const T* b,
                                  int64_t panel_stride, int64_t K) {
  constexpr int L = Lanes<T>::count;
  for (int64_t k = 0; k < K; ++k) {
    Vec<T> w[P * G];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) w[p * G + g] = load(b + p * panel_stride + g * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> v = broadcast(a[r * row_stride]);
#pragma GCC unroll 16
      for (int j = 0; j < P * G; ++j) acc[r][j] = fma(v, w[j], acc[r][j]);
    }
    a += A_STEP;
    b += G * L;
  }
}

constexpr int kColumnGroup = 2;  // registers per panel of a column-packed matrix

inline int64_t column_panels(int64_t columns, int64_t lanes) {
  return (columns + kColumnGroup * lanes - 1) / (kColumnGroup * lanes);
}

// One tile of C = A B where A is a block of gate gradients, [panel][slot][width] (see sequence.h), and B
// is packed in column panels with its K index in the same order, panel by panel.
// C[r][column] = (or +=, with ADD) for the `columns` columns that exist.
template <int R, int P, class T>
TIMELIKE_INLINE void gradient_tile(const T* a, int64_t a_panels, int64_t a_panel_stride, int64_t width,
                                   const T* b, int64_t b_panel_stride, T* const* c, int columns, bool add) {
  constexpr int L = Lanes<T>::count;
  constexpr int G = kColumnGroup;
  Vec<T> acc[R][P * G] = {};
  for (int64_t p = 0; p < a_panels; ++p)
    multiply_add<R, P, G, 1, T>(acc, a + p * a_panel_stride, width, b + p * width * G * L, b_panel_stride,
                                width);
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

// C = A B for `rows` rows (R at a time) and all columns. The panel of B stays in cache over the rows.
template <int R, int P, class T>
void gradient_rows(const T* a, int64_t a_panels, int64_t a_panel_stride, int64_t width, const T* b,
                   int64_t b_panel_stride, T* const* c, int64_t columns, bool add) {
  constexpr int64_t step = int64_t(P) * kColumnGroup * Lanes<T>::count;
  T* shifted[R];
  for (int64_t column = 0; column < columns; column += step) {
    for (int r = 0; r < R; ++r) shifted[r] = c[r] + column;
    const int64_t left = columns - column;
    const T* panel = b + column / (kColumnGroup * Lanes<T>::count) * b_panel_stride;
    const int n = int(left < step ? left : step);
    if constexpr (P > 1) {
      if (left <= step - kColumnGroup * Lanes<T>::count) {  // fewer panels left than a tile has
        gradient_rows<R, P - 1, T>(a, a_panels, a_panel_stride, width, panel, b_panel_stride, shifted, left,
                                   add);
        return;
      }
    }
    gradient_tile<R, P, T>(a, a_panels, a_panel_stride, width, panel, b_panel_stride, shifted, n, add);
  }
}

// C = A B for any number of rows: c[r] is where row r of C lies.
template <class T>
void gradient_times_weights(const T* a, int64_t rows, int64_t a_panels, int64_t a_panel_stride, int64_t width,
                            const T* b, T* const* c, int64_t columns, bool add) {
  constexpr int64_t panel_columns = kColumnGroup * Lanes<T>::count;
  const int64_t stride = a_panels * width * panel_columns;
  // With six rows a panel is taken through all rows before the next one, since it is the larger operand.
  int64_t r = 0;
  if (rows >= 6) {
    const int64_t sixes = rows / 6 * 6;
    for (int64_t column = 0; column < columns; column += panel_columns) {
      const int n = int(columns - column < panel_columns ? columns - column : panel_columns);
      for (r = 0; r < sixes; r += 6) {
        T* to[6];
        for (int i = 0; i < 6; ++i) to[i] = c[r + i] + column;
        gradient_tile<6, 1, T>(a + r * width, a_panels, a_panel_stride, width,
                               b + column / panel_columns * stride, stride, to, n, add);
      }
    }
    r = sixes;
  }
  const T* rest = a + r * width;
  switch (rows - r) {
    case 5:
      gradient_rows<5, 1, T>(rest, a_panels, a_panel_stride, width, b, stride, c + r, columns, add);
      break;
    case 4:
      gradient_rows<4, 1, T>(rest, a_panels, a_panel_stride, width, b, stride, c + r, columns, add);
      break;
    case 3:
      gradient_rows<3, 2, T>(rest, a_panels, a_panel_stride, width, b, stride, c + r, columns, add);
      break;
    case 2:
      gradient_rows<2, 2, T>(rest, a_panels, a_panel_stride, width, b, stride, c + r, columns, add);
      break;
    case 1:
      gradient_rows<1, 4, T>(rest, a_panels, a_panel_stride, width, b, stride, c + r, columns, add);
      break;
    default: break;
  }
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
