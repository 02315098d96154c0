// The time loop forward: a template over cell and precision.
//
// A chunk of sequences runs all its steps before the next chunk starts, so its states and the packed weights
// stay in cache.
#pragma once

#include <cstring>

#include "pack.h"
#include "rows.h"
#include "threads.h"

namespace timelike {
namespace TIMELIKE_ISA {

// Row b of a state [B, width] as the chunks keep it: zeros behind it, and all zeros where none is given.
template <class T>
void padded_row(const T* state, int64_t b, int64_t width, int64_t padded_width, T* to) {
  const int64_t given = state ? width : 0;
  if (state) std::memcpy(to, state + b * width, size_t(width) * sizeof(T));
  std::memset(to + given, 0, size_t(padded_width - given) * sizeof(T));
}

template <class Cell, class T>
class ForwardChunk {
  static constexpr int L = Lanes<T>::count, SLOTS = Cell::slots;
  static constexpr int64_t S = SLOTS * L;
  static constexpr int XF = Cell::input.first, XN = Cell::input.count;
  static constexpr int HF = Cell::state.first, HN = Cell::state.count;
  static constexpr bool one_line = XF == HF && XN == HN;  // lines of x and of h are alike
  // A tile of rows times panels fills the registers with sums.
  static constexpr int kRows = SLOTS == 1 ? 6 : TIMELIKE_REGISTERS / 16 * (XN == 3 ? 4 : 3),
                       kPanels = SLOTS == 1 ? TIMELIKE_REGISTERS / 8 : 1;
  static constexpr int kSinglePanels =
      SLOTS == 1 ? 8 : 2;  // one row alone: as many sums as hide their latency
  // Chunks this small spend their time waiting for the row before, and weights this large come from far away:
  // there the input products are summed ahead for a window of steps, in full tiles, and only the state
  // products stay in the time loop.
  static constexpr int64_t kSmall = 2, kWindow = 64, kWindowOfLarge = 8;
  static constexpr int64_t kNear = 64 << 10;        // numbers that stay in the L2 cache
  static constexpr int64_t kFirstCache = 64 << 10;  // bytes of a panel, most of which the L1 cache keeps
  static constexpr int64_t kLine = 64 / int64_t(sizeof(T));  // numbers in a line of the caches

  // Null for what is not wanted.
  struct Place {
    T *y, *hidden, *gates, *cells;
    const T* x_ahead;  // of the next step
  };

  const Forward<T>& f;
  const int64_t* order;  // the chunk's sequences, longest first
  const int64_t n;
  const int64_t D, H, R, P, HP, RP, lda;
  const ForwardLayout<Cell, T> at;
  const int64_t window;              // steps whose input products are summed ahead
  const int64_t sum_row, sum_panel;  // distances there: rows side by side, or the panels of a row
  const bool far;                    // whether rows that are read and written once do not stay in the caches
  T *state, *next;                   // [n, lda], the row x | h
  T* c;                              // [n, HP] of a cell with cell state
  T* inner;             // [n, HP] what the second product takes: m of a projection, r h of reset-before
  T *open, *update;     // [n, HP] reset-before: the candidate's sum so far, and z
  T *inputs, *sums;     // input products ahead: inputs [window n, D], sums [P, window n, S]
  int64_t* first_slot;  // [window] the first row of each step there
  Place* place;         // [n] where this step's results go
  T** to;               // [n] where a product's rows go

