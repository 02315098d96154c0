// The whole contract between the kernels and their callers: argument blocks and the table of kernels.
//
// Letters: B sequences, T steps of the longest one, N rows (steps of all sequences), D inputs, H units,
// R numbers of the hidden state (H, but fewer with a projection), G gates of the parameters, A numbers per
// unit on the tape. All arrays are row-major; "ld" is the distance between rows in elements. Every buffer
// belongs to the caller and is only used during the call; a null pointer means "not given" or "not wanted".
// Every output is overwritten (`=`); the one exception, dx with add_dx, is marked.
#pragma once

#include <cstdint>

namespace timelike {

// Where step t of sequence b lives: row start[b] + step[t] of x, y and their gradients, and row
// tape_start[b] + tape_step[t] of what forward keeps for backward. One rule for ragged (start = offsets,
// step = t), time-major (start = b, step = t B), batch-major (start = b T, step = t) and packed batches
// (start = b, step = cumulative batch sizes), and for a tape of a few steps that is used again and again
// (tape_start = b, tape_step = (t mod k) B). Where steps follow no such rule, as between the holes of a mask,
// the sums are places in a list of rows.
struct Rows {
  const int64_t* start;                 // [B]
  const int64_t* step;                  // [T]
  const int64_t* tape_start;            // [B]
  const int64_t* tape_step;             // [T]
  const int64_t* length;                // [B] number of steps of each sequence, 0 <= length <= T
  int64_t count;                        // B
  int64_t begin, end;                   // steps of the walk to be taken: begin <= s < min(end, length)
  bool reverse;                         // walk each sequence from its last step to its first
  const int64_t* index = nullptr;       // the list of rows, or null where the sums are the rows
  const int64_t* tape_index = nullptr;  // likewise of the tape
};

template <class T>
struct Weights {
  int64_t D, H, R;
  const T* W;           // [G H, D] input weights
  const T* U;           // [G H, R] state weights
  const T* b_ih;        // [G H] or null
  const T* b_hh;        // [G H] or null
  const T* peephole;    // [3 H] from the cell state to i, f and o, or null
  const T* projection;  // [R, H] from the units to the hidden state, or null
};

template <class T>
struct Forward {
  Rows rows;
  int64_t D, H, R;
  const T* packed;  // from pack_forward
  const T* x;       // [N, D]
  int64_t ldx;
  const T* h0;  // [B, R] or null: zeros
  const T* c0;  // [B, H] or null: zeros
  T* y;         // [N, R] hidden states, or null
  int64_t ldy;
  T* hidden;    // [tape, R] hidden states again, or null
  T* hT;        // [B, R] last hidden state of each sequence (h0 where it takes no step), or null
  T* cT;        // [B, H] last cell state, or null
  T* gates;     // [tape, A H] gate values, or null when no backward follows
  T* cells;     // [tape, H] cell states, or null with gates
  int threads;  // at most so many
};

template <class T>
struct Backward {
  Rows rows;
  int64_t D, H, R;
  const T* packed;  // from pack_backward
  const T* x;       // [N, D] as in forward; null when no weight gradient is wanted
  int64_t ldx;
  const T* h0;  // as in forward
  const T* c0;
  const T* hidden;  // [tape, R] as forward wrote it; y itself where tape and rows are the same
  int64_t ldhidden;
  const T* gates;  // [tape, A H], not changed
  const T* cells;  // [tape, H]
  const T* dy;     // [N, R] or null: zeros
  int64_t lddy;
  const T* dhT;  // [B, R] or null: zeros
  const T* dcT;  // [B, H] or null: zeros
  T* dx;         // [N, D] or null
  int64_t lddx;
  bool add_dx;     // dx += instead of dx =, for the second direction of a bidirectional layer
  T* dW;           // [G H, D]; all parameters' gradients are given or none, but for the biases
  T* dU;           // [G H, R]
  T* db_ih;        // [G H] or null
  T* db_hh;        // [G H] or null
  T* dpeephole;    // [3 H] of a cell with peepholes
  T* dprojection;  // [R, H] of a cell with projection
  T* dh0;          // [B, R] or null
  T* dc0;          // [B, H] or null
  T* dgates;       // [tape, G H] gradients of the gates before their activation (input side), or null
  T* dhidden;      // [tape, R] gradients of the hidden states by all paths, or null
  T* dcells;       // [tape, H] gradients of the cell states by all paths, or null
  int threads;
};

// One cell in one precision.
template <class T>
struct Layer {
  const char* cell;
  int gates, tape_gates;                                      // G, A
  int64_t (*forward_size)(int64_t D, int64_t H, int64_t R);   // elements of packed weights for forward
  int64_t (*backward_size)(int64_t D, int64_t H, int64_t R);  // ... and for backward
  void (*pack_forward)(const Weights<T>&, T* packed);
  void (*pack_backward)(const Weights<T>&, T* packed);
  void (*forward)(const Forward<T>&);
  void (*backward)(const Backward<T>&);
};

// Elementwise functions, one array in and one out: for the tests of their error bounds. And at least n
// multiply-adds as fast as they can be done, for what benchmarks call the peak; how many they were.
template <class T>
struct Functions {
  void (*exp)(const T* x, T* y, int64_t n);
  void (*sigmoid)(const T* x, T* y, int64_t n);
  void (*tanh)(const T* x, T* y, int64_t n);
  int64_t (*multiply_adds)(int64_t n);
};

// All kernels compiled for one instruction set.
constexpr int kCells = 8;
struct Table {
  const char* name;
  Layer<float> f32[kCells];
  Layer<double> f64[kCells];
  Functions<float> functions_f32;
  Functions<double> functions_f64;
};

extern const Table table_baseline;
#if defined(__x86_64__)
extern const Table table_avx2, table_avx512;
#elif defined(__aarch64__)
extern const Table table_neon;
#endif

constexpr int kMaxTables = 8;
struct TableList {
  const Table* table[kMaxTables];  // worst first
  int count;
};
TableList available_tables();  // compiled in and runnable on this processor

}  // namespace timelike
