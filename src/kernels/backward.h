// Backpropagation through time: a template over cell and precision.
//
// Step by step, last to first: gate gradients of all units, then dh_{t-1} from them. They are gathered over
// several steps before they are multiplied with inputs and states into dx and the weights' gradients.
#pragma once

#include "forward.h"
#include "gathered.h"

namespace timelike {
namespace TIMELIKE_ISA {

// A chunk of sequences that walks back, step by step.
template <class Cell, class T>
class BackwardChunk {
  static constexpr int L = Lanes<T>::count, SLOTS = Cell::slots;
  static constexpr int64_t S = SLOTS * L;
  static constexpr int XF = Cell::input.first, XN = Cell::input.count;
  static constexpr int HF = Cell::state.first, HN = Cell::state.count;
  static constexpr bool dh_in_parts = Cell::reads_state;  // a part of dh_{t-1} takes no product
  static constexpr int64_t kNear = 64 << 10;              // numbers of a tape that stay in the L2 cache

  // What one row of a step reads and writes.
  struct Row {
    const T *gates, *cells, *c_past, *hidden, *h_past, *dy;
    T *dh, *dc, *d_inner, *da, *inner, *dcells;
  };

  const Backward<T>& f;
  const Gathered<Cell, T>& rows;  // where its gate gradients are gathered
  const int64_t* order;           // its sequences, longest first
  const int64_t n;
  const int64_t D, H, R, P, HP, RP;
  const BackwardLayout<Cell, T> at;
  const bool far;      // whether what is read step by step does not come from the caches by itself
  T *dh, *dc;          // [n, RP], [n, HP] carried from step to step
  T* d_inner;          // [n, HP] gradient of what the second product took
  T* zeros;            // [max(H, R)] the state before the first step where none was given
  T** to;              // [n] where a product's rows go
  Ahead::Span* spans;  // [5 n] what is fetched ahead

 public:
  BackwardChunk(const Gathered<Cell, T>& gathered, const int64_t* sequences, int64_t count)
      : f(gathered.f),
        rows(gathered),
        order(sequences),
        n(count),
        D(f.D),
        H(f.H),
        R(f.R),
        P(panels_of<T>(H)),
        HP(P * L),
        RP(padded<T>(R)),
        at(D, H, R),
        far(n * (f.rows.end - f.rows.begin) * (Cell::tape_gates * H + H + 2 * R) > kNear) {}

  void take_from(Workspace& w) {
    dh = w.template take<T>(n * RP);
    if (Cell::cell_state) dc = w.template take<T>(n * HP);
    if (Cell::projected || Cell::reset_before) d_inner = w.template take<T>(n * HP);
    zeros = w.template take<T>(std::max(H, R));
    to = w.template take<T*>(n);
    spans = w.template take<Ahead::Span>(5 * n);
  }

  void begin() const {
    std::memset(zeros, 0, size_t(std::max(H, R)) * sizeof(T));
    for (int64_t r = 0; r < n; ++r) {
      padded_row(f.dhT, order[r], R, RP, dh + r * RP);
      if (Cell::cell_state) padded_row(f.dcT, order[r], H, HP, dc + r * HP);
    }
  }

  void end() const {
    for (int64_t r = 0; r < n; ++r) {
      if (f.dh0) copy_row(f.dh0 + order[r] * R, dh + r * RP, R);
      if (Cell::cell_state && f.dc0) copy_row(f.dc0 + order[r] * H, dc + r * HP, H);
    }
  }

