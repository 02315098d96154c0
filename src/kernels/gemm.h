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

// What is done between parts of a product, where nothing is.
struct Nothing {
  void operator()() const {}
};

// acc[r][p SLOTS + FIRST + g] += sum_k a[r * row_stride + k * A_STEP] * B[k][p, g] for g < COUNT: the slots
// of an accumulator that this operand feeds. Lines of B are b_step apart. `each` is done for every k.
template <int R, int P, int SLOTS, int FIRST, int COUNT, int A_STEP, class T, class Each = Nothing>
TIMELIKE_INLINE void multiply_add(Vec<T> (&acc)[R][P * SLOTS], const T* a, int64_t row_stride, const T* b,
                                  int64_t b_step, int64_t panel_stride, int64_t K, Each each = {}) {
  constexpr int L = Lanes<T>::count;
  for (int64_t k = 0; k < K; ++k) {
    each();
    Vec<T> w[P * COUNT];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
      for (int g = 0; g < COUNT; ++g) w[p * COUNT + g] = load(b + p * panel_stride + g * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec<T> v = broadcast(a[r * row_stride]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
        for (int g = 0; g < COUNT; ++g)
          acc[r][p * SLOTS + FIRST + g] = fma(v, w[p * COUNT + g], acc[r][p * SLOTS + FIRST + g]);
    }
    a += A_STEP;
    b += b_step;
  }
}

// Rows in tiles: first those of MOST rows, then what is left, in smaller ones. Where weights come from afar,
// a last tile of one or two rows takes nearly as long as one of four: there what is left is at least three
// rows, in tiles as equal as can be.
template <int MOST>
struct RowTiles {
  static constexpr int most_last = MOST < 5 ? MOST : 5;
  bool afar;
  int64_t full;  // rows in tiles of MOST

  RowTiles(int64_t rows, bool weights_afar) : afar(weights_afar), full(rows / MOST * MOST) {
    if (afar && full > 0 && 0 < rows - full && rows - full < 3) full -= MOST;
  }
  // Rows of the next tile of so many that are left.
  int next(int64_t left) const {
    if (!afar) return int(std::min<int64_t>(left, 3));
    return int(left > most_last ? (left + 1) / 2 : left);
  }
};

constexpr int kColumnGroup = 2;  // registers per panel of a column-packed matrix

template <class T>
constexpr int64_t kPanelColumns = kColumnGroup * Lanes<T>::count;

// Elements of a column-packed matrix [K, columns]: panels of columns, in each a line per k.
template <class T>
int64_t column_packed_size(int64_t K, int64_t columns) {
  return (columns + kPanelColumns<T> - 1) / kPanelColumns<T> * kPanelColumns<T> * K;
}

// The left operand of a product. Row r is `panels` pieces, piece p of it at data + p * panel_stride +
// r * row_stride: `slots` registers each, of which only the first `units - p L` lanes hold numbers.
template <class T>
struct Rowset {
  const T* data;
  int64_t row_stride, panels, panel_stride;
  int slots;
  int64_t units;

  int64_t width() const { return slots * Lanes<T>::count; }
  Rowset from(int64_t r) const {
    return {data + r * row_stride, row_stride, panels, panel_stride, slots, units};
  }
  Rowset pieces(int64_t begin, int64_t end) const {
    return {data + begin * panel_stride,    row_stride, end - begin, panel_stride, slots,
            units - begin * Lanes<T>::count};
  }
};

// One tile of C = A B, of G registers in each of P panels of columns, B with its K index in the order of A's
// pieces: C[r][column] = (or +=, with `add`) for the `columns` columns that exist.
template <int R, int P, int G, class T, class Between>
TIMELIKE_INLINE void product_tile(const Rowset<T>& a, const T* b, int64_t b_panel_stride, T* const* c,
                                  int columns, bool add, Between& between) {
  constexpr int L = Lanes<T>::count;
  constexpr int64_t line = kPanelColumns<T>;
  Vec<T> acc[R][P * G] = {};
  const int64_t whole = std::min(a.panels, a.units / L), width = a.width();
  const int64_t stretch = L >= 16 ? L : width;  // short loops are slow loops
  for (int64_t p = 0; p < whole; ++p)
    for (int64_t k = 0; k < width; k += stretch) {
      between();
      multiply_add<R, P, G, 0, G, 1, T>(acc, a.data + p * a.panel_stride + k, a.row_stride,
                                        b + (p * width + k) * line, line, b_panel_stride, stretch);
    }
  if (whole < a.panels)  // lanes that are no units are left out
    for (int s = 0; s < a.slots; ++s)
      multiply_add<R, P, G, 0, G, 1, T>(acc, a.data + whole * a.panel_stride + s * L, a.row_stride,
                                        b + (whole * width + s * L) * line, line, b_panel_stride,
                                        a.units - whole * L);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < P * G; ++j) {
      const int n = columns - j * L;
      if (n <= 0) continue;
      T* to = c[r] + j * L;
      store(to, add ? load(to, n) + acc[r][j] : acc[r][j], n);
    }
}

