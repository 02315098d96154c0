// A session one step at a time.
#pragma once

#include "session.h"

namespace timelike {

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

}  // namespace timelike
