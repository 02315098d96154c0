// The time loop of a recurrent layer, forward and backward: a template over cell and precision.
//
// A chunk of sequences runs all its steps before the next chunk starts, so its states and the packed
// weights stay in cache. Widths: L lanes, P = ceil(H / L) panels of units, HP = P L units with padding,
// S = G L numbers of one panel in one row ("gates side by side").
//
// Packed for forward, per panel:  [1 + D + H][G][L]   bias, then W, then U, one line per input
// Packed for backward:            U, then W, in column panels (gemm.h), K in the order [panel][G][L]
// Padding lanes hold zero weights, so padded units stay at h = c = 0 and their gradients at 0.
#pragma once

#include <cstring>

#include "gemm.h"
#include "rows.h"

namespace timelike {
namespace TIMELIKE_ISA {

template <class T>
int64_t unit_panels(int64_t H) {
  return (H + Lanes<T>::count - 1) / Lanes<T>::count;
}

template <class Cell, class T>
int64_t forward_size(int64_t D, int64_t H) {
  return unit_panels<T>(H) * (1 + D + H) * Cell::G * Lanes<T>::count;
}

template <class Cell, class T>
int64_t backward_size(int64_t D, int64_t H) {
  constexpr int L = Lanes<T>::count;
  return (column_panels(H, L) + column_panels(D, L)) * kColumnGroup * L * unit_panels<T>(H) * Cell::G * L;
}

// L rows of a [G H, K] matrix become lanes: to[k][lane] = row[lane][k], lines S apart.
template <class T>
void pack_lanes(const T* matrix, int64_t K, int real, int64_t S, T* to) {
  constexpr int L = Lanes<T>::count;
  if (real == L) {
    for (int64_t k = 0; k < K; ++k, to += S)
      for (int l = 0; l < L; ++l) to[l] = matrix[l * K + k];
  } else {
    for (int64_t k = 0; k < K; ++k, to += S)
      for (int l = 0; l < L; ++l) to[l] = l < real ? matrix[l * K + k] : T(0);
  }
}

template <class Cell, class T>
void pack_forward(const Weights<T>& w, T* packed) {
  constexpr int L = Lanes<T>::count, G = Cell::G;
  constexpr int64_t S = G * L;
  for (int64_t p = 0; p < unit_panels<T>(w.H); ++p) {
    T* panel = packed + p * (1 + w.D + w.H) * S;
    const int real = int(std::min<int64_t>(L, w.H - p * L));
    for (int g = 0; g < G; ++g) {
      const int64_t row = g * w.H + p * L;
      for (int l = 0; l < L; ++l)
        panel[g * L + l] =
            l < real ? (w.b_ih ? w.b_ih[row + l] : T(0)) + (w.b_hh ? w.b_hh[row + l] : T(0)) : T(0);
      pack_lanes(w.W + row * w.D, w.D, real, S, panel + S + g * L);
      pack_lanes(w.U + row * w.H, w.H, real, S, panel + (1 + w.D) * S + g * L);
    }
  }
}

template <class Cell, class T>
T* pack_columns(const T* matrix, int64_t H, int64_t columns, T* to) {
  constexpr int L = Lanes<T>::count, G = Cell::G;
  constexpr int64_t width = kColumnGroup * L;
  for (int64_t column = 0; column < columns; column += width) {
    const int64_t n = std::min(width, columns - column);
    for (int64_t p = 0; p < unit_panels<T>(H); ++p)
      for (int g = 0; g < G; ++g)
        for (int l = 0; l < L; ++l, to += width) {
          const int64_t unit = p * L + l;
          const T* from = matrix + (g * H + unit) * columns + column;
          if (unit < H && n == width)
            for (int64_t j = 0; j < width; ++j) to[j] = from[j];
          else
            for (int64_t j = 0; j < width; ++j) to[j] = unit < H && j < n ? from[j] : T(0);
        }
  }
  return to;
}

template <class Cell, class T>
void pack_backward(const Weights<T>& w, T* packed) {
  packed = pack_columns<Cell>(w.U, w.H, w.H, packed);
  pack_columns<Cell>(w.W, w.H, w.D, packed);
}

// Row b of a state [B, H] as the chunks keep it: HP wide, zeros behind H, and all zeros where none is given.
template <class T>
void padded_row(const T* state, int64_t b, int64_t H, int64_t HP, T* to) {
  const int64_t given = state ? H : 0;
  if (state) std::memcpy(to, state + b * H, size_t(H) * sizeof(T));
  std::memset(to + given, 0, size_t(HP - given) * sizeof(T));
}

// ---------------------------------------------------------------------------------------------- forward

template <class Cell, class T>
class ForwardChunk {
  static constexpr int L = Lanes<T>::count, G = Cell::G;
  static constexpr int64_t S = G * L;
  // Chunks this small spend their time waiting for the row before: their input products are summed ahead
  // for a window of steps, in full tiles, and only the state products stay in the time loop.
  static constexpr int64_t kSmall = 2, kWindow = 64;

