// How Python sees the kernels. Buffers cross as addresses: timelike/kernels.py, the only caller, has checked
// their shapes, types and layout, and one tensor through DLPack would cost as much as a small layer.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"

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

const timelike::Table& table(const std::string& name) {
  const timelike::TableList list = timelike::available_tables();
  for (int k = 0; k < list.count; ++k)
    if (name == list.table[k]->name) return *list.table[k];
  throw std::invalid_argument("no kernels for instruction set '" + name + "'");
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

// A copy of some arrays, to tell whether they still hold the same bits.
class Copies {
 public:
  Copies(const std::vector<Address>& arrays, const std::vector<size_t>& sizes) : sizes_(sizes) {
    size_t total = 0;
    for (const size_t size : sizes) total += padded(size);
    memory_.reset(new char[total]);
    for (size_t k = 0, used = 0; k < sizes.size(); used += padded(sizes[k++])) {
      addresses_.push_back(reinterpret_cast<Address>(memory_.get() + used));
      std::memcpy(at<char>(addresses_[k]), at<const char>(arrays[k]), sizes[k]);
    }
  }
  const std::vector<Address>& addresses() const { return addresses_; }
  bool same(const std::vector<Address>& arrays) const {
    for (size_t k = 0; k < sizes_.size(); ++k)
      if (std::memcmp(at<const char>(arrays[k]), at<const char>(addresses_[k]), sizes_[k])) return false;
    return true;
  }

 private:
  static size_t padded(size_t size) { return (size + 15) / 16 * 16; }
  std::vector<size_t> sizes_;  // bytes
  std::vector<Address> addresses_;
  std::unique_ptr<char[]> memory_;
};

// One cell in one precision on one instruction set, for layers of one size.
template <class T>
class BoundLayer {
 public:
  BoundLayer(const timelike::Layer<T>& layer, int64_t D, int64_t H, int64_t R)
      : layer_(layer), D_(D), H_(H), R_(R) {}

  int tape_gates() const { return layer_.tape_gates; }
  int64_t forward_size() const { return layer_.forward_size(D_, H_, R_); }
  int64_t backward_size() const { return layer_.backward_size(D_, H_, R_); }

  void pack_forward(Address W, Address U, Address b_ih, Address b_hh, Address peephole, Address projection,
                    Address packed) const {
    layer_.pack_forward(weights(W, U, b_ih, b_hh, peephole, projection), at<T>(packed));
  }
  void pack_backward(Address W, Address U, Address peephole, Address projection, Address packed) const {
    layer_.pack_backward(weights(W, U, 0, 0, peephole, projection), at<T>(packed));
  }

  void forward(const RowsArgument& rows, int64_t begin, int64_t end, bool reverse, Address packed, Address x,
               int64_t ldx, Address h0, Address c0, Address y, int64_t ldy, Address hidden, Address hT,
               Address cT, Address gates, Address cells, int threads) const {
    timelike::Forward<T> f{};
    f.rows = rows.walk(begin, end, reverse);
    f.D = D_, f.H = H_, f.R = R_;
    f.packed = at<const T>(packed);
    f.x = at<const T>(x), f.ldx = ldx;
    f.h0 = at<const T>(h0), f.c0 = at<const T>(c0);
    f.y = at<T>(y), f.ldy = ldy;
    f.hidden = at<T>(hidden);
    f.hT = at<T>(hT), f.cT = at<T>(cT);
    f.gates = at<T>(gates), f.cells = at<T>(cells);
    f.threads = threads;
    layer_.forward(f);
  }

  void backward(const RowsArgument& rows, int64_t begin, int64_t end, bool reverse, Address packed, Address x,
                int64_t ldx, Address h0, Address c0, Address hidden, int64_t ldhidden, Address gates,
                Address cells, Address dy, int64_t lddy, Address dhT, Address dcT, Address dx, int64_t lddx,
                bool add_dx, Address dW, Address dU, Address db_ih, Address db_hh, Address dpeephole,
                Address dprojection, Address dh0, Address dc0, Address dgates, int threads) const {
    timelike::Backward<T> f{};
    f.rows = rows.walk(begin, end, reverse);
    f.D = D_, f.H = H_, f.R = R_;
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
    f.dgates = at<T>(dgates);
    f.threads = threads;
    layer_.backward(f);
  }

 private:
  const timelike::Layer<T>& layer_;
  int64_t D_, H_, R_;

  timelike::Weights<T> weights(Address W, Address U, Address b_ih, Address b_hh, Address peephole,
                               Address projection) const {
    return {D_,
            H_,
            R_,
            at<const T>(W),
            at<const T>(U),
            at<const T>(b_ih),
            at<const T>(b_hh),
            at<const T>(peephole),
            at<const T>(projection)};
  }
};

template <class T>
void bind_layer(nb::module_& m, const char* name) {
  using Bound = BoundLayer<T>;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Bound>(m, name)
      .def_prop_ro("tape_gates", &Bound::tape_gates)
      .def_prop_ro("forward_size", &Bound::forward_size)
      .def_prop_ro("backward_size", &Bound::backward_size)
      .def("pack_forward", &Bound::pack_forward, free)
      .def("pack_backward", &Bound::pack_backward, free)
      .def("forward", &Bound::forward, free)
      .def("backward", &Bound::backward, free);
}

template <class T>
BoundLayer<T> bound(const timelike::Layer<T> (&layers)[timelike::kCells], const std::string& cell, int64_t D,
                    int64_t H, int64_t R) {
  for (const timelike::Layer<T>& layer : layers)
    if (cell == layer.cell) return BoundLayer<T>(layer, D, H, R);
  throw std::invalid_argument("no kernel for cell '" + cell + "'");
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
  nb::class_<Copies>(m, "Copies")
      .def(nb::init<const std::vector<Address>&, const std::vector<size_t>&>())
      .def("addresses", &Copies::addresses)
      .def("same", &Copies::same);
  bind_layer<float>(m, "LayerF32");
  bind_layer<double>(m, "LayerF64");
  m.def("layer_f32", [](const std::string& isa, const std::string& cell, int64_t D, int64_t H, int64_t R) {
    return bound(table(isa).f32, cell, D, H, R);
  });
  m.def("layer_f64", [](const std::string& isa, const std::string& cell, int64_t D, int64_t H, int64_t R) {
    return bound(table(isa).f64, cell, D, H, R);
  });
  timelike::bind_sessions(m);
  m.def("function_f32", [](const std::string& isa, const std::string& name, Address x, Address y, int64_t n) {
    apply(table(isa).functions_f32, name, x, y, n);
  });
  m.def("function_f64", [](const std::string& isa, const std::string& name, Address x, Address y, int64_t n) {
    apply(table(isa).functions_f64, name, x, y, n);
  });
}
