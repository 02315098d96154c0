// Layers of one size, and their weights at one moment, in all directions: a copy, packed for the kernels.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"

namespace timelike {

// One cell in one precision on one instruction set, for layers of one size.
template <class T>
struct SizedLayer {
  const Layer<T>* kernels;
  int64_t D, H, R;

  int64_t forward_size() const { return kernels->forward_size(D, H, R); }
  int64_t backward_size() const { return kernels->backward_size(D, H, R); }
};

inline const Table& table(const std::string& instruction_set) {
  const TableList list = available_tables();
  for (int k = 0; k < list.count; ++k)
    if (instruction_set == list.table[k]->name) return *list.table[k];
  throw std::invalid_argument("no kernels for instruction set '" + instruction_set + "'");
}

template <class T>
const Layer<T>& layer_of(const std::string& instruction_set, const std::string& cell) {
  const Table& kernels = table(instruction_set);
  const Layer<T>* layers;
  if constexpr (sizeof(T) == 4)
    layers = kernels.f32;
  else
    layers = kernels.f64;
  for (int k = 0; k < kCells; ++k)
    if (cell == layers[k].cell) return layers[k];
  throw std::invalid_argument("no kernel for cell '" + cell + "'");
}

constexpr int kParameters = 6;  // W, U, b_ih, b_hh, peephole, projection

template <class T>
class HeldWeights {
 public:
  // `arrays`: the weights of one direction after the other, of so many `bytes`. `slots`: where each parameter
  // stands among those of a direction, or -1.
  HeldWeights(const SizedLayer<T>& layer, const std::vector<const void*>& arrays,
              const std::vector<size_t>& bytes, const std::vector<int>& slots, int directions)
      : layer_(layer), bytes_(bytes), slots_(slots), directions_(directions) {
    size_t total = 0;
    for (const size_t n : bytes) total += padded(n);
    const size_t packed = padded(size_t(layer.forward_size()) * sizeof(T));
    memory_ = allocate(total + size_t(directions) * packed);
    char* to = memory_.get();
    for (size_t k = 0; k < bytes.size(); to += padded(bytes[k++]))
      copies_.push_back(reinterpret_cast<T*>(to));
    for (int d = 0; d < directions; ++d, to += packed) forward_.push_back(reinterpret_cast<T*>(to));
    renew(arrays);
  }

  // Other weights of the same layer, while nobody uses these.
  void renew(const std::vector<const void*>& arrays) {
    for (size_t k = 0; k < bytes_.size(); ++k) std::memcpy(copies_[k], arrays[k], bytes_[k]);
    for (int d = 0; d < directions_; ++d) layer_.kernels->pack_forward(weights(d), forward_[size_t(d)]);
    packed_backward_ = false;
  }

  // Whether these hold the same bits.
  bool same(const std::vector<const void*>& arrays) const {
    for (size_t k = 0; k < bytes_.size(); ++k)
      if (std::memcmp(arrays[k], copies_[k], bytes_[k])) return false;
    return true;
  }
  int directions() const { return directions_; }
  const std::vector<int>& slots() const { return slots_; }
  const std::vector<T*>& copies() const { return copies_; }
  // What is packed, for each direction.
  const std::vector<T*>& forward() const { return forward_; }
  // Packed when first asked for, by whichever thread that is.
  const std::vector<T*>& backward() {
    const std::lock_guard<std::mutex> lock(packing_);
    if (!packed_backward_) {
      const size_t packed = padded(size_t(layer_.backward_size()) * sizeof(T));
      if (backward_.empty()) {
        memory_backward_ = allocate(size_t(directions_) * packed);
        for (int d = 0; d < directions_; ++d)
          backward_.push_back(reinterpret_cast<T*>(memory_backward_.get() + size_t(d) * packed));
      }
      for (int d = 0; d < directions_; ++d) layer_.kernels->pack_backward(weights(d), backward_[size_t(d)]);
      packed_backward_ = true;
    }
    return backward_;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<char[], Free>;
  static constexpr size_t kLine = 64;  // no register load crosses two

  static size_t padded(size_t n) { return (n + kLine - 1) / kLine * kLine; }
  static Memory allocate(size_t bytes) {
    Memory memory(static_cast<char*>(std::aligned_alloc(kLine, std::max(bytes, kLine))));
    if (!memory) throw std::bad_alloc();
    return memory;
  }
  Weights<T> weights(int direction) const {
    const size_t first = size_t(direction) * (copies_.size() / size_t(directions_));
    const T* given[kParameters];
    for (int k = 0; k < kParameters; ++k)
      given[k] = slots_[k] < 0 ? nullptr : copies_[first + size_t(slots_[k])];
    return {layer_.D, layer_.H, layer_.R, given[0], given[1], given[2], given[3], given[4], given[5]};
  }

  const SizedLayer<T> layer_;
  const std::vector<size_t> bytes_;
  const std::vector<int> slots_;
  const int directions_;
  Memory memory_, memory_backward_;
  std::vector<T*> copies_, forward_, backward_;
  std::mutex packing_;
  bool packed_backward_ = false;
};

}  // namespace timelike