  const Forward<T>& f;
  const int64_t* order;  // the chunk's sequences, longest first
  const int64_t n;
  const int64_t D, H, P, HP, lda, panel_stride;
  const bool ahead;
  T *state, *next, *c;  // state, next: [n, lda], the row x | h; c: [n, HP]
  T *inputs, *sums;     // input products ahead: inputs [window n, D], sums [window n, P, S]
  int64_t* row;         // [n] where this step lies

 public:
  static size_t bytes(int64_t n, int64_t D, int64_t H) {
    const int64_t P = unit_panels<T>(H);
    return 2 * Workspace::bytes<T>(n * (D + P * L)) + Workspace::bytes<T>(n * P * L) +
           Workspace::bytes<int64_t>(n) +
           (n <= kSmall ? Workspace::bytes<T>(kWindow * n * D) + Workspace::bytes<T>(kWindow * n * P * S)
                        : 0);
  }

  ForwardChunk(const Forward<T>& call, const int64_t* sequences, int64_t count, Workspace& w)
      : f(call),
        order(sequences),
        n(count),
        D(f.D),
        H(f.H),
        P(unit_panels<T>(H)),
        HP(P * L),
        lda(D + HP),
        panel_stride((1 + D + H) * S),
        ahead(n <= kSmall),
        state(w.take<T>(n * lda)),
        next(w.take<T>(n * lda)),
        c(w.take<T>(n * HP)),
        inputs(ahead ? w.take<T>(kWindow * n * D) : nullptr),
        sums(ahead ? w.take<T>(kWindow * n * P * S) : nullptr),
        row(w.take<int64_t>(n)) {}

  void run() {
    for (int64_t r = 0; r < n; ++r) {
      padded_row(f.h0, order[r], H, HP, state + r * lda + D);
      padded_row(f.c0, order[r], H, HP, c + r * HP);
    }
    int64_t active = n;
    for (int64_t s = 0; (active = finish(active, s)) > 0; ++s) {
      if (ahead && s % kWindow == 0) sum_inputs(active, s);
      step(active, s);
      std::swap(state, next);
    }
  }

 private:
  // Hands out the final states of the sequences that have no step s; returns how many go on.
  int64_t finish(int64_t active, int64_t s) const {
    const int64_t left = still_active(f.rows, order, active, s);
    for (int64_t r = left; r < active; ++r) {
      if (f.hT) std::memcpy(f.hT + order[r] * H, state + r * lda + D, size_t(H) * sizeof(T));
      if (f.cT) std::memcpy(f.cT + order[r] * H, c + r * HP, size_t(H) * sizeof(T));
    }
    return left;
  }

  void sum_inputs(int64_t active, int64_t s0) const {
    int64_t slots = 0;
    for (int64_t s = s0, m = active; s < s0 + kWindow && (m = still_active(f.rows, order, m, s)) > 0; ++s)
      for (int64_t r = 0; r < n; ++r, ++slots)  // n slots per step, so that a slot is found without a table
        if (r < m)
          std::memcpy(inputs + slots * D, f.x + row_of(f.rows, order[r], s) * f.ldx, size_t(D) * sizeof(T));
        else
          std::memset(inputs + slots * D, 0, size_t(D) * sizeof(T));
    for (int64_t p = 0; p < P; ++p) {
      int64_t r = 0;
      for (; r + 3 <= slots; r += 3) input_tile<3>(r, p);
      for (; r < slots; ++r) input_tile<1>(r, p);
    }
  }