 public:
  ForwardChunk(const Forward<T>& call, const int64_t* sequences, int64_t count, Workspace& w)
      : f(call),
        order(sequences),
        n(count),
        D(f.D),
        H(f.H),
        R(f.R),
        P(panels_of<T>(H)),
        HP(P * L),
        RP(padded<T>(R)),
        lda(D + RP),
        at(D, H, R),
        window(n <= kSmall  ? kWindow
               : is_large() ? kWindowOfLarge
                            : 0),
        sum_row(n <= kSmall ? P * S : S),
        sum_panel(n <= kSmall ? S : window * n * S),
        far(n * (f.rows.end - f.rows.begin) *
                ((f.gates ? Cell::tape_gates * H : 0) + (f.cells ? H : 0) + R + D) >
            kNear) {
    w.lay_out([&] {
      state = w.template take<T>(n * lda), next = w.template take<T>(n * lda);
      if (Cell::cell_state) c = w.template take<T>(n * HP);
      if (Cell::projected || Cell::reset_before) inner = w.template take<T>(n * HP);
      if (Cell::reset_before) open = w.template take<T>(n * HP), update = w.template take<T>(n * HP);
      if (window) {
        inputs = w.template take<T>(window * n * D), sums = w.template take<T>(window * n * P * S);
        first_slot = w.template take<int64_t>(window);
      }
      place = w.template take<Place>(n);
      to = w.template take<T*>(n);
    });
  }

  void run() {
    for (int64_t r = 0; r < n; ++r) {
      padded_row(f.h0, order[r], R, RP, state + r * lda + D);
      if (Cell::cell_state) padded_row(f.c0, order[r], H, HP, c + r * HP);
      if (Cell::projected) std::memset(next + r * lda + D, 0, size_t(RP) * sizeof(T));
    }
    int64_t active = n;
    for (int64_t s = f.rows.begin; s < f.rows.end; ++s) {
      active = finish(active, still_active(f.rows, order, active, s));
      if (active == 0) return;
      if (window && (s - f.rows.begin) % window == 0) sum_inputs(active, s);
      step(active, s);
      std::swap(state, next);
    }
    finish(active, 0);
  }

 private:
  bool is_large() const { return (D * XN + R * HN) * HP * int64_t(sizeof(T)) > kLarge; }

  // Hands out the states of those sequences that do not go on.
  int64_t finish(int64_t active, int64_t left) const {
    for (int64_t r = left; r < active; ++r) {
      if (f.hT) copy_row(f.hT + order[r] * R, state + r * lda + D, R);
      if (Cell::cell_state && f.cT) copy_row(f.cT + order[r] * H, c + r * HP, H);
    }
    return left;
  }

  void sum_inputs(int64_t active, int64_t s0) const {
    int64_t slots = 0;
    for (int64_t s = s0, m = active; s < std::min(s0 + window, f.rows.end); ++s) {
      m = still_active(f.rows, order, m, s);
      first_slot[s - s0] = slots;
      for (int64_t r = 0; r < m; ++r, ++slots)
        copy_row(inputs + slots * D, f.x + row_of(f.rows, order[r], s) * f.ldx, D);
    }
    for (int64_t p = 0; p < P; ++p) {
      int64_t r = 0;
      for (; r + kRows <= slots; r += kRows) input_tile<kRows>(r, p);
      for (; r < slots; ++r) input_tile<1>(r, p);
    }
  }

  template <int ROWS>
  void input_tile(int64_t slot, int64_t p) const {
    Vec<T> acc[ROWS][SLOTS];
    const T* panel = f.packed + p * at.panel;
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < SLOTS; ++g) acc[r][g] = load(panel + g * L);
    multiply_add<ROWS, 1, SLOTS, XF, XN, 1, T>(acc, inputs + slot * D, D, panel + at.input, XN * L, 0, D);
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < SLOTS; ++g) store(sums + p * sum_panel + (slot + r) * sum_row + g * L, acc[r][g]);
  }

