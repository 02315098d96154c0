// What Python sees of sessions, ways back and streams.
#include "pullback.h"
#include "stream.h"

namespace timelike {
namespace {

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