  template <int R>
  void input_tile(int64_t slot, int64_t p) const {
    Vec<T> acc[R][G];
    const T* panel = f.packed + p * panel_stride;
    for (int r = 0; r < R; ++r)
      for (int g = 0; g < G; ++g) acc[r][g] = load(panel + g * L);
    multiply_add<R, 1, G, 1, T>(acc, inputs + slot * D, D, panel + S, 0, D);
    for (int r = 0; r < R; ++r)
      for (int g = 0; g < G; ++g) store(sums + ((slot + r) * P + p) * S + g * L, acc[r][g]);
  }

  void step(int64_t active, int64_t s) {
    for (int64_t r = 0; r < active; ++r) {
      row[r] = row_of(f.rows, order[r], s);
      if (!ahead) std::memcpy(state + r * lda, f.x + row[r] * f.ldx, size_t(D) * sizeof(T));
    }
    const T* sum = ahead ? sums + (s % kWindow) * n * P * S : nullptr;
    if (active >= 3) {
      for (int64_t p = 0; p < P; ++p) {
        int64_t r = 0;
        for (; r + 3 <= active; r += 3) tile<3, 1>(r, p, sum);
        if (active - r == 2) tile<2, 1>(r, p, sum);
        if (active - r == 1) tile<1, 1>(r, p, sum);
      }
    } else if (active == 2) {
      for (int64_t p = 0; p < P; ++p) tile<2, 1>(0, p, sum);
    } else {  // one row needs two panels to keep the multipliers busy
      int64_t p = 0;
      for (; p + 2 <= P; p += 2) tile<1, 2>(0, p, sum);
      if (p < P) tile<1, 1>(0, p, sum);
    }
  }

  // The tape's lines arrive while the products are summed.
  template <int R>
  TIMELIKE_INLINE void prefetch_tape(int64_t r0, int64_t p0) const {
    for (int r = 0; r < R; ++r) {
      const int64_t at = row[r0 + r];
      for (int g = 0; g < G; ++g) __builtin_prefetch(f.gates + (at * G + g) * H + p0 * L, 1);
      __builtin_prefetch(f.cells + at * H + p0 * L, 1);
      __builtin_prefetch(f.y + at * f.ldy + p0 * L, 1);
    }
  }

  template <int R, int PANELS>
  void tile(int64_t r0, int64_t p0, const T* sum) const {
    Vec<T> acc[R][PANELS * G];
    const T* panel = f.packed + p0 * panel_stride;
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < PANELS; ++p)
        for (int g = 0; g < G; ++g)
          acc[r][p * G + g] =
              load((sum ? sum + ((r0 + r) * P + p0 + p) * S : panel + p * panel_stride) + g * L);
    if (f.gates) prefetch_tape<R>(r0, p0);
    if (sum)
      multiply_add<R, PANELS, G, 1, T>(acc, state + r0 * lda + D, lda, panel + (1 + D) * S, panel_stride, H);
    else
      multiply_add<R, PANELS, G, 1, T>(acc, state + r0 * lda, lda, panel + S, panel_stride, D + H);
    constexpr int M = R * PANELS;
    Vec<T> gate[G][M], cell[M], h[M];
    for (int m = 0; m < M; ++m) {
      cell[m] = load(c + (r0 + m % R) * HP + (p0 + m / R) * L);
      for (int g = 0; g < G; ++g) gate[g][m] = acc[m % R][m / R * G + g];
    }
    Cell::template forward<T, M>(gate, cell, h);
    for (int m = 0; m < M; ++m) {
      const int64_t r = r0 + m % R, unit = (p0 + m / R) * L, at = row[r];
      const int lanes = int(std::min<int64_t>(L, H - unit));
      store(c + r * HP + unit, cell[m]);
      store(next + r * lda + D + unit, h[m]);
      store(f.y + at * f.ldy + unit, h[m], lanes);
      if (f.gates) {
        for (int g = 0; g < G; ++g) store(f.gates + (at * G + g) * H + unit, gate[g][m], lanes);
        store(f.cells + at * H + unit, cell[m], lanes);
      }
    }
  }
};

template <class Cell, class T>
void forward(const Forward<T>& f) {
  const Batch batch(f.rows);
  Workspace& workspace = thread_workspace();
  for (int64_t k = 0; k < batch.chunks(); ++k) {
    const int64_t count = batch.end(k) - batch.begin(k);
    workspace.reserve(ForwardChunk<Cell, T>::bytes(count, f.D, f.H));
    ForwardChunk<Cell, T>(f, batch.order.data() + batch.begin(k), count, workspace).run();
  }
}

// --------------------------------------------------------------------------------------------- backward

// The sum over rows of dgates^T (x | h_{t-1} 1) of a chunk, in packed order: [P][columns][S]. The columns of
// x and those of h_{t-1} 1 are each rounded up to whole tiles.
constexpr int kColumnTile = 3;

inline int64_t whole_tiles(int64_t columns) {
  return (columns + kColumnTile - 1) / kColumnTile * kColumnTile;
}
inline int64_t weight_columns(int64_t D, int64_t H) { return whole_tiles(D) + whole_tiles(H + 1); }

template <class Cell, class T>
class BackwardChunk {
  static constexpr int L = Lanes<T>::count, G = Cell::G;
  static constexpr int64_t S = G * L;
  // Gate gradients are gathered for this many rows before they are multiplied with inputs and states: one
  // panel of them (18 KiB) stays in the L1 cache.
  static constexpr int64_t kSlots = 3 * kChunk;

