// Recurrent layers one upon the other, their weights packed: run over whole batches or one step at a time,
// and back through time.
//
// Letters as in api.h, and K directions. States of all layers and directions stand together as in torch.nn:
// h [layers K, B, R], c [layers K, B, H], layer by layer, forward before reverse; the output of a layer is
// [N, K R].
#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "held.h"
#include "rows.h"

namespace timelike {

template <class T>
using StackWeights = std::vector<std::unique_ptr<HeldWeights<T>>>;  // of each layer

template <class T>
struct StackBatch {
  Rows rows;       // `reverse` is set per direction
  int64_t N;       // rows of the buffers
  int64_t padded;  // every sequence has rows for so many steps; 0 in a ragged batch
  const T* x;
  int64_t ldx;
  const T* h0;  // all layers' states, or null: zeros
  const T* c0;
};

template <class T>
struct StackOutputs {
  T* y;  // [N, K R] of the last layer, or null
  T* hT;
  T* cT;
};

// What forward leaves for the way back: a layer's outputs [N, K R], and the gates [N, A H] and cells [N, H]
// of each direction.
template <class T>
struct LayerTape {
  T* y;
  T* gates[2];
  T* cells[2];
};

template <class T>
struct StackGradients {
  const T* dy;  // [N, K R], or null: zeros
  int64_t lddy;
  const T* dhT;  // all layers', or null: zeros
  const T* dcT;
  T* dx;                       // [N, D], or null
  T* dh0;                      // all layers', or null
  T* dc0;                      // likewise
  std::vector<T*> parameters;  // kParameters of each layer and direction; null for what there is not
};

// Any number of threads may run one stack at a time, each with a workspace of its own.
template <class T>
class Stack {
 public:
  // The caller has checked that the sizes fit together.
  Stack(std::vector<SizedLayer<T>> layers, int64_t directions, bool cell_state)
      : layers_(std::move(layers)), directions_(directions), cell_state_(cell_state) {}

  int64_t layers() const { return int64_t(layers_.size()); }
  const SizedLayer<T>& layer(int64_t l) const { return layers_[size_t(l)]; }
  int64_t states() const { return layers() * directions(); }
  int64_t directions() const { return directions_; }
  int64_t inputs() const { return layers_[0].D; }
  int64_t units() const { return layers_[0].H; }
  int64_t hidden() const { return layers_[0].R; }
  int64_t outputs() const { return directions() * hidden(); }
  bool cell_state() const { return cell_state_; }

  // About those of one step of one sequence.
  int64_t multiply_adds() const {
    int64_t sum = 0;
    for (const SizedLayer<T>& layer : layers_) sum += directions() * layer.forward_size();
    return sum;
  }

  void run(const StackWeights<T>& weights, const StackBatch<T>& batch, const StackOutputs<T>& out,
           int threads, Workspace& workspace) const {
    T* between[2] = {};  // outputs of the layers in turn
    workspace.lay_out([&] {
      const int64_t kept = layers() - 1;
      for (int64_t k = 0; k < std::min<int64_t>(2, kept); ++k)
        between[k] = workspace.take<T>(batch.N * outputs());
    });
    walk(weights, batch, out, threads, nullptr,
         [&](int64_t l) { return l == layers() - 1 ? out.y : between[l % 2]; });
  }

  // Leaves a tape in the workspace.
  std::vector<LayerTape<T>> run_keeping(const StackWeights<T>& weights, const StackBatch<T>& batch,
                                        const StackOutputs<T>& out, int threads, Workspace& workspace) const {
    std::vector<LayerTape<T>> tape(layers_.size());
    workspace.lay_out([&] {
      for (int64_t l = 0; l < layers(); ++l) {
        LayerTape<T>& kept = tape[size_t(l)];
        const int64_t gates = batch.N * layer(l).kernels->tape_gates * units();
        kept.y = l == layers() - 1 ? out.y : workspace.take<T>(batch.N * outputs());
        for (int64_t k = 0; k < directions(); ++k) {
          kept.gates[k] = gates ? workspace.take<T>(gates) : nullptr;
          kept.cells[k] = cell_state() ? workspace.take<T>(batch.N * units()) : nullptr;
        }
      }
    });
    walk(weights, batch, out, threads, tape.data(), [&](int64_t l) { return tape[size_t(l)].y; });
    return tape;
  }