  void step(int64_t active, int64_t s) {
    for (int64_t r = 0; r < active; ++r) {
      const int64_t row = row_of(f.rows, order[r], s), kept = tape_row_of(f.rows, order[r], s);
      place[r] = {f.y ? f.y + row * f.ldy : nullptr, f.hidden ? f.hidden + kept * R : nullptr,
                  f.gates ? f.gates + kept * Cell::tape_gates * H : nullptr,
                  f.cells ? f.cells + kept * H : nullptr,
                  far && s + 1 < std::min(f.rows.end, f.rows.length[order[r]])
                      ? f.x + row_of(f.rows, order[r], s + 1) * f.ldx
                      : nullptr};
      if (!window) copy_row(state + r * lda, f.x + row * f.ldx, D);
    }
    const T* sum = window ? sums + first_slot[(s - f.rows.begin) % window] * sum_row : nullptr;
    int64_t p = 0;
    if (active == 1)
      for (; p + kSinglePanels <= P; p += kSinglePanels) tile<1, kSinglePanels>(0, p, sum);
    all_panels<kPanels>(active, p, sum, is_large() && (s - f.rows.begin) % 2);
    if constexpr (Cell::projected) project(active);
    if constexpr (Cell::reset_before) finish_reset(active);
  }

  // What is known of a tile when it is compiled. In a whole one all lanes are units and its input products
  // are its own; in a far one, besides, what it writes does not stay in the caches.
  enum class Tile { any, whole, far };

  // So many panels at a time, then half as many, and so on. Steps `turned` begin with the panels that the
  // step before ended with: of large weights those are still in the second cache.
  template <int PANELS>
  void all_panels(int64_t active, int64_t first, const T* sum, bool turned) {
    const int64_t times = (P - first) / PANELS, rest = first + times * PANELS;
    for (int64_t k = 0; k < times; ++k)
      all_rows<PANELS>(active, first + (turned ? times - 1 - k : k) * PANELS, sum, turned ? -PANELS : PANELS);
    if constexpr (PANELS > 1)
      if (rest < P) all_panels<PANELS / 2>(active, rest, sum, turned);
  }

  // The panels stay in the L1 cache over the rows, if they fit; `ahead` panels on are those that come next.
  template <int PANELS>
  void all_rows(int64_t active, int64_t p, const T* sum, int64_t ahead) {
    const RowTiles<kRows> tiles(active, PANELS * at.panel * int64_t(sizeof(T)) > kFirstCache);
    int64_t r = 0;
    if (sum || (p + PANELS) * L > H)
      for (; r < tiles.full; r += kRows) tile<kRows, PANELS>(r, p, sum, ahead);
    else if (far)
      for (; r < tiles.full; r += kRows) tile<kRows, PANELS, Tile::far>(r, p, nullptr);
    else
      for (; r < tiles.full; r += kRows) tile<kRows, PANELS, Tile::whole>(r, p, nullptr);
    for (int rows; r < active; r += rows) {
      rows = tiles.next(active - r);
      if (far && !sum)
        for (int64_t i = r; i < r + rows; ++i)
          for (int64_t unit = 0; unit < PANELS * L; unit += kLine) fetch(place[i], p * L + unit);
      last_tile<PANELS>(rows, r, p, sum, ahead);
    }
  }

  template <int PANELS, int ROWS = RowTiles<kRows>::most_last>
  TIMELIKE_INLINE void last_tile(int rows, int64_t r, int64_t p, const T* sum, int64_t ahead) {
    if (rows == ROWS) return tile<ROWS, PANELS>(r, p, sum, ahead);
    if constexpr (ROWS > 1) last_tile<PANELS, ROWS - 1>(rows, r, p, sum, ahead);
  }

  // What a tile writes for one of its rows, and the first tile's share of the next step's inputs.
  TIMELIKE_INLINE void fetch(const Place& at_row, int64_t unit) const {
    if (at_row.gates)
      for (int g = 0; g < Cell::tape_gates; ++g) __builtin_prefetch(at_row.gates + g * H + unit, 1);
    if (at_row.cells) __builtin_prefetch(at_row.cells + unit, 1);
    if (at_row.y) __builtin_prefetch(at_row.y + unit, 1);
    if (unit == 0 && at_row.x_ahead)
      for (int64_t k = 0; k < D; k += kLine) __builtin_prefetch(at_row.x_ahead + k);
  }