// C = A B for R rows and all columns.
template <int R, int P, class T, class Between>
void product_rows(const Rowset<T>& a, const T* b, int64_t b_panel_stride, T* const* c, int64_t columns,
                  bool add, Between& between) {
  constexpr int64_t step = P * kPanelColumns<T>;
  T* shifted[R];
  for (int64_t column = 0; column < columns; column += step) {
    for (int r = 0; r < R; ++r) shifted[r] = c[r] + column;
    const int64_t left = columns - column;
    const T* panel = b + column / kPanelColumns<T> * b_panel_stride;
    if constexpr (P > 1) {
      if (left <= step - kPanelColumns<T>) {  // fewer panels left than a tile has
        product_rows<R, P - 1, T>(a, panel, b_panel_stride, shifted, left, add, between);
        return;
      }
    } else {
      if (left <= Lanes<T>::count)
        return product_tile<R, 1, 1, T>(a, panel, b_panel_stride, shifted, int(left), add, between);
    }
    product_tile<R, P, kColumnGroup, T>(a, panel, b_panel_stride, shifted, int(std::min(left, step)), add,
                                        between);
  }
}

// A tile of R rows and of one block of columns, the first `columns` of at most `wide` panels.
template <int R, int wide, class T, class Between>
TIMELIKE_INLINE void product_block(const Rowset<T>& a, const T* b, int64_t b_panel_stride, T* const* c,
                                   int64_t first, int columns, bool add, Between& between) {
  T* to[R];
  for (int r = 0; r < R; ++r) to[r] = c[r] + first;
  if (columns > kPanelColumns<T> + Lanes<T>::count)
    product_tile<R, wide, kColumnGroup, T>(a, b, b_panel_stride, to, columns, add, between);
  else if (columns > kPanelColumns<T>)
    product_rows<R, 1, T>(a, b, b_panel_stride, to, columns, add, between);
  else if (columns > Lanes<T>::count)
    product_tile<R, 1, kColumnGroup, T>(a, b, b_panel_stride, to, columns, add, between);
  else
    product_tile<R, 1, 1, T>(a, b, b_panel_stride, to, columns, add, between);
}

// C = A B for any number of rows: c[r] is where row r of C lies. Long sums are made in two levels, groups of
// pieces first: the rounding error grows with the root of a group's length.
// `between` is called now and then, at least once per piece of each tile. With `turned` the last columns come
// first: what is left of B in the caches from a product before.
template <class T, class Between = Nothing>
void product(const Rowset<T>& a, int64_t rows, const T* b, T* const* c, int64_t columns, bool add,
             bool turned = false, Between&& between = {}) {
  constexpr int64_t line = kPanelColumns<T>, longest = 256;
  const int64_t stride = a.panels * a.width() * line;
  const int64_t groups = (a.panels * a.width() + longest - 1) / longest;
  const auto group = [&](int64_t k) { return a.pieces(a.panels * k / groups, a.panels * (k + 1) / groups); };
  const auto lines = [&](int64_t k) { return b + a.panels * k / groups * a.width() * line; };
  if (rows <= 3) {  // as many panels at once as keep sums in flight
    for (int64_t k = 0; k < groups; ++k, add = true)
      if (rows == 3)
        product_rows<3, 2, T>(group(k), lines(k), stride, c, columns, add, between);
      else if (rows == 2)
        product_rows<2, 2, T>(group(k), lines(k), stride, c, columns, add, between);
      else if (rows == 1)
        product_rows<1, 4, T>(group(k), lines(k), stride, c, columns, add, between);
    return;
  }
  // A block of columns is taken through all rows before the next one, since it is the larger operand: of many
  // columns two panels, which takes fewer loads for each product.
  constexpr int wide = kRegisters >= 32 ? 2 : 1;
  const int64_t width = columns >= 4 * line ? wide * line : line, blocks = (columns + width - 1) / width;
  const RowTiles<6> tiles(rows, true);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t column = (turned ? blocks - 1 - i : i) * width;
    const int n = int(std::min(columns - column, width));
    for (int64_t k = 0; k < groups; ++k) {
      const T* block = lines(k) + column / line * stride;
      const Rowset<T> all = group(k);
      const bool to_sums = add || k > 0;
      int64_t r = 0;
      for (; r < tiles.full; r += 6)
        product_block<6, wide, T>(all.from(r), block, stride, c + r, column, n, to_sums, between);
      for (int size; r < rows; r += size) {
        const Rowset<T> rest = all.from(r);
        switch (size = tiles.next(rows - r)) {
          case 5: product_block<5, wide, T>(rest, block, stride, c + r, column, n, to_sums, between); break;
          case 4: product_block<4, wide, T>(rest, block, stride, c + r, column, n, to_sums, between); break;
          default: product_block<3, wide, T>(rest, block, stride, c + r, column, n, to_sums, between);
        }
      }
    }
  }
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
