// What backward gathers over several steps, and the gradients of the parameters that are summed from it.
#pragma once

#include "pack.h"
#include "rows.h"

namespace timelike {
namespace TIMELIKE_ISA {

// A matrix of sums: its rows are `ld` apart, whole registers each.
template <class T>
struct Sums {
  T* at;
  int64_t ld;
};

// The gradients of all parameters while they are summed: rows and gates as the parameters have them, rows
// filled up to whole registers; biases in the order of the gate gradients, [panel][slot][L].
template <class Cell, class T>
struct GradientLayout {
  static constexpr int L = Lanes<T>::count;
  int64_t ldW, ldU, ld_projection;
  int64_t U, projection, biases, diagonals, size;  // W stands at 0

  GradientLayout(int64_t D, int64_t H, int64_t R)
      : ldW(padded<T>(D)),
        ldU(padded<T>(R)),
        ld_projection(padded<T>(H)),
        U(Cell::gates * H * ldW),
        projection(U + Cell::gates * H * ldU),
        biases(projection + (Cell::projected ? R * ld_projection : 0)),
        diagonals(biases + padded<T>(H) * Cell::slots),
        size(diagonals + padded<T>(H) * Cell::diagonals) {}
};

// Where a task sums: null where no gradients are wanted.
template <class T>
struct Gradients {
  Sums<T> W, U, projection;
  T *biases, *diagonals;
  bool fresh = true;  // nothing was summed yet, and what is there has no meaning
};

template <class Cell, class T>
Gradients<T> gradients_in(T* memory, const GradientLayout<Cell, T>& at) {
  return {{memory, at.ldW},
          {memory + at.U, at.ldU},
          {memory + at.projection, at.ld_projection},
          memory + at.biases,
          memory + at.diagonals};
}

// Rows whose gate gradients are known, gathered until they are multiplied with inputs and states: all at
// once, or by several threads in parts.
template <class Cell, class T>
struct Gathered {
  static constexpr int L = Lanes<T>::count, SLOTS = Cell::slots;
  static constexpr int64_t S = SLOTS * L;
  static constexpr int XF = Cell::input.first, XN = Cell::input.count;
  static constexpr int HF = Cell::state.first, HN = Cell::state.count;
  // A tile of the weights' gradients: so many registers of columns, and as many rows as fill the rest.
  static constexpr int kColumns = 3;
  static constexpr int64_t kMiddling = int64_t(1)
                                       << 20;  // bytes of sums that leave little room in the L2 cache

  const Backward<T>& f;
  const int64_t D, H, R, P, HP, RP;
  const BackwardLayout<Cell, T> at;
  const int64_t capacity;              // rows that are gathered
  Gradients<T>* sums;                  // of the parameters, added to; null where they are not wanted
  T* da;                               // [P, capacity, S] gate gradients, panel by panel
  T* dh_of;                            // [RP / L, capacity, L] dL/dh: the projection's left operand
  T* inner;                            // [capacity, HP] what the second product took
  T *x_tiles, *h_tiles, *inner_tiles;  // the matching x, h_{t-1}, inner: see `gather`
  int64_t *row, *tape_row;             // [capacity] where each row lies
  const T **h_past, **c_past;          // [capacity] h_{t-1} and c_{t-1} of each
  T** to;                              // [capacity] where a product's rows go

  static int64_t bytes_of_sums(const Backward<T>& f) {
    return GradientLayout<Cell, T>(f.D, f.H, f.R).size * int64_t(sizeof(T));
  }
  static bool large(const Backward<T>& f) { return bytes_of_sums(f) > kLarge; }

  // Few rows, of which a tile's columns stay in the L1 cache, unless the sums, all of which are read and
  // written each time, come from afar.
  static int64_t rows_at_a_time(const Backward<T>& f) {
    if (large(f)) return 432;
    return bytes_of_sums(f) > kMiddling ? 144 : 108;
  }

  Gathered(const Backward<T>& call, Gradients<T>* gradients)
      : f(call),
        D(f.D),
        H(f.H),
        R(f.R),
        P(panels_of<T>(H)),
        HP(P * L),
        RP(padded<T>(R)),
        at(D, H, R),
        capacity(rows_at_a_time(f)),
        sums(gradients) {}

  void take_from(Workspace& w) {
    da = w.template take<T>(P * capacity * S);
    if (Cell::projected || Cell::reset_before) inner = w.template take<T>(capacity * HP);
    if (Cell::projected) dh_of = w.template take<T>(RP * capacity);
    if (sums) {
      x_tiles = w.template take<T>(padded<T>(D) * capacity);
      h_tiles = w.template take<T>(RP * capacity);
      if (Cell::projected || Cell::reset_before) inner_tiles = w.template take<T>(HP * capacity);
    }
    row = w.template take<int64_t>(capacity), tape_row = w.template take<int64_t>(capacity);
    h_past = w.template take<const T*>(capacity), c_past = w.template take<const T*>(capacity);
    to = w.template take<T*>(capacity);
  }