  // Step s of the first `active` sequences, gathered from row `first` on.
  void step(int64_t active, int64_t s, int64_t first) const {
    for (int64_t r = 0; r < active; ++r) {
      const int64_t b = order[r], slot = first + r;
      rows.row[slot] = row_of(f.rows, b, s), rows.tape_row[slot] = tape_row_of(f.rows, b, s);
      if (s > f.rows.begin) {
        const int64_t before = tape_row_of(f.rows, b, s - 1);
        rows.h_past[slot] = f.hidden + before * f.ldhidden;
        if (Cell::cell_state) rows.c_past[slot] = f.cells + before * H;
      } else {
        rows.h_past[slot] = f.h0 ? f.h0 + b * R : zeros;
        if (Cell::cell_state) rows.c_past[slot] = f.c0 ? f.c0 + b * H : zeros;
      }
    }
    if (f.dhidden) put_hidden_gradients(active, first);
    if constexpr (Cell::projected) unproject(active, first);
    for (int64_t r = 0; r < active; ++r) {
      const int64_t slot = first + r, kept = rows.tape_row[slot];
      const Row of{f.gates + kept * Cell::tape_gates * H,
                   f.cells + kept * H,
                   rows.c_past[slot],
                   f.hidden + kept * f.ldhidden,
                   rows.h_past[slot],
                   f.dy ? f.dy + rows.row[slot] * f.lddy : nullptr,
                   dh + r * RP,
                   dc + r * HP,
                   d_inner + r * HP,
                   rows.da + slot * S,
                   rows.inner + slot * HP,
                   f.dcells ? f.dcells + kept * H : nullptr};
      int64_t p = 0;
      for (; p + 2 <= P; p += 2) gate_gradients<2>(of, p);
      if (p < P) gate_gradients<1>(of, p);
    }
    if constexpr (Cell::reset_before) finish_reset(active, first);
    if (f.dgates) put_gate_gradients(active, first);
    if (s > f.rows.begin || f.dh0) {
      for (int64_t r = 0; r < active; ++r) to[r] = dh + r * RP;
      product<T>({rows.da + first * S + HF * L, S, P, rows.capacity * S, HN, H}, active, f.packed, to, RP,
                 dh_in_parts, (s - f.rows.begin) % 2,
                 far && s > f.rows.begin ? of_step(active, s - 1) : Ahead(spans));
    }
  }

 private:
  // What the step before reads. Rows of a ragged batch lie anywhere: no processor foresees them.
  Ahead of_step(int64_t active, int64_t s) const {
    Ahead ahead(spans);
    const bool has_past = s > f.rows.begin;
    for (int64_t r = 0; r < active; ++r) {
      const int64_t b = order[r], at_row = row_of(f.rows, b, s), kept = tape_row_of(f.rows, b, s);
      const int64_t past = has_past ? tape_row_of(f.rows, b, s - 1) : 0;
      if (Cell::tape_gates) ahead.add(f.gates + kept * Cell::tape_gates * H, Cell::tape_gates * H);
      if (f.dy) ahead.add(f.dy + at_row * f.lddy, R);
      if (Cell::cell_state && has_past) ahead.add(f.cells + past * H, H);
      if (rows.sums) ahead.add(f.x + at_row * f.ldx, D);
      if (has_past) ahead.add(f.hidden + past * f.ldhidden, R);
    }
    ahead.spread(P * (L >= 16 ? HN : 1) * std::max<int64_t>(1, active / 6 * (RP / kPanelColumns<T>)));
    return ahead;
  }

  TIMELIKE_INLINE Vec<T> upstream(int64_t r, int64_t slot, int64_t unit, int lanes) const {
    const Vec<T> later = load(dh + r * RP + unit);
    return f.dy ? later + load(f.dy + rows.row[slot] * f.lddy + unit, lanes) : later;
  }

  // dL/dm of the units from dL/dh of the projected state.
  void unproject(int64_t active, int64_t first) const {
    for (int64_t r = 0; r < active; ++r) {
      to[r] = d_inner + r * HP;
      for (int64_t k = 0; k < R; k += L)
        store(rows.dh_of + k * rows.capacity + (first + r) * L,
              upstream(r, first + r, k, int(std::min<int64_t>(L, R - k))));
    }
    product<T>({rows.dh_of + first * L, L, RP / L, rows.capacity * L, 1, R}, active, f.packed + at.second, to,
               HP, false);
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
      T* gathered = of.da + (p0 + m) * (rows.capacity * S);
      for (int g = 0; g < SLOTS; ++g) store(gathered + g * L, cell.da[g][m]);
      if constexpr (Cell::cell_state) {
        store(of.dc + unit, cell.carried[m]);
        if (of.dcells) store(of.dcells + unit, cell.dc[m], int(std::min<int64_t>(L, units - unit)));
      }
      if constexpr (dh_in_parts) store(of.dh + unit, cell.carried[m]);
      if constexpr (Cell::projected || Cell::reset_before) store(of.inner + unit, cell.inner[m]);
    }
  }

