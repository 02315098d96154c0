// The whole contract between the kernels and their callers: argument blocks and the table of kernels.
//
// Letters: B sequences, T steps of the longest one, N rows (steps of all sequences), D inputs, H units,
// G gates. All arrays are row-major; "ld" is the distance between rows in elements. Every buffer belongs
// to the caller and is only used during the call; a null pointer means "not given" or "not wanted".
// Every output is overwritten (`=`); the one exception, dx with add_dx, is marked.
#pragma once

#include <cstdint>

namespace timelike {

// Where step t of sequence b lives: row start[b] + step[t] of the row buffers. One rule for ragged
// (start = offsets, step = t), time-major (start = b, step = t B), batch-major (start = b T, step = t)
// and packed batches (start = b, step = cumulative batch sizes).
struct Rows {
  const int64_t* start;   // [B]
  const int64_t* step;    // [T]
  const int64_t* length;  // [B] number of steps of each sequence, 0 <= length <= T
  int64_t count;          // B
  bool reverse;           // walk each sequence from its last step to its first
};

template <class T>
struct Weights {
  int64_t D, H;
  const T* W;     // [G H, D] input weights
  const T* U;     // [G H, H] state weights
  const T* b_ih;  // [G H] or null
  const T* b_hh;  // [G H] or null; added to b_ih
};

template <class T>
struct Forward {
  Rows rows;
  int64_t D, H;
  const T* packed;  // from pack_forward
  const T* x;       // [N, D]
  int64_t ldx;
  const T* h0;  // [B, H] or null: zeros
  const T* c0;  // [B, H] or null: zeros
  T* y;         // [N, H] hidden states
  int64_t ldy;
  T* hT;     // [B, H] last hidden state of each sequence (h0 where it has no steps), or null
  T* cT;     // [B, H] last cell state, or null
  T* gates;  // [N, G H] the tape: gate values, or null when no backward follows
  T* cells;  // [N, H] the tape: cell states, or null with gates
};

template <class T>
struct Backward {
  Rows rows;
  int64_t D, H;
  const T* packed;  // from pack_backward
  const T* x;       // [N, D] as in forward; null when no weight gradient is wanted
  int64_t ldx;
  const T* h0;  // as in forward
  const T* c0;
  const T* y;  // [N, H] as forward wrote it
  int64_t ldy;
  const T* gates;  // [N, G H] the tape, not changed
  const T* cells;  // [N, H]
  const T* dy;     // [N, H] or null: zeros
  int64_t lddy;
  const T* dhT;  // [B, H] or null: zeros
  const T* dcT;  // [B, H] or null: zeros
  T* dx;         // [N, D] or null
  int64_t lddx;
  bool add_dx;  // dx += instead of dx =, for the second direction of a bidirectional layer
  T* dW;        // [G H, D]; dW, dU and db are all given or all null
  T* dU;        // [G H, H]
  T* db;        // [G H]
  T* dh0;       // [B, H] or null
  T* dc0;       // [B, H] or null
  T* dgates;    // [N, G H] gradients of the gates before their activation, or null
};

// One cell in one precision.
template <class T>
struct Layer {
  int64_t (*forward_size)(int64_t D, int64_t H);   // elements of packed weights for forward
  int64_t (*backward_size)(int64_t D, int64_t H);  // ... and for backward
  void (*pack_forward)(const Weights<T>&, T* packed);
  void (*pack_backward)(const Weights<T>&, T* packed);
  void (*forward)(const Forward<T>&);
  void (*backward)(const Backward<T>&);
};

// Elementwise functions, one array in and one out: for the tests of their error bounds.
template <class T>
struct Functions {
  void (*exp)(const T* x, T* y, int64_t n);
  void (*sigmoid)(const T* x, T* y, int64_t n);
  void (*tanh)(const T* x, T* y, int64_t n);
};

// All kernels compiled for one instruction set.
struct Table {
  const char* name;
  Layer<float> lstm_f32;
  Layer<double> lstm_f64;
  Functions<float> f32;
  Functions<double> f64;
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
