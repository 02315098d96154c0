// What a cell tells the time loop.
//
// A cell has `slots`: sums of products per unit, each in a register of its own. The slots of `input` are fed
// by W x_t, those of `state` by U h_{t-1}; slot s belongs to gate gate[s] of the parameters, and goes to
// place tape_place[s] of the tape. Where the two ranges differ (GRU), each has its own bias.
//
// M registers of units are worked on at once, so that several chains of dependent operations are in flight.
#pragma once

#include "../math.h"

namespace timelike {
namespace TIMELIKE_ISA {

struct Range {
  int first, count;
};

// What a cell has unless it says otherwise.
struct PlainCell {
  static constexpr bool cell_state = false;    // a second state c beside h
  static constexpr bool projected = false;     // h = (projection) m, where m is what the units give
  static constexpr bool reset_before = false;  // one more product, U_n (r h_{t-1}), inside the step
  static constexpr bool two_biases = false;  // b_ih goes with W x and b_hh with U h, and they are not one sum
  static constexpr bool reads_output = false;  // backward needs h_t
  static constexpr bool reads_state = false;   // h_{t-1} enters other than by U
  static constexpr int diagonals = 0;          // weights from c to the gates, one per unit
};

// One step forward.
template <class Cell, class T, int M>
struct ForwardStep {
  Vec<T> gate[Cell::slots][M];                                // sums; on return the values for the tape
  Vec<T> state[M];                                            // c_{t-1}, on return c_t; or h_{t-1}
  Vec<T> h[M];                                                // h_t
  Vec<T> diagonal[Cell::diagonals ? Cell::diagonals : 1][M];  // peepholes
};

// One step back. All d are dL/d(...).
template <class Cell, class T, int M>
struct BackwardStep {
  Vec<T> gate[Cell::slots][M];  // from the tape
  Vec<T> past[M];               // c_{t-1}, or h_{t-1}
  Vec<T> now[M];                // c_t, or h_t
  Vec<T> dh[M];                 // of h_t, all paths
  Vec<T> carried[M];          // dc on its way from t+1 to t-1; or the part of dh_{t-1} that takes no product
  Vec<T> dc[M];               // of c_t, all paths
  Vec<T> da[Cell::slots][M];  // of the slots
  Vec<T> inner[M];            // of a projection: m; of reset-before: r h_{t-1}
  Vec<T> diagonal[Cell::diagonals ? Cell::diagonals : 1][M];
};

}  // namespace TIMELIKE_ISA
}  // namespace timelike
