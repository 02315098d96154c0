// Prepared inference: recurrent layers one upon the other, their weights packed, run over whole batches or
// one step at a time.
//
// Letters as in api.h, and K directions. States of all layers and directions stand together as in torch.nn:
// h [layers K, B, R], c [layers K, B, H], layer by layer, forward before reverse; the output of a layer is
// [N, K R]. Weights belong to whoever made the stack, and stay where they are as long as it lives.
#pragma once

#include <cstring>
#include <utility>
#include <vector>

#include "rows.h"

namespace timelike {

// One layer in one direction.
template <class T>
struct Direction {
  const Layer<T>* layer;
  const T* packed;  // from layer->pack_forward
  int64_t D, H, R;
};

template <class T>
struct BatchInference {
  Rows rows;       // `reverse` is set per direction
  int64_t N;       // rows of the buffers
  int64_t padded;  // every sequence has rows for so many steps; 0 in a ragged batch
  const T* x;
  int64_t ldx;
  const T* h0;  // all layers' states, or null: zeros
  const T* c0;
  T* y;  // [N, K R] of the last layer, or null; rows of no step are left alone
  T* hT;
  T* cT;
  int threads;
};

// Any number of threads may run one stack at a time, each with a workspace of its own.
template <class T>
class Stack {
 public:
  // layers[l] has K directions. The caller has checked that the sizes fit together.
  Stack(std::vector<std::vector<Direction<T>>> layers, bool cell_state)
      : layers_(std::move(layers)), cell_state_(cell_state) {}

  int64_t layers() const { return int64_t(layers_.size()); }
  int64_t states() const { return layers() * directions(); }
  int64_t directions() const { return int64_t(layers_[0].size()); }
  int64_t inputs() const { return layers_[0][0].D; }
  int64_t units() const { return layers_[0][0].H; }
  int64_t hidden() const { return layers_[0][0].R; }
  int64_t outputs() const { return directions() * hidden(); }
  bool cell_state() const { return cell_state_; }

  // Weights that a step reads: about the multiply-adds of one step of one sequence.
  int64_t weights() const {
    int64_t sum = 0;
    for (const auto& layer : layers_)
      for (const Direction<T>& d : layer) sum += d.layer->forward_size(d.D, d.H, d.R);
    return sum;
  }

  void run(const BatchInference<T>& batch, Workspace& workspace) const {
    const int64_t B = batch.rows.count, size = batch.N * outputs();
    T* between[2] = {};  // outputs of the layers in turn
    workspace.lay_out([&] {
      const int64_t kept = layers() - 1;
      for (int64_t k = 0; k < std::min<int64_t>(2, kept); ++k) between[k] = workspace.take<T>(size);
    });
    Forward<T> f{};
    f.rows = batch.rows, f.threads = batch.threads;
    f.x = batch.x, f.ldx = batch.ldx, f.ldy = outputs();
    f.h0 = batch.h0, f.c0 = batch.c0, f.hT = batch.hT, f.cT = batch.cT;
    for (int64_t l = 0; l < layers(); ++l) {
      T* const y = l == layers() - 1 ? batch.y : between[l % 2];
      for (int64_t k = 0; k < directions(); ++k) {
        f.rows.reverse = k == 1;
        f.y = y ? y + k * hidden() : nullptr;
        forward(layers_[l][k], f);
        advance(f.h0, B * hidden()), advance(f.hT, B * hidden());
        advance(f.c0, B * units()), advance(f.cT, B * units());
      }
      f.x = y, f.ldx = outputs();
    }
    if (batch.y) clear_padding(batch);
  }

  // One step of B sequences, x [B, D] to y [B, R]. The states, h and c as above, are read and overwritten.
  void step(const Rows& one_step, const T* x, T* y, T* h, T* c, int threads) const {
    const int64_t B = one_step.count;
    Forward<T> f{};
    f.rows = one_step, f.threads = threads;
    f.x = x, f.ldx = inputs(), f.ldy = hidden();
    for (const auto& layer : layers_) {
      // A chunk reads the states that it begins with before it writes any.
      f.h0 = f.y = h, f.c0 = f.cT = c;
      forward(layer[0], f);
      f.x = h, f.ldx = hidden();
      advance(h, B * hidden()), advance(c, B * units());
    }
    std::memcpy(y, f.x, size_t(B * hidden()) * sizeof(T));
  }

 private:
  static void forward(const Direction<T>& d, Forward<T>& f) {
    f.D = d.D, f.H = d.H, f.R = d.R, f.packed = d.packed;
    d.layer->forward(f);
  }
  template <class P>
  static void advance(P*& p, int64_t n) {
    if (p) p += n;
  }
  void clear_padding(const BatchInference<T>& batch) const {
    const Rows& rows = batch.rows;
    for (int64_t b = 0; b < rows.count; ++b)
      for (int64_t t = rows.length[b]; t < batch.padded; ++t)
        std::memset(batch.y + (rows.start[b] + rows.step[t]) * outputs(), 0, size_t(outputs()) * sizeof(T));
  }

  std::vector<std::vector<Direction<T>>> layers_;
  bool cell_state_;
};

}  // namespace timelike
