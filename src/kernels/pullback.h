// The way back of a session.
#pragma once

#include "session.h"

namespace timelike {

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

}  // namespace timelike
