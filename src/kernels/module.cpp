// How Python sees the kernels. Buffers cross as addresses: timelike/kernels.py, the only caller, has checked
// their shapes, types and layout, and one tensor through DLPack would cost as much as a small layer.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "held.h"

namespace nb = nanobind;

namespace timelike {
void bind_sessions(nb::module_& m);  // session.cpp
}

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

struct RowsArgument {
  timelike::Rows rows;
  RowsArgument(Address start, Address step, Address length, Address tape_start, Address tape_step,
               int64_t count, Address index, Address tape_index)
      : rows{at<const int64_t>(start),
             at<const int64_t>(step),
             at<const int64_t>(tape_start),
             at<const int64_t>(tape_step),
             at<const int64_t>(length),
             count,
             0,
             0,
             false,
             at<const int64_t>(index),
             at<const int64_t>(tape_index)} {}
  timelike::Rows walk(int64_t begin, int64_t end, bool reverse) const {
    timelike::Rows walk = rows;
    walk.begin = begin, walk.end = end, walk.reverse = reverse;
    return walk;
  }
};

// Where the memory of a tensor lies; 0 for None.
Address address_of(nb::handle tensor) {
  if (tensor.is_none()) return 0;
  static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* const self = tensor.ptr();
  const auto found =
      nb::steal(PyObject_VectorcallMethod(data_ptr, &self, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  if (!found.is_valid()) nb::raise_python_error();
  const Address address = nb::cast<Address>(found);
  if (address == 0 && nb::cast<int64_t>(tensor.attr("numel")()) > 0) {
    PyErr_Format(PyExc_NotImplementedError,
                 "%s has no memory: tracing with fake tensors is not supported by these kernels",
                 Py_TYPE(self)->tp_name);
    nb::raise_python_error();
  }
  return address;
}

// The lengths of sequences between offsets [count + 1], and the longest of them; -1 where the offsets do not
// start at 0, or fall.
int64_t lengths_between(Address offsets, int64_t count, Address lengths) {
  const int64_t* const given = at<const int64_t>(offsets);
  int64_t* const to = at<int64_t>(lengths);
  int64_t longest = given[0] == 0 ? 0 : -1;
  for (int64_t b = 0; b < count && longest >= 0; ++b) {
    if (given[b + 1] < given[b]) return -1;
    to[b] = given[b + 1] - given[b];
    longest = std::max(longest, to[b]);
  }
  return longest;
}

// Pieces of memory, `count` of them at `pieces` and of so many bytes each, copied one behind the other.
void copy_pieces(Address pieces, Address bytes, int64_t count, Address to) {
  const int64_t *const from = at<const int64_t>(pieces), *const sizes = at<const int64_t>(bytes);
  char* next = at<char>(to);
  for (int64_t b = 0; b < count; next += sizes[b++])
    std::memcpy(next, at<const char>(Address(from[b])), size_t(sizes[b]));
}

// Where the memory of an array lies.
Address address_of_buffer(nb::handle array) {
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_SIMPLE)) nb::raise_python_error();
  const Address address = reinterpret_cast<Address>(view.buf);
  PyBuffer_Release(&view);
  return address;
}

// A layer, called with addresses.
template <class T>
class BoundLayer {
 public:
  explicit BoundLayer(const timelike::SizedLayer<T>& layer) : layer_(layer) {}

  const timelike::SizedLayer<T>& sized() const { return layer_; }
  int tape_gates() const { return layer_.kernels->tape_gates; }
  int64_t forward_size() const { return layer_.forward_size(); }
  int64_t backward_size() const { return layer_.backward_size(); }

  void pack_forward(Address W, Address U, Address b_ih, Address b_hh, Address peephole, Address projection,
                    Address packed) const {
    layer_.kernels->pack_forward(weights(W, U, b_ih, b_hh, peephole, projection), at<T>(packed));
  }
  void pack_backward(Address W, Address U, Address peephole, Address projection, Address packed) const {
    layer_.kernels->pack_backward(weights(W, U, 0, 0, peephole, projection), at<T>(packed));
  }

  void forward(const RowsArgument& rows, int64_t begin, int64_t end, bool reverse, Address packed, Address x,
               int64_t ldx, Address h0, Address c0, Address y, int64_t ldy, Address hidden, Address hT,
               Address cT, Address gates, Address cells, int threads) const {
    timelike::Forward<T> f{};
    f.rows = rows.walk(begin, end, reverse);
    f.D = layer_.D, f.H = layer_.H, f.R = layer_.R;
    f.packed = at<const T>(packed);
    f.x = at<const T>(x), f.ldx = ldx;
    f.h0 = at<const T>(h0), f.c0 = at<const T>(c0);
    f.y = at<T>(y), f.ldy = ldy;
    f.hidden = at<T>(hidden);
    f.hT = at<T>(hT), f.cT = at<T>(cT);
    f.gates = at<T>(gates), f.cells = at<T>(cells);
    f.threads = threads;
    layer_.kernels->forward(f);
  }