  // Backpropagation through time. The tape is not changed.
  void back(const StackWeights<T>& weights, const StackBatch<T>& batch, const std::vector<LayerTape<T>>& tape,
            const StackGradients<T>& d, int threads, Workspace& workspace) const {
    const int64_t h = batch.rows.count * hidden(), c = batch.rows.count * units();
    T* between[2] = {};  // gradients of the inputs of the layers in turn
    workspace.lay_out([&] {
      for (int64_t k = 0; k < std::min<int64_t>(2, layers() - 1); ++k)
        between[k] = workspace.take<T>(batch.N * outputs());
    });
    Backward<T> f{};
    f.rows = batch.rows, f.threads = threads;
    f.dy = d.dy, f.lddy = d.lddy;
    for (int64_t l = layers() - 1; l >= 0; --l) {
      const LayerTape<T>& kept = tape[size_t(l)];
      const SizedLayer<T>& sized = layer(l);
      const std::vector<T*>& packed = weights[size_t(l)]->backward();
      f.D = sized.D, f.H = sized.H, f.R = sized.R;
      f.x = l ? tape[size_t(l - 1)].y : batch.x, f.ldx = l ? outputs() : batch.ldx;
      f.ldhidden = outputs();
      f.dx = l ? between[(l - 1) % 2] : d.dx, f.lddx = sized.D;
      const T* const dy = f.dy;
      for (int64_t k = 0; k < directions(); ++k) {
        const int64_t at = l * directions() + k;
        T* const* const parameters = d.parameters.data() + at * kParameters;
        f.rows.reverse = k == 1, f.add_dx = k == 1;
        f.packed = packed[size_t(k)];
        f.h0 = go(batch.h0, at * h), f.c0 = go(batch.c0, at * c);
        f.hidden = go(static_cast<const T*>(kept.y), k * hidden());
        f.gates = kept.gates[k], f.cells = kept.cells[k];
        f.dy = go(dy, k * hidden());
        f.dhT = go(d.dhT, at * h), f.dcT = go(d.dcT, at * c);
        f.dW = parameters[0], f.dU = parameters[1], f.db_ih = parameters[2], f.db_hh = parameters[3];
        f.dpeephole = parameters[4], f.dprojection = parameters[5];
        f.dh0 = go(d.dh0, at * h), f.dc0 = go(d.dc0, at * c);
        sized.kernels->backward(f);
      }
      f.dy = f.dx, f.lddy = outputs();
    }
    if (d.dx) clear_padding(batch, d.dx, inputs());
  }

  // One step of B sequences, x [B, D] to y [B, R]. The states, h and c as above, are read and overwritten.
  void step(const StackWeights<T>& weights, const Rows& one_step, const T* x, T* y, T* h, T* c,
            int threads) const {
    const int64_t B = one_step.count;
    Forward<T> f{};
    f.rows = one_step, f.threads = threads;
    f.x = x, f.ldx = inputs(), f.ldy = hidden();
    for (int64_t l = 0; l < layers(); ++l) {
      // A chunk reads the states that it begins with before it writes any.
      f.h0 = f.y = h, f.c0 = f.cT = c;
      forward(layer(l), weights[size_t(l)]->forward()[0], f);
      f.x = h, f.ldx = hidden();
      h = go(h, B * hidden()), c = go(c, B * units());
    }
    std::memcpy(y, f.x, size_t(B * hidden()) * sizeof(T));
  }

 private:
  template <class OutputOf>
  void walk(const StackWeights<T>& weights, const StackBatch<T>& batch, const StackOutputs<T>& out,
            int threads, const LayerTape<T>* tape, OutputOf&& output_of) const {
    const int64_t h = batch.rows.count * hidden(), c = batch.rows.count * units();
    Forward<T> f{};
    f.rows = batch.rows, f.threads = threads;
    f.x = batch.x, f.ldx = batch.ldx, f.ldy = outputs();
    for (int64_t l = 0; l < layers(); ++l) {
      T* const y = output_of(l);
      for (int64_t k = 0; k < directions(); ++k) {
        const int64_t at = l * directions() + k;
        f.rows.reverse = k == 1;
        f.y = go(y, k * hidden());
        f.h0 = go(batch.h0, at * h), f.c0 = go(batch.c0, at * c);
        f.hT = go(out.hT, at * h), f.cT = go(out.cT, at * c);
        if (tape) f.gates = tape[l].gates[k], f.cells = tape[l].cells[k];
        forward(layer(l), weights[size_t(l)]->forward()[size_t(k)], f);
      }
      f.x = y, f.ldx = outputs();
    }
    if (out.y) clear_padding(batch, out.y, outputs());
  }
  static void forward(const SizedLayer<T>& layer, const T* packed, Forward<T>& f) {
    f.D = layer.D, f.H = layer.H, f.R = layer.R, f.packed = packed;
    layer.kernels->forward(f);
  }
  template <class P>
  static P* go(P* p, int64_t n) {
    return p ? p + n : nullptr;
  }
  static void clear_padding(const StackBatch<T>& batch, T* rows_of_numbers, int64_t width) {
    const Rows& rows = batch.rows;
    for (int64_t b = 0; b < rows.count; ++b)
      for (int64_t t = rows.length[b]; t < batch.padded; ++t)
        std::memset(rows_of_numbers + (rows.start[b] + rows.step[t]) * width, 0, size_t(width) * sizeof(T));
  }

  std::vector<SizedLayer<T>> layers_;
  int64_t directions_;
  bool cell_state_;
};

}  // namespace timelike
