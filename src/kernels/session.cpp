// What Python sees of session.h: sessions and streams that take and give NumPy arrays. Apart from module.cpp,
// which takes addresses that kernels.py has checked: here the checks are native, too.
#include <memory>
#include <optional>

#include "arrays.h"
#include "session.h"

namespace timelike {
namespace {

// Calls shorter than this keep the GIL: who gives it up may wait milliseconds to get it back.
constexpr int64_t kShort = 2'000'000;  // multiply-adds

const Table& table(const std::string& name) {
  const TableList list = available_tables();
  for (int k = 0; k < list.count; ++k)
    if (name == list.table[k]->name) return *list.table[k];
  value_error("no kernels for instruction set '" + name + "'");
}

template <class T>
const Layer<T>& layer_of(const std::string& instruction_set, const std::string& cell) {
  const Table& kernels = table(instruction_set);
  for (int k = 0; k < kCells; ++k)
    if constexpr (sizeof(T) == 4) {
      if (cell == kernels.f32[k].cell) return kernels.f32[k];
    } else {
      if (cell == kernels.f64[k].cell) return kernels.f64[k];
    }
  value_error("no kernel for cell '" + cell + "'");
}

Rows whole_sequences(const std::vector<int64_t>& start, const std::vector<int64_t>& step,
                     const std::vector<int64_t>& length) {
  return {start.data(),           step.data(), start.data(),         step.data(), length.data(),
          int64_t(length.size()), 0,           int64_t(step.size()), false};
}

// Shape of the states of S layers and directions; without the axis B for one sequence alone.
Shape state_shape(int64_t S, int64_t B, int64_t width, bool alone) {
  return alone ? Shape{2, {S, width}} : Shape{3, {S, B, width}};
}

// The states that a caller gives: None, h, or (h, c) where the cell has both.
template <class T>
struct GivenStates {
  Input<T> h, c;

  GivenStates(const Stack<T>& stack, nb::handle state, int64_t B, bool alone) {
    if (state.is_none()) return;
    const int64_t S = stack.states();
    if (!stack.cell_state()) {
      h.open("state", state, state_shape(S, B, stack.hidden(), alone));
      return;
    }
    if (!PyTuple_Check(state.ptr()) || PyTuple_GET_SIZE(state.ptr()) != 2)
      type_error("state: " + type_of(state) + ", expected a tuple (h, c) of two arrays");
    h.open("h of state", PyTuple_GET_ITEM(state.ptr(), 0), state_shape(S, B, stack.hidden(), alone));
    c.open("c of state", PyTuple_GET_ITEM(state.ptr(), 1), state_shape(S, B, stack.units(), alone));
  }
};

// Arrays that get states.
template <class T>
struct LastStates {
  Output<T> h;
  std::optional<Output<T>> c;

  LastStates(const Stack<T>& stack, Spares<T>& spares, int64_t B, bool alone)
      : h(spares, state_shape(stack.states(), B, stack.hidden(), alone)) {
    if (stack.cell_state()) c.emplace(spares, state_shape(stack.states(), B, stack.units(), alone));
  }
  T* cells() const { return c ? c->data() : nullptr; }
  nb::object python() const { return c ? nb::object(nb::make_tuple(h.array, c->array)) : h.array; }
};

template <class T>
class Session {
 public:
  // layers: for each layer, for each direction: packed weights, D, H, R.
  Session(const std::string& instruction_set, const std::string& cell, bool cell_state, nb::list layers,
          bool batch_first)
      : weights_(layers),
        stack_(directions(layer_of<T>(instruction_set, cell), layers), cell_state),
        batch_first_(batch_first) {}

  Session(const Session&) = delete;

  const Stack<T>& stack() const { return stack_; }

  // (y, state), or the state alone without `steps`.
  nb::object run(nb::handle x_, nb::handle offsets, nb::handle lengths, nb::handle state, nb::handle out,
                 bool steps, int threads) {
    const Input<T> x("x", x_);
    const Lease scratch(idle_);
    const Layout at = lay_out(x.buffer, offsets, lengths, *scratch);
    const GivenStates<T> first(stack_, state, at.rows.count, at.alone);
    std::optional<Output<T>> y;
    if (steps && out.is_none()) {
      y.emplace(spares_, at.y);
    } else if (steps) {
      y.emplace("out", out, at.y);
      if (y->buffer.overlaps(x.buffer) || y->buffer.overlaps(first.h.buffer) ||
          y->buffer.overlaps(first.c.buffer))
        value_error("out: shares memory with x or the state");
    }
    const LastStates<T> last(stack_, spares_, at.rows.count, at.alone);
    const BatchInference<T> batch{at.rows,       at.N,           at.padded,      x.data(),
                                  x.distance,    first.h.data(), first.c.data(), y ? y->data() : nullptr,
                                  last.h.data(), last.cells(),   threads};
    {
      std::optional<nb::gil_scoped_release> released;
      if (at.steps * stack_.weights() >= kShort) released.emplace();
      stack_.run(batch, scratch->workspace);
    }
    return y ? nb::object(nb::make_tuple(y->array, last.python())) : last.python();
  }