  void backward(const RowsArgument& rows, int64_t begin, int64_t end, bool reverse, Address packed, Address x,
                int64_t ldx, Address h0, Address c0, Address hidden, int64_t ldhidden, Address gates,
                Address cells, Address dy, int64_t lddy, Address dhT, Address dcT, Address dx, int64_t lddx,
                bool add_dx, Address dW, Address dU, Address db_ih, Address db_hh, Address dpeephole,
                Address dprojection, Address dh0, Address dc0, Address dgates, Address dhidden,
                Address dcells, int threads) const {
    timelike::Backward<T> f{};
    f.rows = rows.walk(begin, end, reverse);
    f.D = layer_.D, f.H = layer_.H, f.R = layer_.R;
    f.packed = at<const T>(packed);
    f.x = at<const T>(x), f.ldx = ldx;
    f.h0 = at<const T>(h0), f.c0 = at<const T>(c0);
    f.hidden = at<const T>(hidden), f.ldhidden = ldhidden;
    f.gates = at<const T>(gates), f.cells = at<const T>(cells);
    f.dy = at<const T>(dy), f.lddy = lddy;
    f.dhT = at<const T>(dhT), f.dcT = at<const T>(dcT);
    f.dx = at<T>(dx), f.lddx = lddx, f.add_dx = add_dx;
    f.dW = at<T>(dW), f.dU = at<T>(dU), f.db_ih = at<T>(db_ih), f.db_hh = at<T>(db_hh);
    f.dpeephole = at<T>(dpeephole), f.dprojection = at<T>(dprojection);
    f.dh0 = at<T>(dh0), f.dc0 = at<T>(dc0);
    f.dgates = at<T>(dgates), f.dhidden = at<T>(dhidden), f.dcells = at<T>(dcells);
    f.threads = threads;
    layer_.kernels->backward(f);
  }

 private:
  timelike::SizedLayer<T> layer_;

  timelike::Weights<T> weights(Address W, Address U, Address b_ih, Address b_hh, Address peephole,
                               Address projection) const {
    return {layer_.D,
            layer_.H,
            layer_.R,
            at<const T>(W),
            at<const T>(U),
            at<const T>(b_ih),
            at<const T>(b_hh),
            at<const T>(peephole),
            at<const T>(projection)};
  }
};

// As Python sees them: by addresses.
template <class T>
class HeldByAddress : public timelike::HeldWeights<T> {
 public:
  HeldByAddress(const BoundLayer<T>& layer, const std::vector<Address>& arrays,
                const std::vector<size_t>& bytes, const std::vector<int>& slots, int directions)
      : timelike::HeldWeights<T>(layer.sized(), pointers(arrays), bytes, slots, directions) {}

  bool same(const std::vector<Address>& arrays) const {
    return timelike::HeldWeights<T>::same(pointers(arrays));
  }
  std::vector<Address> forward_addresses() const { return addresses(this->forward()); }
  std::vector<Address> backward_addresses() { return addresses(this->backward()); }

 private:
  static std::vector<const void*> pointers(const std::vector<Address>& given) {
    std::vector<const void*> found;
    for (const Address address : given) found.push_back(at<const void>(address));
    return found;
  }
  static std::vector<Address> addresses(const std::vector<T*>& given) {
    std::vector<Address> found;
    for (const T* const pointer : given) found.push_back(reinterpret_cast<Address>(pointer));
    return found;
  }
};

// A layer over a batch of tensors, in all its directions; what each tensor is, and its shape, is written in
// timelike/layercalls.py, which made or checked it. `tape` holds per direction the gates of all rows and then
// their cells; `record` the gradients of all rows' gates, then hidden states, then cells.
template <class T>
class TensorCalls {
 public:
  TensorCalls(const BoundLayer<T>& layer, const RowsArgument& rows, int64_t n_rows, int64_t n_steps,
              bool cell_state, int directions)
      : layer_(layer),
        rows_(rows),
        steps_(n_steps),
        h_(rows.rows.count * layer.sized().R),
        c_(rows.rows.count * layer.sized().H),
        gates_(n_rows * layer.tape_gates() * layer.sized().H),
        tape_(gates_ + (cell_state ? n_rows * layer.sized().H : 0)),
        ldy_(directions * layer.sized().R),
        dhidden_(n_rows * layer.sized().kernels->gates * layer.sized().H),
        dcells_(dhidden_ + n_rows * layer.sized().R),
        record_(dcells_ + (cell_state ? n_rows * layer.sized().H : 0)),
        cell_state_(cell_state) {}

