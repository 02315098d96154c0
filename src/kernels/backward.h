// Backpropagation through time: a template over cell and precision.
//
// Step by step, last to first: gate gradients of all units, then dh_{t-1} from them. They are gathered over
// several steps before they are multiplied with inputs and states into dx and the weights' gradients.
#pragma once

#include "forward.h"

namespace timelike {
namespace TIMELIKE_ISA {

// Where the sums of one weight matrix stand, in packed order [panel][column][slots of the range][L].
struct SumRegion {
  int64_t at, columns;
};

// The gradients of all parameters while they are summed. Columns of ones make the biases' gradients.
template <class Cell, class T>
struct GradientLayout {
  static constexpr int L = Lanes<T>::count;
  // A register tile of sums: so many columns of x or h, times the slots of so many panels as fill it.
  static constexpr int sums_in_flight = TIMELIKE_REGISTERS * 3 / 4;
  static constexpr int tile = sums_in_flight / (Cell::input.count == 1 ? 4 : Cell::input.count);
  static constexpr int panels_at_a_time(int slots) { return std::max(1, sums_in_flight / (tile * slots)); }
  static constexpr bool ones_with_x = Cell::two_biases || Cell::reset_before;
  static constexpr bool ones_with_h = !Cell::reset_before;
  SumRegion x, h, inner;  // W; U; U_n of reset-before, or the projection
  int64_t diagonals, size;

  GradientLayout(int64_t D, int64_t H, int64_t R) {
    const int64_t P = panels_of<T>(H);
    int64_t end = 0;
    const auto region = [&](int64_t panels, int64_t columns, int slots) {
      const SumRegion made{end, (columns + tile - 1) / tile * tile};
      end += panels * made.columns * slots * L;
      return made;
    };
    x = region(P, D + ones_with_x, Cell::input.count);
    h = region(P, R + ones_with_h, Cell::state.count);
    inner = region(Cell::projected ? panels_of<T>(R) : P, Cell::projected || Cell::reset_before ? H : 0, 1);
    diagonals = end;
    size = end + P * Cell::diagonals * L;
  }
};

template <class Cell, class T>
class BackwardChunk {
  static constexpr int L = Lanes<T>::count, SLOTS = Cell::slots;
  static constexpr int64_t S = SLOTS * L;
  static constexpr int XF = Cell::input.first, XN = Cell::input.count;
  static constexpr int HF = Cell::state.first, HN = Cell::state.count;
  using Sums = GradientLayout<Cell, T>;
  static constexpr int kColumnTile = Sums::tile;
  static constexpr bool dh_in_parts = Cell::reads_state;  // a part of dh_{t-1} takes no product
  // Gate gradients are gathered for this many rows before they are multiplied with inputs and states: one
  // panel of them (18 KiB) stays in the L1 cache.
  static constexpr int64_t kSlots = 144;

  // What one row of a step reads and writes.
  struct Row {
    const T *gates, *cells, *c_past, *hidden, *h_past, *dy;
    T *dh, *dc, *d_inner, *da, *inner;
  };

  const Backward<T>& f;
  const int64_t* order;
  const int64_t n;
  const int64_t D, H, R, P, HP, RP;
  const BackwardLayout<Cell, T> at;
  const Sums sum_at;
  T* sums;     // gradients of the parameters, added to
  T *dh, *dc;  // [n, RP], [n, HP] carried from step to step
  T* d_inner;  // [n, HP] gradient of what the second product took
  T* zeros;    // [max(H, R)] the state before the first step where none was given
  T* da;       // [P, kSlots, S] gate gradients, panel by panel
  T* dh_of;    // [RP / L, kSlots, L] dL/dh of each gathered row: the projection's left operand
  T* inner;    // [kSlots, HP] what the second product took
  T *x_tiles, *h_tiles,
      *inner_tiles;            // [columns / tile, kSlots, tile] the matching x | 1, h_{t-1} | 1, inner
  int64_t *row, *tape_row;     // [kSlots] where each gathered row lies
  const T **h_past, **c_past;  // [kSlots] h_{t-1} and c_{t-1} of each
  T** to;                      // [kSlots] where a product's rows go
  int64_t slots = 0;