  const T* peephole(int64_t p) const { return f.packed + at.diagonals + p * Cell::diagonals * L; }

  // What reaches h_t: from the outputs, and from the step after.
  void put_hidden_gradients(int64_t active, int64_t first) const {
    for (int64_t r = 0; r < active; ++r)
      for (int64_t unit = 0; unit < R; unit += L) {
        const int lanes = int(std::min<int64_t>(L, R - unit));
        store(f.dhidden + rows.tape_row[first + r] * R + unit, upstream(r, first + r, unit, lanes), lanes);
      }
  }

  // The gate gradients of the input side, in the order of the parameters.
  void put_gate_gradients(int64_t active, int64_t first) const {
    for (int64_t r = 0; r < active; ++r)
      for (int64_t p = 0; p < P; ++p)
        for (int g = XF; g < XF + XN; ++g)
          store(f.dgates + (rows.tape_row[first + r] * Cell::gates + Cell::gate[g]) * H + p * L,
                load(rows.da + (p * rows.capacity + first + r) * S + g * L),
                int(std::min<int64_t>(L, H - p * L)));
  }

  // The gradient through U_n reaches the reset gate and the state before.
  void finish_reset(int64_t active, int64_t first) const {
    for (int64_t r = 0; r < active; ++r) to[r] = d_inner + r * HP;
    product<T>({rows.da + first * S, S, P, rows.capacity * S, 1, H}, active, f.packed + at.second, to, HP,
               false);
    for (int64_t r = 0; r < active; ++r)
      for (int64_t p = 0; p < P; ++p) {
        const int64_t slot = first + r, unit = p * L;
        const int lanes = int(std::min<int64_t>(L, H - unit));
        const T* reset = f.gates + (rows.tape_row[slot] * Cell::tape_gates + Cell::tape_place[1]) * H + unit;
        Vec<T> carried = load(dh + r * RP + unit);
        const Vec<T> da_r =
            Cell::template finish_backward<T>(load(reset, lanes), load(rows.h_past[slot] + unit, lanes),
                                              load(d_inner + r * HP + unit), carried);
        store(dh + r * RP + unit, carried);
        store(rows.da + (p * rows.capacity + slot) * S + L, da_r);
      }
  }
};

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

// Steps are gathered while there is room, and then worked on.
template <class Cell, class T>
void walk_back(const Backward<T>& f, const int64_t* order, int64_t n, Gradients<T>* sums) {
  static thread_local Workspace workspace;
  Gathered<Cell, T> rows(f, sums);
  BackwardChunk<Cell, T> chunk(rows, order, n);
  workspace.lay_out([&] { rows.take_from(workspace), chunk.take_from(workspace); });
  int64_t active = 0, slots = 0;
  const auto flush = [&] {
    rows.put_inputs(0, slots);
    rows.add(slots, 0, 1);
    rows.added();
    slots = 0;
  };
  chunk.begin();
  for (int64_t s = std::min(f.rows.end, f.rows.length[order[0]]) - 1; s >= f.rows.begin; --s) {
    active = active_again(f.rows, order, n, active, s);
    if (slots + active > rows.capacity) flush();
    chunk.step(active, s, slots);
    slots += active;
  }
  flush();
  chunk.end();
}

// The same where weights are large: each step of each chunk reads them from afar, and so there are no more
// chunks than threads. What they gather lies in the order of the steps, and is summed by all threads, each
// for units of its own: no sum depends on the cut.
template <class Cell, class T>
void walk_back_together(const Backward<T>& f, const int64_t* order, int64_t n, Gradients<T>* sums,
                        int threads) {
  struct Step {
    int64_t s, active, first;
  };
  static thread_local Workspace of_rows;
  static thread_local std::vector<Workspace> of_chunks;
  Gathered<Cell, T> rows(f, sums);
  of_rows.lay_out([&] { rows.take_from(of_rows); });
  const int64_t parts = std::max<int64_t>(threads, (n + kChunk - 1) / kChunk);
  const auto begin_of = [&](int64_t k) { return n * k / parts; };
  if (int64_t(of_chunks.size()) < parts) of_chunks = std::vector<Workspace>(size_t(parts));
  std::vector<BackwardChunk<Cell, T>> chunks;
  for (int64_t k = 0; k < parts; ++k) {
    chunks.emplace_back(rows, order + begin_of(k), begin_of(k + 1) - begin_of(k));
    of_chunks[size_t(k)].lay_out([&] { chunks.back().take_from(of_chunks[size_t(k)]); });
    chunks.back().begin();
  }
  int64_t active = 0, s = std::min(f.rows.end, f.rows.length[order[0]]) - 1;
  do {
    std::vector<Step> steps;
    int64_t slots = 0;
    for (; s >= f.rows.begin; --s, slots += active) {
      active = active_again(f.rows, order, n, active, s);
      if (slots + active > rows.capacity) break;
      steps.push_back({s, active, slots});
    }
    run_tasks(parts, threads, [&](int64_t k) {
      for (const Step& step : steps) {
        const int64_t own = std::min(step.active, begin_of(k + 1)) - begin_of(k);
        if (own > 0) chunks[size_t(k)].step(own, step.s, step.first + begin_of(k));
      }
    });
    run_tasks(parts, threads,
              [&](int64_t k) { rows.put_inputs(slots * k / parts, slots * (k + 1) / parts); });
    run_tasks(parts, threads, [&](int64_t k) { rows.add(slots, k, parts); });
    rows.added();
  } while (s >= f.rows.begin);
  for (const auto& chunk : chunks) chunk.end();
}

template <class Cell, class T>
void backward(const Backward<T>& f) {
  constexpr int64_t together = 144;  // sequences, at most
  Batch batch(f.rows);
  const bool large = Gathered<Cell, T>::large(f);
  if (large)
    batch.cut(1, together);
  else
    batch.cut(backward_chunks(f.rows.count));
  const GradientLayout<Cell, T> layout(f.D, f.H, f.R);
  const int64_t size = f.dW ? layout.size : 0;
  const int64_t tasks = large ? 1 : f.dW ? tasks_of(batch, size * int64_t(sizeof(T))) : batch.chunks;
  static thread_local Workspace of_sums;
  T* memory = nullptr;
  of_sums.lay_out([&] { memory = of_sums.template take<T>(tasks * size); });
  Gradients<T> sums = gradients_in<Cell>(memory, layout);
  if (tasks == 1) {  // in place, where rows are whole registers
    if (layout.ldW == f.D) sums.W.at = f.dW;
    if (layout.ldU == f.R) sums.U.at = f.dU;
  }
  const double work = 2.0 * double(batch.steps()) * double(f.H) * double(Cell::slots * (f.D + f.R) + 50);
  const int threads = worthwhile_threads(f.threads, work);
  const auto chunk = [&](int64_t k) { return batch.order.data() + batch.begin(k); };
  const auto sequences = [&](int64_t k) { return batch.end(k) - batch.begin(k); };
  if (large)
    for (int64_t k = 0; k < batch.chunks; ++k)
      walk_back_together<Cell>(f, chunk(k), sequences(k), f.dW ? &sums : nullptr, threads);
  else
    run_tasks(tasks, threads, [&](int64_t task) {
      Gradients<T> own = task ? gradients_in<Cell>(memory + task * size, layout) : sums;
      for (int64_t k = task; k < batch.chunks; k += tasks)
        walk_back<Cell>(f, chunk(k), sequences(k), f.dW ? &own : nullptr);
    });
  if (!f.dW) return;
  if (batch.chunks == 0) {
    sums = gradients_in<Cell>(memory, layout);
    std::memset(memory, 0, size_t(size) * sizeof(T));
  }
  for (int64_t task = 1; task < tasks; ++task)
    for (int64_t i = 0; i < size; ++i) memory[i] += memory[task * size + i];
  write_gradients<Cell>(f, sums);
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