  void forward(int direction, const T* packed, Address x, int64_t ldx, Address h0, Address c0, Address y,
               Address hT, Address cT, Address tape, int threads) const {
    const int64_t k = direction;
    layer_.forward(rows_, 0, steps_, k == 1, Address(packed), x, ldx, go(h0, k * h_), go(c0, k * c_),
                   go(y, k * layer_.sized().R), ldy_, 0, go(hT, k * h_), go(cT, k * c_), go(tape, k * tape_),
                   go(tape, k * tape_ + gates_), threads);
  }
  void backward(int direction, const T* packed, Address x, int64_t ldx, Address h0, Address c0, Address y,
                Address tape, Address dy, int64_t lddy, Address dhT, Address dcT, Address dx,
                const Address* gradients, Address dh0, Address dc0, Address record, int threads) const {
    const int64_t k = direction;
    layer_.backward(rows_, 0, steps_, k == 1, Address(packed), x, ldx, go(h0, k * h_), go(c0, k * c_),
                    go(y, k * layer_.sized().R), ldy_, go(tape, k * tape_), go(tape, k * tape_ + gates_),
                    go(dy, k * layer_.sized().R), lddy, go(dhT, k * h_), go(dcT, k * c_), dx,
                    layer_.sized().D, k == 1, gradients[0], gradients[1], gradients[2], gradients[3],
                    gradients[4], gradients[5], go(dh0, k * h_), go(dc0, k * c_), go(record, k * record_),
                    go(record, k * record_ + dhidden_), cell_state_ ? go(record, k * record_ + dcells_) : 0,
                    threads);
  }

 private:
  const BoundLayer<T>& layer_;
  const RowsArgument& rows_;
  const int64_t steps_, h_, c_, gates_, tape_, ldy_, dhidden_, dcells_, record_;
  const bool cell_state_;

  static Address go(Address address, int64_t numbers) {
    return address ? address + Address(numbers) * sizeof(T) : 0;
  }
};

template <class T>
void run_forward(const BoundLayer<T>& layer, const RowsArgument& rows, int64_t n_rows, int64_t n_steps,
                 const HeldByAddress<T>& held, nb::handle x, int64_t ldx, nb::handle h0, nb::handle c0,
                 nb::handle y, nb::handle hT, nb::handle cT, nb::handle tape, int threads) {
  const std::vector<T*>& packed = held.forward();
  const TensorCalls<T> calls(layer, rows, n_rows, n_steps, !cT.is_none(), int(packed.size()));
  const Address at_x = address_of(x), at_h0 = address_of(h0), at_c0 = address_of(c0), at_y = address_of(y),
                at_hT = address_of(hT), at_cT = address_of(cT), at_tape = address_of(tape);
  const nb::gil_scoped_release released;
  for (size_t k = 0; k < packed.size(); ++k)
    calls.forward(int(k), packed[k], at_x, ldx, at_h0, at_c0, at_y, at_hT, at_cT, at_tape, threads);
}

// `gradients`: a list with a tensor or None for each weight of each direction.
template <class T>
void run_backward(const BoundLayer<T>& layer, const RowsArgument& rows, int64_t n_rows, int64_t n_steps,
                  HeldByAddress<T>& held, bool cell_state, nb::handle x, int64_t ldx, nb::handle h0,
                  nb::handle c0, nb::handle y, nb::handle tape, nb::handle dy, int64_t lddy, nb::handle dhT,
                  nb::handle dcT, nb::handle dx, nb::list gradients, nb::handle dh0, nb::handle dc0,
                  nb::handle record, int threads) {
  const std::vector<int>& slots = held.slots();
  const int directions = held.directions();
  const size_t n = gradients.size() / size_t(directions);
  std::vector<Address> d(size_t(directions) * timelike::kParameters);
  for (size_t k = 0; k < d.size(); ++k)
    if (const int slot = slots[k % timelike::kParameters]; slot >= 0)
      d[k] = address_of(gradients[k / timelike::kParameters * n + size_t(slot)]);
  const TensorCalls<T> calls(layer, rows, n_rows, n_steps, cell_state, directions);
  const Address at_x = address_of(x), at_h0 = address_of(h0), at_c0 = address_of(c0), at_y = address_of(y),
                at_tape = address_of(tape), at_dy = address_of(dy), at_dhT = address_of(dhT),
                at_dcT = address_of(dcT), at_dx = address_of(dx), at_dh0 = address_of(dh0),
                at_dc0 = address_of(dc0), at_record = address_of(record);
  const nb::gil_scoped_release released;
  const std::vector<T*>& packed = held.backward();
  for (int k = 0; k < directions; ++k)
    calls.backward(k, packed[size_t(k)], at_x, ldx, at_h0, at_c0, at_y, at_tape, at_dy, lddy, at_dhT, at_dcT,
                   at_dx, d.data() + k * timelike::kParameters, at_dh0, at_dc0, at_record, threads);
}