 public:
  BackwardChunk(const Backward<T>& call, const int64_t* sequences, int64_t count, T* gradients, Workspace& w)
      : f(call),
        order(sequences),
        n(count),
        D(f.D),
        H(f.H),
        R(f.R),
        P(panels_of<T>(H)),
        HP(P * L),
        RP(padded<T>(R)),
        at(D, H, R),
        sum_at(D, H, R),
        sums(gradients) {
    w.lay_out([&] {
      dh = w.template take<T>(n * RP);
      if (Cell::cell_state) dc = w.template take<T>(n * HP);
      if (Cell::projected || Cell::reset_before)
        d_inner = w.template take<T>(n * HP), inner = w.template take<T>(kSlots * HP);
      zeros = w.template take<T>(std::max(H, R));
      da = w.template take<T>(P * kSlots * S);
      if (Cell::projected) dh_of = w.template take<T>(RP * kSlots);
      if (sums) {
        x_tiles = w.template take<T>(sum_at.x.columns * kSlots);
        h_tiles = w.template take<T>(sum_at.h.columns * kSlots);
        inner_tiles = w.template take<T>(sum_at.inner.columns * kSlots);
      }
      row = w.template take<int64_t>(kSlots), tape_row = w.template take<int64_t>(kSlots);
      h_past = w.template take<const T*>(kSlots), c_past = w.template take<const T*>(kSlots);
      to = w.template take<T*>(kSlots);
    });
  }

  void run() {
    std::memset(zeros, 0, size_t(std::max(H, R)) * sizeof(T));
    for (int64_t r = 0; r < n; ++r) {
      padded_row(f.dhT, order[r], R, RP, dh + r * RP);
      if (Cell::cell_state) padded_row(f.dcT, order[r], H, HP, dc + r * HP);
    }
    int64_t active = 0;
    for (int64_t s = std::min(f.rows.end, f.rows.length[order[0]]) - 1; s >= f.rows.begin; --s) {
      while (active < n && f.rows.length[order[active]] > s) ++active;
      if (slots + active > kSlots) flush();
      step(active, s);
    }
    flush();
    for (int64_t r = 0; r < n; ++r) {
      if (f.dh0) copy_row(f.dh0 + order[r] * R, dh + r * RP, R);
      if (Cell::cell_state && f.dc0) copy_row(f.dc0 + order[r] * H, dc + r * HP, H);
    }
  }

 private:
  void step(int64_t active, int64_t s) {
    for (int64_t r = 0; r < active; ++r) {
      const int64_t b = order[r], slot = slots + r;
      row[slot] = row_of(f.rows, b, s), tape_row[slot] = tape_row_of(f.rows, b, s);
      if (s > f.rows.begin) {
        const int64_t before = tape_row_of(f.rows, b, s - 1);
        h_past[slot] = f.hidden + before * f.ldhidden;
        if (Cell::cell_state) c_past[slot] = f.cells + before * H;
      } else {
        h_past[slot] = f.h0 ? f.h0 + b * R : zeros;
        if (Cell::cell_state) c_past[slot] = f.c0 ? f.c0 + b * H : zeros;
      }
    }
    if constexpr (Cell::projected) unproject(active);
    for (int64_t r = 0; r < active; ++r) {
      const int64_t slot = slots + r, kept = tape_row[slot];
      const Row of{f.gates + kept * Cell::tape_gates * H,
                   f.cells + kept * H,
                   c_past[slot],
                   f.hidden + kept * f.ldhidden,
                   h_past[slot],
                   f.dy ? f.dy + row[slot] * f.lddy : nullptr,
                   dh + r * RP,
                   dc + r * HP,
                   d_inner + r * HP,
                   da + slot * S,
                   inner + slot * HP};
      int64_t p = 0;
      for (; p + 2 <= P; p += 2) gate_gradients<2>(of, p);
      if (p < P) gate_gradients<1>(of, p);
    }
    if constexpr (Cell::reset_before) finish_reset(active);
    if (f.dgates) put_gate_gradients(active);
    if (s > f.rows.begin) prefetch(active, s - 1);
    if (s > f.rows.begin || f.dh0) {
      for (int64_t r = 0; r < active; ++r) to[r] = dh + r * RP;
      product<T>({da + slots * S + HF * L, S, P, kSlots * S, HN * L}, active, f.packed, to, RP, dh_in_parts);
    }
    slots += active;
  }

