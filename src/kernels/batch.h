// Whole sequences as Python gives them: padded, with or without lengths, ragged with offsets, or one alone.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "api.h"
#include "arrays.h"

namespace timelike {

// Memory for the numbers that Rows points to.
struct Places {
  std::vector<int64_t> start, step, length;

  Rows rows() const {
    return {start.data(),           step.data(), start.data(),         step.data(), length.data(),
            int64_t(length.size()), 0,           int64_t(step.size()), false};
  }
};

// What a layer makes of arrays (..., D): arrays (..., width).
struct Widths {
  int64_t D, width;
  bool batch_first;  // whether padded batches are (B, T, D) instead of (T, B, D)
};

struct BatchLayout {
  Rows rows;
  int64_t N, padded, steps;  // rows of the buffers; as in StackBatch; steps of all sequences
  bool alone;                // one sequence, without an axis
  Shape x, y;
};

inline void multiples(std::vector<int64_t>& to, int64_t n, int64_t distance) {
  to.resize(size_t(n));
  for (int64_t k = 0; k < n; ++k) to[size_t(k)] = k * distance;
}

inline void read_lengths(nb::handle lengths, int64_t B, int64_t n_steps, Places& s) {
  read_integers("lengths", lengths, s.length);
  if (int64_t(s.length.size()) != B)
    value_error("lengths: " + std::to_string(s.length.size()) + " numbers for " + std::to_string(B) +
                " sequences");
  for (const int64_t n : s.length)
    if (n < 0 || n > n_steps)
      value_error("lengths: " + std::to_string(n) + ", expected 0 to the " + std::to_string(n_steps) +
                  " steps of x");
}

inline void read_offsets(nb::handle offsets, int64_t N, Places& s) {
  read_integers("offsets", offsets, s.start);
  if (s.start.empty() || s.start.front() != 0 || s.start.back() != N)
    value_error("offsets: must go from 0 to the " + std::to_string(N) + " rows of x");
  s.length.resize(s.start.size() - 1);
  int64_t longest = 0;
  for (size_t b = 0; b < s.length.size(); ++b) {
    if (s.start[b + 1] < s.start[b])
      value_error("offsets: fall from " + std::to_string(s.start[b]) + " to " +
                  std::to_string(s.start[b + 1]));
    s.length[b] = s.start[b + 1] - s.start[b];
    longest = std::max(longest, s.length[b]);
  }
  multiples(s.step, longest, 1);
}

[[noreturn]] inline void wrong_axes(const std::string& shape, nb::handle offsets, nb::handle lengths,
                                    const Widths& of) {
  if (!offsets.is_none() && !lengths.is_none())
    value_error("offsets and lengths: give offsets for steps (N, D), lengths for a padded batch");
  const std::string D = std::to_string(of.D) + ")";
  const std::string padded = (of.batch_first ? "(B, T, " : "(T, B, ") + D;
  value_error("x: shape " + shape + ", expected " +
              (!offsets.is_none()   ? "(N, " + D + " with offsets"
               : !lengths.is_none() ? padded + " with lengths"
                                    : padded + ", or (T, " + D + " for one sequence"));
}

template <class T>
BatchLayout read_batch(const Buffer<T>& x, nb::handle offsets, nb::handle lengths, const Widths& of,
                       Places& s) {
  const bool padded = x.axes() == 3 && offsets.is_none();
  if (!padded && (x.axes() != 2 || !lengths.is_none())) wrong_axes(x.shape(), offsets, lengths, of);
  if (x.size(x.axes() - 1) != of.D)
    value_error("x: shape " + x.shape() + ", but a step has " + std::to_string(of.D) + " inputs");
  BatchLayout at{};
  if (padded) {
    const int64_t B = x.size(of.batch_first ? 0 : 1), n_steps = x.size(of.batch_first ? 1 : 0);
    at.N = B * n_steps, at.padded = n_steps;
    at.x = {3, {x.size(0), x.size(1), of.D}};
    at.y = {3, {x.size(0), x.size(1), of.width}};
    multiples(s.start, B, of.batch_first ? n_steps : 1);
    multiples(s.step, n_steps, of.batch_first ? 1 : B);
    if (lengths.is_none())
      s.length.assign(size_t(B), n_steps);
    else
      read_lengths(lengths, B, n_steps, s);
  } else {
    at.N = x.size(0);
    at.x = {2, {at.N, of.D}};
    at.y = {2, {at.N, of.width}};
    at.alone = offsets.is_none();
    if (at.alone) {
      s.start.assign(1, 0), s.length.assign(1, at.N);
      multiples(s.step, at.N, 1);
    } else {
      read_offsets(offsets, at.N, s);
    }
  }
  for (const int64_t n : s.length) at.steps += n;
  at.rows = s.rows();
  return at;
}

}  // namespace timelike