  // dx = da W for rows begin <= slot < end, and what `add` needs of them.
  void put_inputs(int64_t begin, int64_t end) const {
    if (f.dx) {
      for (int64_t i = begin; i < end; ++i) to[i] = f.dx + row[i] * f.lddx;
      product<T>({da + begin * S + XF * L, S, P, capacity * S, XN, H}, end - begin, f.packed + at.W,
                 to + begin, D, f.add_dx);
    }
    if (!sums) return;
    for (int64_t i = begin; i < end; ++i) {
      gather(f.x + row[i] * f.ldx, D, x_tiles, i);
      gather(h_past[i], R, h_tiles, i);
      if constexpr (Cell::projected || Cell::reset_before) gather(inner + i * HP, H, inner_tiles, i);
    }
  }

  // sums += da^T (x | 1), da^T (h | 1), ..., for the first `slots` rows: part k of `parts`, each of which
  // takes panels of units of its own.
  void add(int64_t slots, int64_t k, int64_t parts) const {
    if (!sums) return;
    const Part units{P * k / parts, P * (k + 1) / parts, slots};
    add_products<S>(da + XF * L, H, XN, Cell::gate + XF, x_tiles, sums->W, units);
    add_products<S>(da + HF * L, H, HN, Cell::gate + HF, h_tiles, sums->U, units);
    if constexpr (Cell::reset_before) add_products<S>(da, H, 1, Cell::gate, inner_tiles, sums->U, units);
    constexpr int no_gate[] = {0};
    if constexpr (Cell::projected) {
      const int64_t RPanels = panels_of<T>(R);
      add_products<L>(dh_of, R, 1, no_gate, inner_tiles, sums->projection,
                      {RPanels * k / parts, RPanels * (k + 1) / parts, slots});
    }
    add_biases(units);
    if constexpr (Cell::diagonals > 0) add_diagonals(units);
  }

  // After all parts.
  void added() const {
    if (sums) sums->fresh = false;
  }

 private:
  // Panels of units, and the rows that are summed.
  struct Part {
    int64_t begin, end, slots;
  };

  // Columns are worked on in groups of at most kColumns registers, as equal as can be: calls
  // group(first column, registers) for each.
  template <class Group>
  static TIMELIKE_INLINE void groups_of(int64_t columns, Group&& group) {
    const int64_t registers = (columns + L - 1) / L, groups = (registers + kColumns - 1) / kColumns;
    for (int64_t k = 0; k < groups; ++k) {
      const int64_t begin = registers * k / groups;
      group(begin * L, int(registers * (k + 1) / groups - begin));
    }
  }

  // Row `slot` of the columns that tiles are made of, [group of columns][capacity][its registers], the last
  // register filled with zeros.
  TIMELIKE_INLINE void gather(const T* from, int64_t count, T* tiles, int64_t slot) const {
    groups_of(count, [&](int64_t column, int registers) {
      T* to = tiles + column * capacity + slot * registers * L;
      for (int j = 0; j < registers; ++j)
        store(to + j * L, load(from + column + j * L, int(std::min<int64_t>(L, count - column - j * L))));
    });
  }

  // sums[gate[g] units + unit][column] += sum over the gathered rows of da[unit][g] times the column, for
  // `count` slots g from lines STEP apart. Summed in two levels, rows of this flush first: the rounding error
  // grows with the root of their number and not with that of all rows.
  template <int64_t STEP>
  void add_products(const T* da_slots, int64_t units, int count, const int* gate, const T* tiles, Sums<T> to,
                    const Part& part) const {
    for (int64_t p = part.begin; p < part.end; ++p) {
      const T* lines = da_slots + p * capacity * STEP;
      const int64_t real = std::min<int64_t>(L, units - p * L);
      groups_of(to.ld, [&](int64_t column, int registers) {
        const T* tile = tiles + column * capacity;
        for (int g = 0; g < count; ++g) {
          T* first = to.at + (gate[g] * units + p * L) * to.ld + column;
          switch (registers) {
            case 3: add_rows<STEP, 3>(lines + g * L, part.slots, real, tile, first, to.ld); break;
            case 2: add_rows<STEP, 2>(lines + g * L, part.slots, real, tile, first, to.ld); break;
            default: add_rows<STEP, 1>(lines + g * L, part.slots, real, tile, first, to.ld);
          }
        }
      });
    }
  }