  // The tape of the step before arrives while this step's products are summed.
  void prefetch(int64_t active, int64_t s) const {
    constexpr int64_t line = 64 / sizeof(T);
    for (int64_t r = 0; r < active; ++r) {
      const int64_t b = order[r], kept = tape_row_of(f.rows, b, s);
      for (int64_t k = 0; k < Cell::tape_gates * H; k += line)
        __builtin_prefetch(f.gates + kept * Cell::tape_gates * H + k);
      const T* dy = f.dy + row_of(f.rows, b, s) * f.lddy;
      for (int64_t k = 0; f.dy && k < R; k += line) __builtin_prefetch(dy + k);
      if (Cell::cell_state && s > f.rows.begin)
        for (int64_t k = 0; k < H; k += line)
          __builtin_prefetch(f.cells + tape_row_of(f.rows, b, s - 1) * H + k);
    }
  }

  TIMELIKE_INLINE Vec<T> upstream(int64_t r, int64_t unit, int lanes) const {
    const Vec<T> later = load(dh + r * RP + unit);
    return f.dy ? later + load(f.dy + row[slots + r] * f.lddy + unit, lanes) : later;
  }

  // dL/dm of the units from dL/dh of the projected state.
  void unproject(int64_t active) {
    for (int64_t r = 0; r < active; ++r) {
      to[r] = d_inner + r * HP;
      for (int64_t k = 0; k < R; k += L)
        store(dh_of + k * kSlots + (slots + r) * L, upstream(r, k, int(std::min<int64_t>(L, R - k))));
    }
    product<T>({dh_of + slots * L, L, RP / L, kSlots * L, L}, active, f.packed + at.second, to, HP, false);
  }

  // M panels of units in one row.
  template <int M>
  TIMELIKE_INLINE void gate_gradients(const Row& of, int64_t p0) const {
    // In locals, since the compiler must think that a store changes any member.
    const int64_t units = H;
    BackwardStep<Cell, T, M> cell;
    for (int m = 0; m < M; ++m) {
      const int64_t unit = (p0 + m) * L;
      const int lanes = int(std::min<int64_t>(L, units - unit));
      for (int g = 0; g < Cell::tape_gates; ++g)
        cell.gate[g][m] = load(of.gates + Cell::tape_place[g] * units + unit, lanes);
      if constexpr (Cell::cell_state) {
        cell.past[m] = load(of.c_past + unit, lanes);
        cell.now[m] = load(of.cells + unit, lanes);
        cell.carried[m] = load(of.dc + unit);
      }
      if constexpr (Cell::reads_state) cell.past[m] = load(of.h_past + unit, lanes);
      if constexpr (Cell::reads_output) cell.now[m] = load(of.hidden + unit, lanes);
      cell.dh[m] = load((Cell::projected ? of.d_inner : of.dh) + unit);
      if (!Cell::projected && of.dy) cell.dh[m] = cell.dh[m] + load(of.dy + unit, lanes);
      for (int d = 0; d < Cell::diagonals; ++d) cell.diagonal[d][m] = load(peephole(p0 + m) + d * L);
    }
    Cell::backward(cell);
    for (int m = 0; m < M; ++m) {
      const int64_t unit = (p0 + m) * L;
      T* gathered = of.da + (p0 + m) * (kSlots * S);
      for (int g = 0; g < SLOTS; ++g) store(gathered + g * L, cell.da[g][m]);
      if constexpr (Cell::cell_state) store(of.dc + unit, cell.carried[m]);
      if constexpr (dh_in_parts) store(of.dh + unit, cell.carried[m]);
      if constexpr (Cell::projected || Cell::reset_before) store(of.inner + unit, cell.inner[m]);
    }
  }