  const Backward<T>& f;
  const int64_t* order;
  const int64_t n;
  const int64_t D, H, P, HP, columns;
  T *dh, *dc;      // [n, HP] carried from step to step
  T* zeros;        // [H] the state before the first step where none was given
  T* da;           // [P, kSlots, S] gate gradients, panel by panel
  T* tiles;        // [columns / 3, kSlots, 3] the matching x | h_{t-1} | 1
  T* sums;         // [P, columns, S] weight gradients
  int64_t* row;    // [kSlots] row of each slot
  const T** past;  // [kSlots] h_{t-1} of each slot
  T** to;          // [kSlots] where a product's rows go
  int64_t slots = 0;

 public:
  static size_t bytes(int64_t n, int64_t D, int64_t H) {
    const int64_t P = unit_panels<T>(H);
    return 2 * Workspace::bytes<T>(n * P * L) + Workspace::bytes<T>(H) + Workspace::bytes<T>(P * kSlots * S) +
           Workspace::bytes<T>(weight_columns(D, H) * kSlots) +
           Workspace::bytes<T>(P * weight_columns(D, H) * S) + Workspace::bytes<int64_t>(kSlots) +
           2 * Workspace::bytes<T*>(kSlots);
  }

  BackwardChunk(const Backward<T>& call, const int64_t* sequences, int64_t count, Workspace& w)
      : f(call),
        order(sequences),
        n(count),
        D(f.D),
        H(f.H),
        P(unit_panels<T>(H)),
        HP(P * L),
        columns(weight_columns(D, H)),
        dh(w.take<T>(n * HP)),
        dc(w.take<T>(n * HP)),
        zeros(w.take<T>(H)),
        da(w.take<T>(P * kSlots * S)),
        tiles(w.take<T>(columns * kSlots)),
        sums(w.take<T>(P * columns * S)),
        row(w.take<int64_t>(kSlots)),
        past(w.take<const T*>(kSlots)),
        to(w.take<T*>(kSlots)) {}

  const T* run() {
    std::memset(zeros, 0, size_t(H) * sizeof(T));
    std::memset(sums, 0, size_t(P * columns * S) * sizeof(T));
    for (int64_t r = 0; r < n; ++r) {
      padded_row(f.dhT, order[r], H, HP, dh + r * HP);
      padded_row(f.dcT, order[r], H, HP, dc + r * HP);
    }
    const int64_t longest = f.rows.length[order[0]];
    int64_t active = 0;
    for (int64_t s = longest - 1; s >= 0; --s) {
      while (active < n && f.rows.length[order[active]] > s) ++active;
      if (slots + active > kSlots) flush();
      step(active, s);
    }
    flush();
    for (int64_t r = 0; r < n; ++r) {
      if (f.dh0) std::memcpy(f.dh0 + order[r] * H, dh + r * HP, size_t(H) * sizeof(T));
      if (f.dc0) std::memcpy(f.dc0 + order[r] * H, dc + r * HP, size_t(H) * sizeof(T));
    }
    return sums;
  }

