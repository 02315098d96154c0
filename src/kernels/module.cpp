// The only file that sees nanobind. Buffers cross as addresses: timelike/kernels.py, the only caller, has
// checked their shapes, types and layout, and one tensor through DLPack would cost as much as a small layer.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"

namespace nb = nanobind;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

const timelike::Table& table(const std::string& name) {
  const timelike::TableList list = timelike::available_tables();
  for (int k = 0; k < list.count; ++k)
    if (name == list.table[k]->name) return *list.table[k];
  throw std::invalid_argument("no kernels for instruction set '" + name + "'");
}

struct RowsArgument {
  Address start, step, length;
  int64_t count;
  RowsArgument(Address s, Address t, Address l, int64_t n) : start(s), step(t), length(l), count(n) {}
  timelike::Rows walk(bool reverse) const {
    return {at<const int64_t>(start), at<const int64_t>(step), at<const int64_t>(length), count, reverse};
  }
};

// One cell in one precision on one instruction set.
template <class T>
class BoundLayer {
 public:
  explicit BoundLayer(const timelike::Layer<T>& layer) : layer_(layer) {}

  int64_t forward_size(int64_t D, int64_t H) const { return layer_.forward_size(D, H); }
  int64_t backward_size(int64_t D, int64_t H) const { return layer_.backward_size(D, H); }

  void pack_forward(int64_t D, int64_t H, Address W, Address U, Address b_ih, Address b_hh,
                    Address packed) const {
    layer_.pack_forward({D, H, at<const T>(W), at<const T>(U), at<const T>(b_ih), at<const T>(b_hh)},
                        at<T>(packed));
  }
  void pack_backward(int64_t D, int64_t H, Address W, Address U, Address packed) const {
    layer_.pack_backward({D, H, at<const T>(W), at<const T>(U), nullptr, nullptr}, at<T>(packed));
  }

  void forward(const RowsArgument& rows, bool reverse, int64_t D, int64_t H, Address packed, Address x,
               int64_t ldx, Address h0, Address c0, Address y, int64_t ldy, Address hT, Address cT,
               Address gates, Address cells) const {
    timelike::Forward<T> f{};
    f.rows = rows.walk(reverse);
    f.D = D, f.H = H;
    f.packed = at<const T>(packed);
    f.x = at<const T>(x), f.ldx = ldx;
    f.h0 = at<const T>(h0), f.c0 = at<const T>(c0);
    f.y = at<T>(y), f.ldy = ldy;
    f.hT = at<T>(hT), f.cT = at<T>(cT);
    f.gates = at<T>(gates), f.cells = at<T>(cells);
    layer_.forward(f);
  }

  void backward(const RowsArgument& rows, bool reverse, int64_t D, int64_t H, Address packed, Address x,
                int64_t ldx, Address h0, Address c0, Address y, int64_t ldy, Address gates, Address cells,
                Address dy, int64_t lddy, Address dhT, Address dcT, Address dx, int64_t lddx, bool add_dx,
                Address dW, Address dU, Address db, Address dh0, Address dc0, Address dgates) const {
    timelike::Backward<T> f{};
    f.rows = rows.walk(reverse);
    f.D = D, f.H = H;
    f.packed = at<const T>(packed);
    f.x = at<const T>(x), f.ldx = ldx;
    f.h0 = at<const T>(h0), f.c0 = at<const T>(c0);
    f.y = at<const T>(y), f.ldy = ldy;
    f.gates = at<const T>(gates), f.cells = at<const T>(cells);
    f.dy = at<const T>(dy), f.lddy = lddy;
    f.dhT = at<const T>(dhT), f.dcT = at<const T>(dcT);
    f.dx = at<T>(dx), f.lddx = lddx, f.add_dx = add_dx;
    f.dW = at<T>(dW), f.dU = at<T>(dU), f.db = at<T>(db);
    f.dh0 = at<T>(dh0), f.dc0 = at<T>(dc0);
    f.dgates = at<T>(dgates);
    layer_.backward(f);
  }

 private:
  const timelike::Layer<T>& layer_;
};

template <class T>
void bind_layer(nb::module_& m, const char* name) {
  using Bound = BoundLayer<T>;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Bound>(m, name)
      .def("forward_size", &Bound::forward_size)
      .def("backward_size", &Bound::backward_size)
      .def("pack_forward", &Bound::pack_forward, free)
      .def("pack_backward", &Bound::pack_backward, free)
      .def("forward", &Bound::forward, free)
      .def("backward", &Bound::backward, free);
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
  nb::class_<RowsArgument>(m, "Rows").def(nb::init<Address, Address, Address, int64_t>());
  bind_layer<float>(m, "LayerF32");
  bind_layer<double>(m, "LayerF64");
  m.def("lstm_f32", [](const std::string& isa) { return BoundLayer<float>(table(isa).lstm_f32); });
  m.def("lstm_f64", [](const std::string& isa) { return BoundLayer<double>(table(isa).lstm_f64); });
  m.def("function_f32", [](const std::string& isa, const std::string& name, Address x, Address y, int64_t n) {
    apply(table(isa).f32, name, x, y, n);
  });
  m.def("function_f64", [](const std::string& isa, const std::string& name, Address x, Address y, int64_t n) {
    apply(table(isa).f64, name, x, y, n);
  });
}