 private:
  // Memory of one call, kept for later ones; the GIL is held where it changes hands.
  struct Scratch {
    Workspace workspace;
    std::vector<int64_t> start, step, length;
  };
  using Idle = std::vector<std::unique_ptr<Scratch>>;

  class Lease {
   public:
    explicit Lease(Idle& idle) : idle_(idle) {
      if (idle.empty()) idle.push_back(std::make_unique<Scratch>());
      scratch_ = std::move(idle.back());
      idle.pop_back();
    }
    ~Lease() { idle_.push_back(std::move(scratch_)); }
    Scratch& operator*() const { return *scratch_; }
    Scratch* operator->() const { return scratch_.get(); }

   private:
    Idle& idle_;
    std::unique_ptr<Scratch> scratch_;
  };

  struct Layout {
    Rows rows;
    int64_t N, padded, steps;  // rows of the buffers; as in BatchInference; steps of all sequences
    bool alone;                // one sequence, without an axis
    Shape y;
  };

  nb::object weights_;  // keeps them alive
  Stack<T> stack_;
  bool batch_first_;
  Idle idle_;
  Spares<T> spares_;

  static std::vector<std::vector<Direction<T>>> directions(const Layer<T>& layer, nb::list layers) {
    std::vector<std::vector<Direction<T>>> found;
    for (nb::handle of_layer : layers) {
      found.emplace_back();
      for (nb::handle direction : of_layer)
        found.back().push_back({&layer, Input<T>("weights", direction[0]).data(),
                                nb::cast<int64_t>(direction[1]), nb::cast<int64_t>(direction[2]),
                                nb::cast<int64_t>(direction[3])});
    }
    return found;
  }

  Layout lay_out(const Buffer<T>& x, nb::handle offsets, nb::handle lengths, Scratch& s) const {
    const int64_t D = stack_.inputs(), width = stack_.outputs();
    const bool padded = x.axes() == 3 && offsets.is_none();
    if (!padded && (x.axes() != 2 || !lengths.is_none())) wrong_axes(x, offsets, lengths);
    if (x.size(x.axes() - 1) != D)
      value_error("x: shape " + x.shape() + ", but a step has " + std::to_string(D) + " inputs");
    Layout at{};
    if (padded) {
      const int64_t B = x.size(batch_first_ ? 0 : 1), n_steps = x.size(batch_first_ ? 1 : 0);
      at.N = B * n_steps, at.padded = n_steps;
      at.y = {3, {x.size(0), x.size(1), width}};
      multiples(s.start, B, batch_first_ ? n_steps : 1);
      multiples(s.step, n_steps, batch_first_ ? 1 : B);
      if (lengths.is_none())
        s.length.assign(size_t(B), n_steps);
      else
        read_lengths(lengths, B, n_steps, s);
    } else {
      at.N = x.size(0);
      at.y = {2, {at.N, width}};
      at.alone = offsets.is_none();
      if (at.alone) {
        s.start.assign(1, 0), s.length.assign(1, at.N);
        multiples(s.step, at.N, 1);
      } else {
        read_offsets(offsets, at.N, s);
      }
    }
    for (const int64_t n : s.length) at.steps += n;
    at.rows = whole_sequences(s.start, s.step, s.length);
    return at;
  }

  static void multiples(std::vector<int64_t>& to, int64_t n, int64_t distance) {
    to.resize(size_t(n));
    for (int64_t k = 0; k < n; ++k) to[size_t(k)] = k * distance;
  }

  static void read_lengths(nb::handle lengths, int64_t B, int64_t n_steps, Scratch& s) {
    read_integers("lengths", lengths, s.length);
    if (int64_t(s.length.size()) != B)
      value_error("lengths: " + std::to_string(s.length.size()) + " numbers for " + std::to_string(B) +
                  " sequences");
    for (const int64_t n : s.length)
      if (n < 0 || n > n_steps)
        value_error("lengths: " + std::to_string(n) + ", expected 0 to the " + std::to_string(n_steps) +
                    " steps of x");
  }