  const T* peephole(int64_t p) const { return f.packed + at.diagonals + p * Cell::diagonals * L; }

  // The gate gradients of the input side, in the order of the parameters.
  void put_gate_gradients(int64_t active) const {
    for (int64_t r = 0; r < active; ++r)
      for (int64_t p = 0; p < P; ++p)
        for (int g = XF; g < XF + XN; ++g)
          store(f.dgates + (tape_row[slots + r] * Cell::gates + Cell::gate[g]) * H + p * L,
                load(da + (p * kSlots + slots + r) * S + g * L), int(std::min<int64_t>(L, H - p * L)));
  }

  // The gradient through U_n reaches the reset gate and the state before.
  void finish_reset(int64_t active) {
    for (int64_t r = 0; r < active; ++r) to[r] = d_inner + r * HP;
    product<T>({da + slots * S, S, P, kSlots * S, L}, active, f.packed + at.second, to, HP, false);
    for (int64_t r = 0; r < active; ++r)
      for (int64_t p = 0; p < P; ++p) {
        const int64_t slot = slots + r, unit = p * L;
        const int lanes = int(std::min<int64_t>(L, H - unit));
        const T* reset = f.gates + (tape_row[slot] * Cell::tape_gates + Cell::tape_place[1]) * H + unit;
        Vec<T> carried = load(dh + r * RP + unit);
        const Vec<T> da_r = Cell::template finish_backward<T>(
            load(reset, lanes), load(h_past[slot] + unit, lanes), load(d_inner + r * HP + unit), carried);
        store(dh + r * RP + unit, carried);
        store(da + (p * kSlots + slot) * S + L, da_r);
      }
  }

  // dx = da W, and sums += da^T (x | 1), da^T (h | 1), ..., for all gathered rows.
  void flush() {
    if (f.dx) {
      for (int64_t i = 0; i < slots; ++i) to[i] = f.dx + row[i] * f.lddx;
      product<T>({da + XF * L, S, P, kSlots * S, XN * L}, slots, f.packed + at.W, to, D, f.add_dx);
    }
    if (sums) {
      for (int64_t i = 0; i < slots; ++i) {
        gather(f.x + row[i] * f.ldx, D, Sums::ones_with_x, x_tiles + i * kColumnTile);
        gather(h_past[i], R, Sums::ones_with_h, h_tiles + i * kColumnTile);
        if constexpr (Cell::projected || Cell::reset_before)
          gather(inner + i * HP, H, false, inner_tiles + i * kColumnTile);
      }
      add_products<XN, S>(da + XF * L, P, x_tiles, sum_at.x);
      add_products<HN, S>(da + HF * L, P, h_tiles, sum_at.h);
      if constexpr (Cell::reset_before) add_products<1, S>(da, P, inner_tiles, sum_at.inner);
      if constexpr (Cell::projected) add_products<1, L>(dh_of, RP / L, inner_tiles, sum_at.inner);
      if constexpr (Cell::diagonals > 0) add_diagonals();
    }
    slots = 0;
  }

  // A row of `count` numbers, followed by a one if asked for, into its tiles, the last one filled with zeros.
  static TIMELIKE_INLINE void gather(const T* from, int64_t count, bool one, T* tile) {
    for (; count >= kColumnTile; count -= kColumnTile, from += kColumnTile, tile += kSlots * kColumnTile)
#pragma GCC unroll 6
      for (int j = 0; j < kColumnTile; ++j) tile[j] = from[j];
    if (count > 0 || one)
      for (int j = 0; j < kColumnTile; ++j) tile[j] = j < count ? from[j] : T(one && j == count);
  }