 private:
  void step(int64_t active, int64_t s) {
    for (int64_t r = 0; r < active; ++r) {
      const int64_t b = order[r], at = row_of(f.rows, b, s);
      const int64_t before = s > 0 ? row_of(f.rows, b, s - 1) : -1;
      row[slots + r] = at;
      past[slots + r] = s > 0 ? f.y + before * f.ldy : f.h0 ? f.h0 + b * H : zeros;
      const T* c_past = s > 0 ? f.cells + before * H : f.c0 ? f.c0 + b * H : zeros;
      int64_t p = 0;
      for (; p + 2 <= P; p += 2) gate_gradients<2>(r, p, at, c_past);
      if (p < P) gate_gradients<1>(r, p, at, c_past);
    }
    if (s > 0) prefetch(active, s - 1);
    if (s > 0 || f.dh0) {
      for (int64_t r = 0; r < active; ++r) to[r] = dh + r * HP;
      gradient_times_weights(da + slots * S, active, P, kSlots * S, S, f.packed, to, HP, false);
    }
    slots += active;
  }

  // The tape of the step before arrives while this step's products are summed.
  void prefetch(int64_t active, int64_t s) const {
    constexpr int64_t line = 64 / sizeof(T);
    for (int64_t r = 0; r < active; ++r) {
      const int64_t b = order[r], at = row_of(f.rows, b, s);
      for (int64_t k = 0; k < G * H; k += line) __builtin_prefetch(f.gates + at * G * H + k);
      for (int64_t k = 0; f.dy && k < H; k += line) __builtin_prefetch(f.dy + at * f.lddy + k);
      if (s > 0)
        for (int64_t k = 0; k < H; k += line) __builtin_prefetch(f.cells + row_of(f.rows, b, s - 1) * H + k);
    }
  }

  // M panels of units in one row.
  template <int M>
  TIMELIKE_INLINE void gate_gradients(int64_t r, int64_t p0, int64_t at, const T* c_past) {
    Vec<T> gate[G][M], d[G][M], carried[M], total[M], cell[M], cell_past[M];
    for (int m = 0; m < M; ++m) {
      const int64_t unit = (p0 + m) * L;
      const int lanes = int(std::min<int64_t>(L, H - unit));
      for (int g = 0; g < G; ++g) gate[g][m] = load(f.gates + (at * G + g) * H + unit, lanes);
      cell[m] = load(f.cells + at * H + unit, lanes);
      cell_past[m] = load(c_past + unit, lanes);
      carried[m] = load(dc + r * HP + unit);
      total[m] = load(dh + r * HP + unit);
      if (f.dy) total[m] = total[m] + load(f.dy + at * f.lddy + unit, lanes);
    }
    Cell::template backward<T, M>(gate, cell_past, cell, total, carried, d);
    for (int m = 0; m < M; ++m) {
      const int64_t unit = (p0 + m) * L;
      const int lanes = int(std::min<int64_t>(L, H - unit));
      store(dc + r * HP + unit, carried[m]);
      T* slot = da + ((p0 + m) * kSlots + slots + r) * S;
      for (int g = 0; g < G; ++g) store(slot + g * L, d[g][m]);
      if (f.dgates)
        for (int g = 0; g < G; ++g) store(f.dgates + (at * G + g) * H + unit, d[g][m], lanes);
    }
  }