  static void read_offsets(nb::handle offsets, int64_t N, Scratch& s) {
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

  [[noreturn]] void wrong_axes(const Buffer<T>& x, nb::handle offsets, nb::handle lengths) const {
    if (!offsets.is_none() && !lengths.is_none())
      value_error("offsets and lengths: give offsets for steps (N, D), lengths for a padded batch");
    const std::string D = std::to_string(stack_.inputs()) + ")";
    const std::string padded = (batch_first_ ? "(B, T, " : "(T, B, ") + D;
    value_error("x: shape " + x.shape() + ", expected " +
                (!offsets.is_none()   ? "(N, " + D + " with offsets"
                 : !lengths.is_none() ? padded + " with lengths"
                                      : padded + ", or (T, " + D + " for one sequence"));
  }
};

template <class T>
class Stream {
 public:
  // B < 0: one sequence, without an axis for it.
  Stream(nb::object session, int64_t B)
      : session_(session),
        stack_(nb::cast<Session<T>&>(session).stack()),
        alone_(B < 0),
        B_(alone_ ? 1 : B),
        start_(size_t(B_)),
        step_(1, 0),
        length_(size_t(B_), 1),
        h_(size_t(stack_.states() * B_ * stack_.hidden())),
        c_(size_t(stack_.cell_state() ? stack_.states() * B_ * stack_.units() : 0)) {
    for (size_t b = 0; b < start_.size(); ++b) start_[b] = int64_t(b);
  }

  Stream(const Stream&) = delete;

  nb::object step(nb::handle x_, nb::handle out, int threads) {
    const Input<T> x("x", x_, row_shape(stack_.inputs()));
    const Shape shape = row_shape(stack_.outputs());
    const Output<T> y = out.is_none() ? Output<T>(spares_, shape) : Output<T>("out", out, shape);
    if (!out.is_none() && y.buffer.overlaps(x.buffer)) value_error("out: shares memory with x");
    const Use use(*this);
    std::optional<nb::gil_scoped_release> released;
    if (B_ * stack_.weights() >= kShort) released.emplace();
    stack_.step(whole_sequences(start_, step_, length_), x.data(), y.data(), h_.data(),
                c_.empty() ? nullptr : c_.data(), threads);
    released.reset();
    return y.array;
  }

  // To these states, or to zeros where None is given.
  void reset(nb::handle state) {
    const GivenStates<T> given(stack_, state, B_, alone_);
    const Use use(*this);
    set(h_, given.h.data());
    set(c_, given.c.data());
  }

  nb::object state() {
    const LastStates<T> copy(stack_, spares_, B_, alone_);
    const Use use(*this);
    std::copy(h_.begin(), h_.end(), copy.h.data());
    std::copy(c_.begin(), c_.end(), copy.cells());
    return copy.python();
  }

 private:
  // A step that has given up the GIL is not to be disturbed.
  class Use {
   public:
    explicit Use(Stream& stream) : busy_(stream.busy_) {
      if (busy_) throw std::runtime_error("a stream serves one thread at a time: make one for each");
      busy_ = true;
    }
    ~Use() { busy_ = false; }

   private:
    bool& busy_;
  };

  nb::object session_;  // keeps the stack alive
  const Stack<T>& stack_;
  bool alone_, busy_ = false;
  int64_t B_;
  std::vector<int64_t> start_, step_, length_;
  std::vector<T> h_, c_;
  Spares<T> spares_;

  static void set(std::vector<T>& own, const T* given) {
    if (given)
      std::copy_n(given, own.size(), own.begin());
    else
      std::fill(own.begin(), own.end(), T(0));
  }
  Shape row_shape(int64_t width) const { return alone_ ? Shape{1, {width}} : Shape{2, {B_, width}}; }
};

template <class T>
void bind(nb::module_& m, const char* session, const char* stream) {
  nb::class_<Session<T>>(m, session)
      .def("run", &Session<T>::run, nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg(), nb::arg())
      .def(
          "stream", [](nb::object self, int64_t B) { return new Stream<T>(self, B); },
          nb::rv_policy::take_ownership);
  nb::class_<Stream<T>>(m, stream)
      .def("step", &Stream<T>::step, nb::arg().none(), nb::arg().none(), nb::arg())
      .def("reset", &Stream<T>::reset, nb::arg().none())
      .def("state", &Stream<T>::state);
}

template <class T>
nb::object session(const std::string& instruction_set, const std::string& cell, bool cell_state,
                   nb::list layers, bool batch_first) {
  return nb::cast(new Session<T>(instruction_set, cell, cell_state, layers, batch_first),
                  nb::rv_policy::take_ownership);
}

}  // namespace

void bind_sessions(nb::module_& m) {
  bind<float>(m, "SessionF32", "StreamF32");
  bind<double>(m, "SessionF64", "StreamF64");
  m.def("session", [](const std::string& instruction_set, const std::string& cell, const std::string& dtype,
                      bool cell_state, nb::list layers, bool batch_first) {
    return (dtype == "float32" ? session<float> : session<double>)(instruction_set, cell, cell_state, layers,
                                                                   batch_first);
  });
}

}  // namespace timelike