  // As many rows at a time as ROWS, then half as many, and so on.
  template <int64_t STEP, int COLUMNS, int MOST = kRegisters * 3 / 4 / COLUMNS>
  void add_rows(const T* line, int64_t slots, int64_t rows, const T* tile, T* to, int64_t ld) const {
    constexpr int ROWS = MOST >= 16 ? 16 : MOST >= 8 ? 8 : MOST >= 4 ? 4 : MOST >= 2 ? 2 : 1;
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) add_tile<STEP, COLUMNS, ROWS>(line + r, slots, tile, to + r * ld, ld);
    if constexpr (ROWS > 1)
      if (r < rows) add_rows<STEP, COLUMNS, ROWS / 2>(line + r, slots, rows - r, tile, to + r * ld, ld);
  }

  template <int64_t STEP, int COLUMNS, int ROWS>
  void add_tile(const T* line, int64_t slots, const T* tile, T* to, int64_t ld) const {
    Vec<T> acc[ROWS][COLUMNS];
    TIMELIKE_EACH(r, ROWS)
      TIMELIKE_EACH(j, COLUMNS) {
        acc[r][j] = Vec<T>{};
        __builtin_prefetch(to + r * ld + j * L, 1);  // the sums arrive while the products are made
      }
    multiply_add<ROWS, 1, COLUMNS, 0, COLUMNS, STEP, T>(acc, line, 1, tile, COLUMNS * L, 0, slots);
    if (sums->fresh) {
      TIMELIKE_EACH(r, ROWS)
        TIMELIKE_EACH(j, COLUMNS) store(to + r * ld + j * L, acc[r][j]);
    } else {
      TIMELIKE_EACH(r, ROWS)
        TIMELIKE_EACH(j, COLUMNS) store(to + r * ld + j * L, acc[r][j] + load(to + r * ld + j * L));
    }
  }

  void add_biases(const Part& part) const {
    for (int64_t p = part.begin; p < part.end; ++p) {
      Vec<T> acc[SLOTS] = {};
      for (int64_t i = 0; i < part.slots; ++i)
        for (int g = 0; g < SLOTS; ++g) acc[g] += load(da + (p * capacity + i) * S + g * L);
      T* to = sums->biases + p * S;
      for (int g = 0; g < SLOTS; ++g) store(to + g * L, sums->fresh ? acc[g] : acc[g] + load(to + g * L));
    }
  }

  // Peepholes: i and f see c_{t-1}, o sees c_t.
  void add_diagonals(const Part& part) const {
    for (int64_t p = part.begin; p < part.end; ++p) {
      const int lanes = int(std::min<int64_t>(L, H - p * L));
      Vec<T> acc[3] = {};
      for (int64_t i = 0; i < part.slots; ++i) {
        const T* gathered = da + (p * capacity + i) * S;
        const Vec<T> before = load(c_past[i] + p * L, lanes);
        acc[0] = fma(load(gathered), before, acc[0]);
        acc[1] = fma(load(gathered + L), before, acc[1]);
        acc[2] = fma(load(gathered + 3 * L), load(f.cells + tape_row[i] * H + p * L, lanes), acc[2]);
      }
      T* to = sums->diagonals + p * 3 * L;
      for (int d = 0; d < 3; ++d) store(to + d * L, sums->fresh ? acc[d] : acc[d] + load(to + d * L));
    }
  }
};

// Sums into a matrix of the caller, where they do not stand in it already.
template <class T>
void write_matrix(Sums<T> sums, int64_t rows, int64_t columns, T* matrix) {
  if (sums.at == matrix) return;
  for (int64_t row = 0; row < rows; ++row) copy_row(matrix + row * columns, sums.at + row * sums.ld, columns);
}

template <class Cell, class T>
void write_gradients(const Backward<T>& f, const Gradients<T>& sums) {
  constexpr int L = Lanes<T>::count;
  const int64_t H = f.H;
  write_matrix(sums.W, Cell::gates * H, f.D, f.dW);
  write_matrix(sums.U, Cell::gates * H, f.R, f.dU);
  if constexpr (Cell::projected) write_matrix(sums.projection, f.R, H, f.dprojection);
  const auto write_biases = [&](Range slots, T* to) {
    for (int s = slots.first; to && s < slots.first + slots.count; ++s)
      for (int64_t unit = 0; unit < H; unit += L)
        copy_row(to + Cell::gate[s] * H + unit, sums.biases + unit * Cell::slots + s * L,
                 std::min<int64_t>(L, H - unit));
  };
  write_biases(Cell::input, f.db_ih);
  write_biases(Cell::two_biases ? Cell::state : Cell::input, f.db_hh);
  for (int d = 0; d < Cell::diagonals; ++d)
    for (int64_t unit = 0; unit < H; ++unit)
      f.dpeephole[d * H + unit] = sums.diagonals[(unit / L * Cell::diagonals + d) * L + unit % L];
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