  // dx = da W, and sums += da^T (x | h | 1), for all gathered rows.
  void flush() {
    if (f.dx) {
      for (int64_t i = 0; i < slots; ++i) to[i] = f.dx + row[i] * f.lddx;
      const T* W = f.packed + column_panels(H, L) * kColumnGroup * L * P * S;
      gradient_times_weights(da, slots, P, kSlots * S, S, W, to, D, f.add_dx);
    }
    if (f.dW) {
      gather();
      for (int64_t p = 0; p < P; ++p)
        for (int64_t column = 0; column < columns; column += kColumnTile) weight_tile(p, column);
    }
    slots = 0;
  }

  // x | h_{t-1} 1, cut into tiles of three columns: contiguous for weight_tile.
  void gather() {
    T last[kColumnTile] = {};  // the columns behind the last whole tile, then 1
    const int64_t whole = H / kColumnTile * kColumnTile;
    last[H - whole] = T(1);
    for (int64_t i = 0; i < slots; ++i) {
      T* at = put(f.x + row[i] * f.ldx, D, tiles + i * kColumnTile);
      at = put(past[i], whole, at);
      for (int64_t k = whole; k < H; ++k) last[k - whole] = past[i][k];
      put(last, kColumnTile, at);
    }
  }

  // A row of n numbers into its tiles, the last one filled up with zeros.
  static TIMELIKE_INLINE T* put(const T* from, int64_t n, T* at) {
    for (; n >= kColumnTile; n -= kColumnTile, from += kColumnTile, at += kSlots * kColumnTile)
      at[0] = from[0], at[1] = from[1], at[2] = from[2];
    if (n > 0) {
      at[0] = from[0], at[1] = n > 1 ? from[1] : T(0), at[2] = T(0);
      at += kSlots * kColumnTile;
    }
    return at;
  }

  // Summed in two levels, rows of this flush first: the rounding error grows with the root of their number
  // and not with that of all rows.
  void weight_tile(int64_t p, int64_t column) {
    T* sum = sums + (p * columns + column) * S;
    Vec<T> acc[kColumnTile][G] = {};
    multiply_add<kColumnTile, 1, G, kColumnTile, T>(acc, tiles + column * kSlots, 1, da + p * kSlots * S, 0,
                                                    slots);
    for (int r = 0; r < kColumnTile; ++r)
      for (int g = 0; g < G; ++g) store(sum + r * S + g * L, acc[r][g] + load(sum + r * S + g * L));
  }
};

// dW, dU, db (+=) from packed order; the first chunk writes, the others add.
template <class Cell, class T>
void unpack_weight_gradients(const Backward<T>& f, const T* sums, bool add) {
  constexpr int L = Lanes<T>::count, G = Cell::G;
  const int64_t D = f.D, H = f.H, columns = weight_columns(D, H);
  for (int64_t unit = 0; unit < H; ++unit)
    for (int g = 0; g < G; ++g) {
      const T* from = sums + unit / L * columns * G * L + g * L + unit % L;
      const int64_t row = g * H + unit;
      T* dW = f.dW + row * D;
      T* dU = f.dU + row * H;
      for (int64_t k = 0; k < D; ++k, from += G * L) dW[k] = add ? dW[k] + *from : *from;
      from += (whole_tiles(D) - D) * G * L;
      for (int64_t k = 0; k < H; ++k, from += G * L) dU[k] = add ? dU[k] + *from : *from;
      f.db[row] = add ? f.db[row] + *from : *from;
    }
}

template <class Cell, class T>
void backward(const Backward<T>& f) {
  const Batch batch(f.rows);
  Workspace& workspace = thread_workspace();
  for (int64_t k = 0; k < batch.chunks(); ++k) {
    const int64_t count = batch.end(k) - batch.begin(k);
    workspace.reserve(BackwardChunk<Cell, T>::bytes(count, f.D, f.H));
    const T* sums = BackwardChunk<Cell, T>(f, batch.order.data() + batch.begin(k), count, workspace).run();
    if (f.dW) unpack_weight_gradients<Cell, T>(f, sums, k > 0);
  }
  if (f.dW && batch.chunks() == 0) {
    std::memset(f.dW, 0, size_t(Cell::G * f.H * f.D) * sizeof(T));
    std::memset(f.dU, 0, size_t(Cell::G * f.H * f.H) * sizeof(T));
    std::memset(f.db, 0, size_t(Cell::G * f.H) * sizeof(T));
  }
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