  // sums[p][column][g] += sum over the gathered rows of da[g] times the column, COUNT slots from lines STEP
  // apart. Summed in two levels, rows of this flush first: the rounding error grows with the root of their
  // number and not with that of all rows.
  template <int COUNT, int64_t STEP>
  void add_products(const T* da_slots, int64_t panels, const T* tiles, SumRegion region) const {
    constexpr int WIDE = Sums::panels_at_a_time(COUNT);
    int64_t p = 0;
    for (; p + WIDE <= panels; p += WIDE) add_panels<COUNT, STEP, WIDE>(da_slots, p, tiles, region);
    for (; p < panels; ++p) add_panels<COUNT, STEP, 1>(da_slots, p, tiles, region);
  }

  template <int COUNT, int64_t STEP, int PANELS>
  void add_panels(const T* da_slots, int64_t p0, const T* tiles, SumRegion region) const {
    for (int64_t column = 0; column < region.columns; column += kColumnTile) {
      Vec<T> acc[kColumnTile][PANELS * COUNT] = {};
      multiply_add<kColumnTile, PANELS, COUNT, 0, COUNT, kColumnTile, T>(
          acc, tiles + column * kSlots, 1, da_slots + p0 * kSlots * STEP, STEP, kSlots * STEP, slots);
      for (int p = 0; p < PANELS; ++p) {
        T* sum = sums + region.at + ((p0 + p) * region.columns + column) * COUNT * L;
        for (int r = 0; r < kColumnTile; ++r)
          for (int g = 0; g < COUNT; ++g, sum += L) store(sum, acc[r][p * COUNT + g] + load(sum));
      }
    }
  }

