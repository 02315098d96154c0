// What Python sees of session.h: sessions, ways back and streams that take and give NumPy arrays. Apart from
// module.cpp, which takes addresses that kernels.py has checked: here the checks are native, too.
#include <memory>
#include <optional>

#include "batch.h"
#include "session.h"

namespace timelike {
namespace {

// Calls shorter than this keep the GIL: who gives it up may wait milliseconds to get it back.
constexpr int64_t kShort = 2'000'000;  // multiply-adds

// Gives up the GIL while this lives, if there is so much to do.
class Released {
 public:
  explicit Released(int64_t multiply_adds) {
    if (multiply_adds >= kShort) released_.emplace();
  }
  void end() { released_.reset(); }

 private:
  std::optional<nb::gil_scoped_release> released_;
};

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

// Shape of the states of S layers and directions; without the axis B for one sequence alone.
Shape state_shape(int64_t S, int64_t B, int64_t width, bool alone) {
  return alone ? Shape{2, {S, width}} : Shape{3, {S, B, width}};
}

// States that a caller gives, or gradients by them: None, h, or (h, c) where the cell has both.
template <class T>
struct GivenStates {
  Input<T> h, c;
  bool any = false;

  // `parts`: whether one of the two may be None.
  GivenStates(const Stack<T>& stack, const std::string& name, nb::handle state, int64_t B, bool alone,
              bool parts = false) {
    if (state.is_none()) return;
    any = true;
    const int64_t S = stack.states();
    const Shape shape = state_shape(S, B, stack.hidden(), alone);
    if (!stack.cell_state()) {
      h.open(name.c_str(), state, shape);
      return;
    }
    if (!PyTuple_Check(state.ptr()) || PyTuple_GET_SIZE(state.ptr()) != 2)
      type_error(name + ": " + type_of(state) + ", expected a tuple (h, c) of two arrays");
    const nb::handle of_h = PyTuple_GET_ITEM(state.ptr(), 0), of_c = PyTuple_GET_ITEM(state.ptr(), 1);
    any = !of_h.is_none() || !of_c.is_none();
    if (!parts || !of_h.is_none()) h.open(("h of " + name).c_str(), of_h, shape);
    if (!parts || !of_c.is_none())
      c.open(("c of " + name).c_str(), of_c, state_shape(S, B, stack.units(), alone));
  }
};

// Arrays that get states, or gradients by them.
template <class T>
struct NewStates {
  Output<T> h;
  std::optional<Output<T>> c;

  NewStates(const Stack<T>& stack, Spares<T>& spares, int64_t B, bool alone)
      : h(spares, state_shape(stack.states(), B, stack.hidden(), alone)) {
    if (stack.cell_state()) c.emplace(spares, state_shape(stack.states(), B, stack.units(), alone));
  }
  T* cells() const { return c ? c->data() : nullptr; }
  nb::object python() const { return c ? nb::object(nb::make_tuple(h.array, c->array)) : h.array; }
};

// Memory of one call, kept for later ones; the GIL is held where it changes hands.
struct Scratch {
  Workspace workspace;
  Places places;
};

class Idle {
 public:
  explicit Idle(size_t most) : most_(most) {}

