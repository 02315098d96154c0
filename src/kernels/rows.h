// A batch as the kernels walk it: sequences sorted by length and cut into chunks.
//
// Within a chunk the longest sequence comes first, so that the sequences that have a step s are always
// the first ones, and nothing is ever computed for padding. Chunks are the unit of work: their number
// depends on the batch alone, never on the number of threads.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>
#include <vector>

#include "api.h"

namespace timelike {

// 48 rows fill register tiles of 3 and of 6 and keep inputs and states of a chunk in the L1 cache.
constexpr int64_t kChunk = 48;

struct Batch {
  const Rows& rows;
  std::vector<int64_t> order;  // [B] sequences by falling length, ties in the caller's order
  int64_t chunk;               // sequences per chunk (the last one may have fewer)

  explicit Batch(const Rows& r) : rows(r), order(size_t(r.count)) {
    std::iota(order.begin(), order.end(), int64_t(0));
    const int64_t* length = rows.length;
    const auto longer = [length](int64_t a, int64_t b) { return length[a] > length[b]; };
    if (!std::is_sorted(order.begin(), order.end(), longer))
      std::stable_sort(order.begin(), order.end(), longer);
    const int64_t chunks = (r.count + kChunk - 1) / kChunk;
    chunk = chunks ? (r.count + chunks - 1) / chunks : 0;
    chunk = std::min(kChunk, (chunk + 5) / 6 * 6);
  }
  int64_t chunks() const { return chunk ? (rows.count + chunk - 1) / chunk : 0; }
  int64_t begin(int64_t k) const { return k * chunk; }
  int64_t end(int64_t k) const { return std::min(rows.count, (k + 1) * chunk); }
};

// The row of step s of sequence b, s counted in the order of the walk.
inline int64_t row_of(const Rows& rows, int64_t b, int64_t s) {
  return rows.start[b] + rows.step[rows.reverse ? rows.length[b] - 1 - s : s];
}

// How many of a chunk's sequences (sorted by falling length) have a step s, given that n of them had the
// step before.
inline int64_t still_active(const Rows& rows, const int64_t* order, int64_t n, int64_t s) {
  while (n > 0 && rows.length[order[n - 1]] <= s) --n;
  return n;
}

// Scratch memory of one kernel call: one block per thread that grows and is used again by the next call.
class Workspace {
 public:
  static constexpr size_t alignment = 64;

  // Room for everything that take() will hand out until the next reserve().
  void reserve(size_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    std::free(base_);
    size_ = 0;
    base_ =
        static_cast<char*>(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
    if (!base_) throw std::bad_alloc();
    size_ = bytes;
  }
  template <class T>
  static constexpr size_t bytes(int64_t count) {
    return (size_t(count) * sizeof(T) + alignment - 1) / alignment * alignment;
  }
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(base_ + used_);
    used_ += bytes<T>(count);
    return p;
  }
  ~Workspace() { std::free(base_); }

 private:
  char* base_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

inline Workspace& thread_workspace() {
  static thread_local Workspace workspace;
  return workspace;
}

}  // namespace timelike