  template <int ROWS, int PANELS, Tile KIND = Tile::any>
  void tile(int64_t r0, int64_t p0, const T* sum, int64_t ahead = 0) {
    if constexpr (KIND != Tile::any) sum = nullptr;
    Vec<T> acc[ROWS][PANELS * SLOTS];
    const T* panel = f.packed + p0 * at.panel;
    for (int r = 0; r < ROWS; ++r)
      for (int p = 0; p < PANELS; ++p)
        for (int g = 0; g < SLOTS; ++g)
          acc[r][p * SLOTS + g] =
              load((sum ? sum + (p0 + p) * sum_panel + (r0 + r) * sum_row : panel + p * at.panel) + g * L);
    const T* x = state + r0 * lda;
    if constexpr (!one_line)
      if (!sum)
        multiply_add<ROWS, PANELS, SLOTS, XF, XN, 1, T>(acc, x, lda, panel + at.input, XN * L, at.panel, D);
    const bool both = one_line && !sum;
    const T *a = both ? x : x + D, *lines = panel + (both ? at.input : at.state);
    const int64_t count = both ? D + R : R;
    if (KIND == Tile::any && sum && ROWS >= 3) {
      // Large weights: the first tiles of a panel fetch the next one.
      const T* next = lines + (p0 + ahead >= 0 && p0 + ahead < P ? ahead : 0) * at.panel;
      multiply_add<ROWS, PANELS, SLOTS, HF, HN, 1, T>(acc, a, lda, lines, HN * L, at.panel, count,
                                                      Lines(next + r0 / kRows * count * kLine));
    } else if constexpr (KIND != Tile::far) {
      multiply_add<ROWS, PANELS, SLOTS, HF, HN, 1, T>(acc, a, lda, lines, HN * L, at.panel, count);
    } else {
      // In parts, one per row, and before each a few lines of memory are asked for: too many at once get
      // lost.
      const int64_t part = (count + ROWS - 1) / ROWS;
      for (int64_t k = 0, r = r0; k < count; k += part, ++r) {
        for (int64_t unit = 0; unit < PANELS * L; unit += kLine) fetch(place[r], p0 * L + unit);
        multiply_add<ROWS, PANELS, SLOTS, HF, HN, 1, T>(acc, a + k, lda, lines + k * (HN * L), HN * L,
                                                        at.panel, std::min(part, count - k));
      }
    }
    // As many panels together as keep the registers busy, and not more than they hold.
    constexpr int TOGETHER = ROWS * PANELS <= 8 ? PANELS : 1;
    finish_tile<ROWS, PANELS, KIND, 0, TOGETHER>(r0, p0, panel, acc);
  }

