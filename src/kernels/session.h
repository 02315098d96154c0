// Sessions: a stack of layers with its weights, which takes and gives NumPy arrays. Apart from module.cpp,
// which takes addresses that kernels.py has checked: here the checks are native, too.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "batch.h"
#include "stack.h"

namespace timelike {

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

// Shape of the states of S layers and directions; without the axis B for one sequence alone.
inline Shape state_shape(int64_t S, int64_t B, int64_t width, bool alone) {
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

}  // namespace timelike