template <class T>
void bind_layer(nb::module_& m, const char* name, const char* name_of_weights) {
  using Bound = BoundLayer<T>;
  using Held = HeldByAddress<T>;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Bound>(m, name)
      .def_prop_ro("tape_gates", &Bound::tape_gates)
      .def_prop_ro("forward_size", &Bound::forward_size)
      .def_prop_ro("backward_size", &Bound::backward_size)
      .def("pack_forward", &Bound::pack_forward, free)
      .def("pack_backward", &Bound::pack_backward, free)
      .def("forward", &Bound::forward, free)
      .def("backward", &Bound::backward, free)
      .def("run_forward", &run_forward<T>, nb::arg("rows"), nb::arg("n_rows"), nb::arg("n_steps"),
           nb::arg("held"), nb::arg("x"), nb::arg("ldx"), nb::arg("h0").none(), nb::arg("c0").none(),
           nb::arg("y"), nb::arg("hT"), nb::arg("cT").none(), nb::arg("tape").none(), nb::arg("threads"))
      .def("run_backward", &run_backward<T>, nb::arg("rows"), nb::arg("n_rows"), nb::arg("n_steps"),
           nb::arg("held"), nb::arg("cell_state"), nb::arg("x"), nb::arg("ldx"), nb::arg("h0").none(),
           nb::arg("c0").none(), nb::arg("y"), nb::arg("tape").none(), nb::arg("dy").none(), nb::arg("lddy"),
           nb::arg("dhT").none(), nb::arg("dcT").none(), nb::arg("dx").none(), nb::arg("gradients"),
           nb::arg("dh0").none(), nb::arg("dc0").none(), nb::arg("record").none(), nb::arg("threads"));
  nb::class_<Held>(m, name_of_weights)
      .def(nb::init<const Bound&, const std::vector<Address>&, const std::vector<size_t>&,
                    const std::vector<int>&, int>(),
           free)
      .def("same", &Held::same)
      .def("forward", &Held::forward_addresses)
      .def("backward", &Held::backward_addresses, free);
}

template <class T>
void apply(const timelike::Functions<T>& f, const std::string& name, Address x, Address y, int64_t n) {
  const auto function = name == "exp"       ? f.exp
                        : name == "sigmoid" ? f.sigmoid
                        : name == "tanh"    ? f.tanh
                                            : nullptr;
  if (!function) throw std::invalid_argument("no function '" + name + "'");
  function(at<const T>(x), at<T>(y), n);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "Native kernels; use timelike.kernels.";
  nb::set_leak_warnings(false);  // kernels.py keeps layers and rows to the end of the process, as it means to
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    const timelike::TableList list = timelike::available_tables();
    for (int k = 0; k < list.count; ++k) names.push_back(list.table[k]->name);
    return names;
  });
  nb::class_<RowsArgument>(m, "Rows").def(
      nb::init<Address, Address, Address, Address, Address, int64_t, Address, Address>(), nb::arg("start"),
      nb::arg("step"), nb::arg("length"), nb::arg("tape_start"), nb::arg("tape_step"), nb::arg("count"),
      nb::arg("index") = 0, nb::arg("tape_index") = 0);
  m.def("address", &address_of_buffer);
  m.def("lengths_between", &lengths_between);
  m.def("copy_pieces", &copy_pieces, nb::call_guard<nb::gil_scoped_release>());
  bind_layer<float>(m, "LayerF32", "WeightsF32");
  bind_layer<double>(m, "LayerF64", "WeightsF64");
  m.def("layer_f32", [](const std::string& isa, const std::string& cell, int64_t D, int64_t H, int64_t R) {
    return BoundLayer<float>({&timelike::layer_of<float>(isa, cell), D, H, R});
  });
  m.def("layer_f64", [](const std::string& isa, const std::string& cell, int64_t D, int64_t H, int64_t R) {
    return BoundLayer<double>({&timelike::layer_of<double>(isa, cell), D, H, R});
  });
  timelike::bind_sessions(m);
  m.def("function_f32", [](const std::string& isa, const std::string& name, Address x, Address y, int64_t n) {
    apply(timelike::table(isa).functions_f32, name, x, y, n);
  });
  m.def("multiply_adds_f32", [](const std::string& isa, int64_t n) {
    return timelike::table(isa).functions_f32.multiply_adds(n);
  });
  m.def("multiply_adds_f64", [](const std::string& isa, int64_t n) {
    return timelike::table(isa).functions_f64.multiply_adds(n);
  });
  m.def("function_f64", [](const std::string& isa, const std::string& name, Address x, Address y, int64_t n) {
    apply(timelike::table(isa).functions_f64, name, x, y, n);
  });
}