  // Peepholes: i and f see c_{t-1}, o sees c_t.
  void add_diagonals() const {
    for (int64_t p = 0; p < P; ++p) {
      const int lanes = int(std::min<int64_t>(L, H - p * L));
      Vec<T> acc[3] = {};
      for (int64_t i = 0; i < slots; ++i) {
        const T* gathered = da + (p * kSlots + i) * S;
        const Vec<T> before = load(c_past[i] + p * L, lanes);
        acc[0] = fma(load(gathered), before, acc[0]);
        acc[1] = fma(load(gathered + L), before, acc[1]);
        acc[2] = fma(load(gathered + 3 * L), load(f.cells + tape_row[i] * H + p * L, lanes), acc[2]);
      }
      T* sum = sums + sum_at.diagonals + p * 3 * L;
      for (int d = 0; d < 3; ++d) store(sum + d * L, acc[d] + load(sum + d * L));
    }
  }
};

// A region of sums into a matrix [rows, columns] of the caller: lane l of slot g in panel p is row
// gate[g] * units + p L + l. The column of ones, behind the last, goes to the biases.
template <class T>
void write_region(const T* sums, SumRegion region, int64_t units, const int* gate, int count, int64_t columns,
                  T* matrix, T* bias, T* second_bias) {
  constexpr int L = Lanes<T>::count;
  for (int64_t p = 0; p < panels_of<T>(units); ++p)
    for (int g = 0; g < count; ++g) {
      const T* from = sums + region.at + (p * region.columns * count + g) * L;
      const int64_t row = gate[g] * units + p * L;
      const int64_t lanes = std::min<int64_t>(L, units - p * L);
      T* to = matrix + row * columns;
      for (int64_t k = 0; k < columns; ++k, from += count * L)
        for (int64_t l = 0; l < lanes; ++l) to[l * columns + k] = from[l];
      if (bias) copy_row(bias + row, from, lanes);
      if (second_bias) copy_row(second_bias + row, from, lanes);
    }
}

template <class Cell, class T>
void write_gradients(const Backward<T>& f, const T* sums) {
  constexpr int L = Lanes<T>::count;
  using Layout = GradientLayout<Cell, T>;
  const Layout at(f.D, f.H, f.R);
  T* const from_x = Layout::ones_with_x ? f.db_ih : nullptr;
  T* const also_from_x = Layout::ones_with_x && !Layout::ones_with_h ? f.db_hh : nullptr;
  T* const from_h = Layout::ones_with_h ? f.db_hh : nullptr;
  T* const also_from_h = Layout::ones_with_h && !Layout::ones_with_x ? f.db_ih : nullptr;
  write_region(sums, at.x, f.H, Cell::gate + Cell::input.first, Cell::input.count, f.D, f.dW, from_x,
               also_from_x);
  write_region(sums, at.h, f.H, Cell::gate + Cell::state.first, Cell::state.count, f.R, f.dU, from_h,
               also_from_h);
  if constexpr (Cell::reset_before)
    write_region<T>(sums, at.inner, f.H, Cell::gate, 1, f.H, f.dU, nullptr, nullptr);
  constexpr int no_gates[] = {0};
  if constexpr (Cell::projected)
    write_region<T>(sums, at.inner, f.R, no_gates, 1, f.H, f.dprojection, nullptr, nullptr);
  for (int d = 0; d < Cell::diagonals; ++d)
    for (int64_t unit = 0; unit < f.H; ++unit)
      f.dpeephole[d * f.H + unit] = sums[at.diagonals + (unit / L * Cell::diagonals + d) * L + unit % L];
}

// The sums over a chunk depend on where the batch is cut: on the batch alone, and so that two threads or four
// get as much each.
inline int64_t backward_chunks(int64_t sequences) {
  constexpr int64_t few = 12, many = 36;
  if (sequences <= few) return 1;
  return (sequences + many - 1) / many + ((sequences + many - 1) / many) % 2;
}

// Each task has sums of its own, for one chunk or several: enough steps that adding up the sums of all tasks
// costs little, and sums that fit into memory. All this depends on the batch alone.
inline int64_t tasks_of(const Batch& batch, int64_t bytes_of_sums) {
  constexpr int64_t enough_steps = 288, most_bytes = int64_t(64) << 20;
  const int64_t most =
      std::min(batch.steps() / enough_steps, std::max<int64_t>(2, most_bytes / bytes_of_sums));
  int64_t tasks = batch.chunks;
  while (tasks > 1 && tasks > most) tasks = (tasks + 1) / 2;
  return std::max<int64_t>(1, tasks);
}

template <class Cell, class T>
void backward(const Backward<T>& f) {
  Batch batch(f.rows);
  batch.cut(backward_chunks(f.rows.count));
  const int64_t size = f.dW ? GradientLayout<Cell, T>(f.D, f.H, f.R).size : 0;
  const int64_t tasks = f.dW ? tasks_of(batch, size * int64_t(sizeof(T))) : batch.chunks;
  static thread_local Workspace gradients;
  T* sums = nullptr;
  gradients.lay_out([&] { sums = gradients.template take<T>(tasks * size); });
  const double work = 2.0 * double(batch.steps()) * double(f.H) * double(Cell::slots * (f.D + f.R) + 50);
  run_tasks(tasks, worthwhile_threads(f.threads, work), [&](int64_t task) {
    static thread_local Workspace workspace;
    T* own = f.dW ? sums + task * size : nullptr;
    if (own) std::memset(own, 0, size_t(size) * sizeof(T));
    for (int64_t k = task; k < batch.chunks; k += tasks)
      BackwardChunk<Cell, T>(f, batch.order.data() + batch.begin(k), batch.end(k) - batch.begin(k), own,
                             workspace)
          .run();
  });
  if (!f.dW) return;
  for (int64_t task = 1; task < tasks; ++task)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[task * size + i];
  write_gradients<Cell>(f, sums);
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