  // The cells of a tile, from its sums: panels FIRST, ... of TOGETHER at once.
  template <int ROWS, int PANELS, Tile KIND, int FIRST, int TOGETHER>
  TIMELIKE_INLINE void finish_tile(int64_t r0, int64_t p0, const T* panel,
                                   Vec<T> (&acc)[ROWS][PANELS * SLOTS]) {
    constexpr int M = ROWS * TOGETHER;
    ForwardStep<Cell, T, M> cell;
    for (int m = 0; m < M; ++m) {
      const int p = FIRST + m / ROWS;
      const int64_t r = r0 + m % ROWS, unit = (p0 + p) * L;
      if constexpr (Cell::cell_state) cell.state[m] = load(c + r * HP + unit);
      if constexpr (Cell::reads_state) cell.state[m] = load(state + r * lda + D + unit);
      for (int g = 0; g < SLOTS; ++g) cell.gate[g][m] = acc[m % ROWS][p * SLOTS + g];
      for (int d = 0; d < Cell::diagonals; ++d)
        cell.diagonal[d][m] = load(panel + p * at.panel + at.diagonals + d * L);
    }
    Cell::forward(cell);
    // In locals, since the compiler must think that a store changes any member.
    const int64_t units = H, padded_units = HP, ld = lda;
    T *const c_to = c + r0 * HP, *const h_to = next + r0 * lda + D;
    const Place* const at_row = place + r0;
    for (int m = 0; m < M; ++m) {
      const int64_t r = m % ROWS, unit = (p0 + FIRST + m / ROWS) * L;
      const int lanes = KIND == Tile::any ? int(std::min<int64_t>(L, units - unit)) : L;
      if constexpr (Cell::cell_state) store(c_to + r * padded_units + unit, cell.state[m]);
      if constexpr (Cell::reset_before) {
        store(open + (r0 + r) * HP + unit, cell.gate[0][m]);
        store(update + (r0 + r) * HP + unit, cell.gate[2][m]);
      }
      if constexpr (Cell::projected || Cell::reset_before) {
        store(inner + (r0 + r) * HP + unit, cell.h[m]);
      } else {
        store(h_to + r * ld + unit, cell.h[m]);
        put_state(at_row[r], unit, cell.h[m], lanes);
      }
      if (T* const to_gates = at_row[r].gates)
        for (int g = Cell::reset_before ? 1 : 0; g < Cell::tape_gates; ++g)
          store(to_gates + Cell::tape_place[g] * units + unit, cell.gate[g][m], lanes);
      if constexpr (Cell::cell_state)
        if (T* const to_cells = at_row[r].cells) store(to_cells + unit, cell.state[m], lanes);
    }
    if constexpr (FIRST + TOGETHER < PANELS)
      finish_tile<ROWS, PANELS, KIND, FIRST + TOGETHER, TOGETHER>(r0, p0, panel, acc);
  }

  static TIMELIKE_INLINE void put_state(const Place& at_row, int64_t unit, Vec<T> h, int lanes) {
    if (at_row.y) store(at_row.y + unit, h, lanes);
    if (at_row.hidden) store(at_row.hidden + unit, h, lanes);
  }

  // h = (projection) m.
  void project(int64_t active) const {
    for (int64_t r = 0; r < active; ++r) to[r] = next + r * lda + D;
    product<T>({inner, HP, P, L, 1, H}, active, f.packed + at.second, to, R, false);
    for (int64_t r = 0; r < active; ++r) {
      if (place[r].y) copy_row(place[r].y, to[r], R);
      if (place[r].hidden) copy_row(place[r].hidden, to[r], R);
    }
  }

  // The candidate gets U_n (r h_{t-1}), and then the state.
  void finish_reset(int64_t active) const {
    for (int64_t r = 0; r < active; ++r) to[r] = open + r * HP;
    product<T>({inner, HP, P, L, 1, H}, active, f.packed + at.second, to, HP, true);
    for (int64_t r = 0; r < active; ++r)
      for (int64_t unit = 0; unit < H; unit += L) {
        const int lanes = int(std::min<int64_t>(L, H - unit));
        Vec<T> n[1] = {load(open + r * HP + unit)};
        const Vec<T> h =
            Cell::template finish<T>(n, load(update + r * HP + unit), load(state + r * lda + D + unit));
        store(next + r * lda + D + unit, h);
        put_state(place[r], unit, h, lanes);
        if (place[r].gates) store(place[r].gates + Cell::tape_place[0] * H + unit, n[0], lanes);
      }
  }
};

template <class Cell, class T>
void forward(const Forward<T>& f) {
  Batch batch(f.rows);
  const double work = double(batch.steps()) * double(f.H) * double(Cell::slots * (f.D + f.R) + 100);
  const int threads = worthwhile_threads(f.threads, work);
  // No sequence's result depends on where the batch is cut: as many chunks for each thread, and no more than
  // need be. At every step a chunk reads all weights, which few rows do not pay for.
  const int64_t least = (f.rows.count + kChunk - 1) / kChunk;
  batch.cut((least + threads - 1) / threads * threads);
  run_tasks(batch.chunks, threads, [&](int64_t k) {
    static thread_local Workspace workspace;
    ForwardChunk<Cell, T>(f, batch.order.data() + batch.begin(k), batch.end(k) - batch.begin(k), workspace)
        .run();
  });
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
