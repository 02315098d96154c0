// A batch as the kernels walk it: sequences sorted by length and cut into chunks.
//
// Within a chunk the longest sequence comes first, so that the sequences that have a step s are always
// the first ones, and nothing is ever computed for padding. Chunks are the unit of work: their number
// depends on the batch alone, never on the number of threads.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <vector>

#include "api.h"

namespace timelike {

// A chunk has at most so many sequences: enough that weights which come from the L2 cache are used often, and
// few enough that inputs and states stay in the L1 cache. Chunks begin at multiples of a tile's rows.
constexpr int64_t kChunk = 48, kTileRows = 6;

struct Batch {
  const Rows& rows;
  std::vector<int64_t> order;  // [B] sequences by falling length, ties in the caller's order
  int64_t chunks = 0;

  explicit Batch(const Rows& r) : rows(r), order(size_t(r.count)) {
    std::iota(order.begin(), order.end(), int64_t(0));
    const int64_t* length = rows.length;
    const auto longer = [length](int64_t a, int64_t b) { return length[a] > length[b]; };
    if (!std::is_sorted(order.begin(), order.end(), longer))
      std::stable_sort(order.begin(), order.end(), longer);
  }
  // At least so many chunks, if there are sequences enough, of at most so many sequences.
  void cut(int64_t parts, int64_t most = kChunk) {
    const int64_t tiles = (rows.count + kTileRows - 1) / kTileRows;
    chunks = std::max((rows.count + most - 1) / most, std::min(parts, tiles));
  }
  // Chunks are equal but for a tile.
  int64_t begin(int64_t k) const {
    const int64_t tiles = (rows.count + kTileRows - 1) / kTileRows;
    return std::min(rows.count, tiles * k / chunks * kTileRows);
  }
  int64_t end(int64_t k) const { return begin(k + 1); }
  // Steps in all.
  int64_t steps() const {
    int64_t sum = 0;
    for (int64_t b = 0; b < rows.count; ++b)
      sum += std::max<int64_t>(0, std::min(rows.end, rows.length[b]) - rows.begin);
    return sum;
  }
};

// The rows of step s of sequence b, s counted in the order of the walk.
inline int64_t index_of(const Rows& rows, int64_t b, int64_t s) {
  return rows.reverse ? rows.length[b] - 1 - s : s;
}
inline int64_t row_of(const Rows& rows, int64_t b, int64_t s) {
  const int64_t k = rows.start[b] + rows.step[index_of(rows, b, s)];
  return rows.index ? rows.index[k] : k;
}
inline int64_t tape_row_of(const Rows& rows, int64_t b, int64_t s) {
  const int64_t k = rows.tape_start[b] + rows.tape_step[index_of(rows, b, s)];
  return rows.tape_index ? rows.tape_index[k] : k;
}

// How many of a chunk's sequences (sorted by falling length) have a step s, given that n of them had the
// step before.
inline int64_t still_active(const Rows& rows, const int64_t* order, int64_t n, int64_t s) {
  while (n > 0 && rows.length[order[n - 1]] <= s) --n;
  return n;
}

// The same on the way back, of n sequences in all, given how many had the step after.
inline int64_t active_again(const Rows& rows, const int64_t* order, int64_t n, int64_t active, int64_t s) {
  while (active < n && rows.length[order[active]] > s) ++active;
  return active;
}

template <class T>
void copy_row(T* to, const T* from, int64_t n) {
  std::memcpy(to, from, size_t(n) * sizeof(T));
}

// Scratch memory of one chunk: one block per thread that grows and is used again by the next chunk.
class Workspace {
 public:
  static constexpr size_t alignment = 64;

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Runs `takes`, a sequence of take(), twice: to see how much is asked for, and to hand it out.
  template <class Takes>
  void lay_out(Takes&& takes) {
    used_ = 0;
    takes();
    reserve(used_);
    used_ = 0;
    takes();
  }
  template <class T>
  T* take(int64_t count) {
    const size_t at = used_;
    used_ += (size_t(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    return used_ <= size_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  ~Workspace() { std::free(base_); }

 private:
  char* base_ = nullptr;
  size_t size_ = 0, used_ = 0;

  void reserve(size_t bytes) {
    if (bytes <= size_) return;
    std::free(base_);
    size_ = 0;
    base_ = static_cast<char*>(std::aligned_alloc(alignment, bytes));
    if (!base_) throw std::bad_alloc();
    size_ = bytes;
  }
};

// Lines of memory that come into the second cache, one for each call.
class Lines {
 public:
  template <class T>
  explicit Lines(const T* first) : at_(reinterpret_cast<const char*>(first)) {}

  inline __attribute__((always_inline)) void operator()() {
    __builtin_prefetch(at_, 0, 2);
    at_ += kLine;
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* at_;
};

// Memory that will be read or written soon, fetched into the cache a few lines at a time: a processor that
// waits for as many lines as it can drops what it is asked on top.
class Ahead {
 public:
  struct Span {
    const char* at;
    int64_t lines;
  };
  explicit Ahead(Span* memory) : begin_(memory), end_(memory) {}

  template <class T>
  void add(const T* row, int64_t count) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(row) / kLine;
    const uintptr_t last = (reinterpret_cast<uintptr_t>(row + count) - 1) / kLine;
    *end_++ = {reinterpret_cast<const char*>(row), int64_t(last - first) + 1};
    lines_ += last - first + 1;
  }
  // All of it in so many calls.
  void spread(int64_t calls) { quota_ = (lines_ + calls - 1) / calls; }

  inline __attribute__((always_inline)) void operator()() {
    for (int64_t i = 0; i < quota_ && begin_ < end_; ++i) {
      __builtin_prefetch(begin_->at);
      begin_->at += kLine;
      if (--begin_->lines == 0) ++begin_;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  Span *begin_, *end_;
  int64_t lines_ = 0, quota_ = 0;
};

}  // namespace timelike