  std::unique_ptr<Scratch> take() {
    if (idle_.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> found = std::move(idle_.back());
    idle_.pop_back();
    return found;
  }
  void give_back(std::unique_ptr<Scratch> scratch) {
    if (idle_.size() < most_) idle_.push_back(std::move(scratch));
  }

 private:
  const size_t most_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

class Lease {
 public:
  explicit Lease(Idle& idle) : idle_(idle), scratch_(idle.take()) {}
  Lease(const Lease&) = delete;
  ~Lease() { idle_.give_back(std::move(scratch_)); }
  Scratch* operator->() const { return scratch_.get(); }

 private:
  Idle& idle_;
  std::unique_ptr<Scratch> scratch_;
};

// The shape of a weight of a layer, by its place among kParameters.
template <class T>
Shape parameter_shape(const SizedLayer<T>& layer, size_t place) {
  const int64_t rows = layer.kernels->gates * layer.H;
  const Shape shapes[kParameters] = {{2, {rows, layer.D}}, {2, {rows, layer.R}}, {1, {rows}},
                                     {1, {rows}},          {1, {3 * layer.H}},   {2, {layer.R, layer.H}}};
  return shapes[place];
}

template <class T>
class Session {
 public:
  // sizes: D, H, R of each layer. names: the weights of each layer, one direction after the other, each in
  // the order of kParameters; None for what there is not, in any direction of a layer.
  Session(const std::string& instruction_set, const std::string& cell, bool cell_state, nb::list sizes,
          int directions, nb::list names, nb::dict weights, bool batch_first)
      : names_(names),
        stack_(sized_layers(layer_of<T>(instruction_set, cell), sizes), directions, cell_state),
        widths_{stack_.inputs(), stack_.outputs(), batch_first} {
    const size_t in_a_layer = size_t(directions) * kParameters;
    for (size_t k = 0; k < nb::len(names); ++k) {
      const nb::handle name = PyList_GET_ITEM(names.ptr(), Py_ssize_t(k));
      const size_t layer = k / in_a_layer, place = k % kParameters;
      if (!name.is_none())
        parameters_.push_back({name, layer, k, place, parameter_shape(stack_.layer(int64_t(layer)), place)});
    }
    update(weights);
  }

  Session(const Session&) = delete;

  const Stack<T>& stack() const { return stack_; }
  // As they are now; whoever holds them keeps them.
  const std::shared_ptr<StackWeights<T>>& weights() const { return weights_; }

  void update(nb::dict weights) {
    std::vector<Input<T>> inputs(parameters_.size());
    std::vector<std::vector<const void*>> arrays(size_t(stack_.layers()));
    for (size_t k = 0; k < inputs.size(); ++k) {
      const Parameter& p = parameters_[k];
      const nb::handle given = PyDict_GetItemWithError(weights.ptr(), p.name.ptr());
      if (!given.is_valid()) value_error(text(p.name) + ": missing");
      inputs[k].open(text(p.name).c_str(), given, p.shape);
      arrays[p.layer].push_back(inputs[k].data());
    }
    for (const auto& unused : all_weights_)
      if (unused.use_count() == 1) {
        for (size_t l = 0; l < arrays.size(); ++l) (*unused)[l]->renew(arrays[l]);
        weights_ = unused;
        return;
      }
    const auto held = std::make_shared<StackWeights<T>>();
    for (size_t l = 0; l < arrays.size(); ++l) {
      std::vector<size_t> bytes;
      std::vector<int> slots(kParameters, -1);
      for (size_t k = 0; k < inputs.size(); ++k) {
        const Parameter& p = parameters_[k];
        if (p.layer != l) continue;
        if (slots[p.place] < 0) slots[p.place] = int(bytes.size());
        bytes.push_back(size_t(inputs[k].buffer.count()) * sizeof(T));
      }
      held->push_back(std::make_unique<HeldWeights<T>>(stack_.layer(int64_t(l)), arrays[l], bytes, slots,
                                                       int(stack_.directions())));
    }
    weights_ = held;
    if (all_weights_.size() < kMostWeights) all_weights_.push_back(held);
  }

  // Copies of the weights, by their names.
  nb::dict copies() const {
    const std::shared_ptr<StackWeights<T>> weights = weights_;
    std::vector<size_t> next(weights->size());
    nb::dict found;
    for (const Parameter& p : parameters_) {
      Buffer<T> memory;
      const nb::object array = new_array<T>(p.shape);
      memory.open(array, true);
      std::copy_n((*weights)[p.layer]->copies()[next[p.layer]++], memory.count(), memory.data());
      found[p.name] = array;
    }
    return found;
  }

  // (y, state), or the state alone without `steps`.
  nb::object run(nb::handle x_, nb::handle offsets, nb::handle lengths, nb::handle state, nb::handle out,
                 bool steps, int threads) {
    const Input<T> x("x", x_);
    const Lease scratch(idle_);
    const BatchLayout at = read_batch(x.buffer, offsets, lengths, widths_, scratch->places);
    const GivenStates<T> first(stack_, "state", state, at.rows.count, at.alone);
    std::optional<Output<T>> y;
    if (steps && out.is_none()) {
      y.emplace(spares_, at.y);
    } else if (steps) {
      y.emplace("out", out, at.y);
      if (y->buffer.overlaps(x.buffer) || y->buffer.overlaps(first.h.buffer) ||
          y->buffer.overlaps(first.c.buffer))
        value_error("out: shares memory with x or the state");
    }
    const NewStates<T> last(stack_, spares_, at.rows.count, at.alone);
    {
      const std::shared_ptr<StackWeights<T>> weights = weights_;
      const Released released(at.steps * stack_.multiply_adds());
      stack_.run(*weights, {at.rows, at.N, at.padded, x.data(), x.distance, first.h.data(), first.c.data()},
                 {y ? y->data() : nullptr, last.h.data(), last.cells()}, threads, scratch->workspace);
    }
    return y ? nb::object(nb::make_tuple(y->array, last.python())) : last.python();
  }

 private:
  template <class>
  friend class Pullback;

  struct Parameter {
    nb::handle name;
    size_t layer, slot, place;  // slot: among those of all layers and directions; place: among kParameters
    Shape shape;
  };

  nb::list names_;
  std::vector<Parameter> parameters_;
  Stack<T> stack_;
  Widths widths_;
  std::shared_ptr<StackWeights<T>> weights_;
  // These and those of the step before, whose memory is for the next: a pullback holds some for a while.
  static constexpr size_t kMostWeights = 2;
  std::vector<std::shared_ptr<StackWeights<T>>> all_weights_;
  Idle idle_{16}, tapes_{1};  // of runs at the same time; tapes are large
  Spares<T> spares_;

  static std::vector<SizedLayer<T>> sized_layers(const Layer<T>& kernels, nb::list sizes) {
    std::vector<SizedLayer<T>> found;
    for (nb::handle s : sizes)
      found.push_back({&kernels, nb::cast<int64_t>(s[0]), nb::cast<int64_t>(s[1]), nb::cast<int64_t>(s[2])});
    return found;
  }
};

// One run of a session, kept for the way back: its inputs and outputs, which nobody is to change, and a tape.
template <class T>
class Pullback {
 public:
  Pullback(nb::object session, nb::handle x, nb::handle offsets, nb::handle lengths, nb::handle state)
      : session_(session),
        owner_(nb::cast<Session<T>&>(session)),
        weights_(owner_.weights()),
        memory_(owner_.tapes_),
        x_("x", x),
        at_(read_batch(x_.buffer, offsets, lengths, owner_.widths_, memory_->places)),
        y_(owner_.spares_, at_.y) {
    // A copy: the caller may carry the state on in the same memory.
    const GivenStates<T> first(stack(), "state", state, at_.rows.count, at_.alone);
    has_state_ = first.any;
    if (first.any) h0_.assign(first.h.data(), first.h.data() + first.h.buffer.count());
    if (first.c.data()) c0_.assign(first.c.data(), first.c.data() + first.c.buffer.count());
  }

  Pullback(const Pullback&) = delete;

  // (y, state)
  nb::object run(int threads) {
    const NewStates<T> last(stack(), owner_.spares_, at_.rows.count, at_.alone);
    {
      const Released released(at_.steps * stack().multiply_adds());
      tape_ = stack().run_keeping(*weights_, batch(), {y_.data(), last.h.data(), last.cells()}, threads,
                                  memory_->workspace);
    }
    return nb::make_tuple(y_.array, last.python());
  }

  // Gradients by x and by the state, or None, and a dictionary of those by the weights: new ones, or the
  // caller's, in which names of biases may be missing.
  nb::object back(nb::handle dy_, nb::handle dstate, bool wrt_input, nb::handle out, int threads) {
    if (!out.is_none() && !PyDict_Check(out.ptr()))
      type_error("out: " + type_of(out) + ", expected a dictionary of arrays");
    const int64_t B = at_.rows.count;
    Input<T> dy;
    if (!dy_.is_none()) {
      dy.open("dy", dy_);
      if (!dy.buffer.has(at_.y)) wrong_shape("dy", dy.buffer.shape(), at_.y);
    }
    const GivenStates<T> d_last(stack(), "dstate", dstate, B, at_.alone, true);
    if (dy_.is_none() && !d_last.any) value_error("neither dy nor dstate is given");
    std::optional<Output<T>> dx;
    if (wrt_input) dx.emplace(owner_.spares_, at_.x);
    std::optional<NewStates<T>> d_first;
    if (has_state_) d_first.emplace(stack(), owner_.spares_, B, at_.alone);
    StackGradients<T> d{dy.data(),
                        dy.distance,
                        d_last.h.data(),
                        d_last.c.data(),
                        dx ? dx->data() : nullptr,
                        d_first ? d_first->h.data() : nullptr,
                        d_first ? d_first->cells() : nullptr,
                        {}};
    d.parameters.resize(size_t(stack().states()) * kParameters);
    nb::dict parameters;
    for (const auto& p : owner_.parameters_) {
      if (out.is_none()) {
        const Output<T> gradient(owner_.spares_, p.shape);
        d.parameters[p.slot] = gradient.data();
        parameters[p.name] = gradient.array;
      } else if (const nb::handle given = PyDict_GetItemWithError(out.ptr(), p.name.ptr());
                 given.is_valid()) {
        d.parameters[p.slot] = Output<T>((text(p.name) + " of out").c_str(), given, p.shape).data();
        parameters[p.name] = given;
      } else if (p.place != 2 && p.place != 3) {
        value_error("out: " + text(p.name) + " is missing; only biases may be");
      }
    }
    {
      const Lease scratch(owner_.idle_);
      const Released released(2 * at_.steps * stack().multiply_adds());
      stack().back(*weights_, batch(), tape_, d, threads, scratch->workspace);
    }
    return nb::make_tuple(dx ? dx->array : nb::object(nb::none()),
                          d_first ? d_first->python() : nb::object(nb::none()), parameters);
  }

 private:
  nb::object session_;  // keeps the owner alive
  Session<T>& owner_;
  std::shared_ptr<StackWeights<T>> weights_;
  Lease memory_;
  Input<T> x_;
  BatchLayout at_;
  bool has_state_;
  std::vector<T> h0_, c0_;
  Output<T> y_;
  std::vector<LayerTape<T>> tape_;

  const Stack<T>& stack() const { return owner_.stack_; }
  StackBatch<T> batch() const {
    return {at_.rows,
            at_.N,
            at_.padded,
            x_.data(),
            x_.distance,
            h0_.empty() ? nullptr : h0_.data(),
            c0_.empty() ? nullptr : c0_.data()};
  }
};

template <class T>
class Stream {
 public:
  // B < 0: one sequence, without an axis for it.
  Stream(nb::object session, int64_t B)
      : session_(session),
        owner_(nb::cast<Session<T>&>(session)),
        stack_(owner_.stack()),
        alone_(B < 0),
        B_(alone_ ? 1 : B),
        places_{std::vector<int64_t>(size_t(B_)), {0}, std::vector<int64_t>(size_t(B_), 1)},
        h_(size_t(stack_.states() * B_ * stack_.hidden())),
        c_(size_t(stack_.cell_state() ? stack_.states() * B_ * stack_.units() : 0)) {
    multiples(places_.start, B_, 1);
  }

  Stream(const Stream&) = delete;

  nb::object step(nb::handle x_, nb::handle out, int threads) {
    const Input<T> x("x", x_, row_shape(stack_.inputs()));
    const Shape shape = row_shape(stack_.outputs());
    const Output<T> y = out.is_none() ? Output<T>(spares_, shape) : Output<T>("out", out, shape);
    if (!out.is_none() && y.buffer.overlaps(x.buffer)) value_error("out: shares memory with x");
    const Use use(*this);
    if (weights_ != owner_.weights())
      weights_ = owner_.weights();  // a copy would take a tenth of a small step
    {
      const Released released(B_ * stack_.multiply_adds());
      stack_.step(*weights_, places_.rows(), x.data(), y.data(), h_.data(), c_.empty() ? nullptr : c_.data(),
                  threads);
    }
    return y.array;
  }

  // To these states, or to zeros where None is given.
  void reset(nb::handle state) {
    const GivenStates<T> given(stack_, "state", state, B_, alone_);
    const Use use(*this);
    set(h_, given.h.data());
    set(c_, given.c.data());
  }

  nb::object state() {
    const NewStates<T> copy(stack_, spares_, B_, alone_);
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

  nb::object session_;  // keeps the owner alive
  const Session<T>& owner_;
  const Stack<T>& stack_;
  std::shared_ptr<StackWeights<T>> weights_;  // those of the last step
  bool alone_, busy_ = false;
  int64_t B_;
  Places places_;
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
nb::object vjp(nb::object session, nb::handle x, nb::handle offsets, nb::handle lengths, nb::handle state,
               int threads) {
  auto pullback = std::make_unique<Pullback<T>>(session, x, offsets, lengths, state);
  const nb::object outputs = pullback->run(threads);
  return nb::make_tuple(outputs, nb::cast(pullback.release(), nb::rv_policy::take_ownership));
}

template <class T>
void bind(nb::module_& m, const char* session, const char* pullback, const char* stream) {
  nb::class_<Session<T>>(m, session)
      .def("update", &Session<T>::update)
      .def("weights", &Session<T>::copies)
      .def("run", &Session<T>::run, nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg(), nb::arg())
      .def("vjp", &vjp<T>, nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg())
      .def(
          "stream", [](nb::object self, int64_t B) { return new Stream<T>(self, B); },
          nb::rv_policy::take_ownership);
  nb::class_<Pullback<T>>(m, pullback)
      .def("back", &Pullback<T>::back, nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg().none(),
           nb::arg());
  nb::class_<Stream<T>>(m, stream)
      .def("step", &Stream<T>::step, nb::arg().none(), nb::arg().none(), nb::arg())
      .def("reset", &Stream<T>::reset, nb::arg().none())
      .def("state", &Stream<T>::state);
}

template <class T>
nb::object session(const std::string& instruction_set, const std::string& cell, bool cell_state,
                   nb::list sizes, int directions, nb::list names, nb::dict weights, bool batch_first) {
  return nb::cast(
      new Session<T>(instruction_set, cell, cell_state, sizes, directions, names, weights, batch_first),
      nb::rv_policy::take_ownership);
}

}  // namespace

void bind_sessions(nb::module_& m) {
  bind<float>(m, "SessionF32", "PullbackF32", "StreamF32");
  bind<double>(m, "SessionF64", "PullbackF64", "StreamF64");
  m.def("session", [](const std::string& instruction_set, const std::string& cell, const std::string& dtype,
                      bool cell_state, nb::list sizes, int directions, nb::list names, nb::dict weights,
                      bool batch_first) {
    return (dtype == "float32" ? session<float> : session<double>)(instruction_set, cell, cell_state, sizes,
                                                                   directions, names, weights, batch_first);
  });
}

}  // namespace timelike
