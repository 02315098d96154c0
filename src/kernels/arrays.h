// NumPy arrays as arguments and results of native code, checked here: the checks of kernels.py take longer
// than a step of a small layer. Arrays come by the buffer protocol, 60 to 120 ns each (nanobind's ndarray
// takes 170 ns; the C interface of NumPy takes 10, but is one more thing to build against).
//
// Errors are of one line: what was given, what is expected.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace timelike {

namespace nb = nanobind;

[[noreturn]] inline void value_error(const std::string& text) { throw nb::value_error(text.c_str()); }
[[noreturn]] inline void type_error(const std::string& text) { throw nb::type_error(text.c_str()); }

// A type of numbers: its name in NumPy, and its letters in the buffer protocol.
template <class T>
struct Numbers;
template <>
struct Numbers<float> {
  static constexpr const char *name = "float32", *formats = "f";
};
template <>
struct Numbers<double> {
  static constexpr const char *name = "float64", *formats = "d";
};
template <>
struct Numbers<int64_t> {
  static constexpr const char *name = "int64", *formats = "lq";
};

inline std::string text(nb::handle object) { return nb::cast<std::string>(nb::str(object)); }

template <class Size>
std::string shape_text(const Size* sizes, int n) {
  std::string s = "(";
  for (int k = 0; k < n; ++k) s += (k ? ", " : "") + std::to_string(sizes[k]);
  return s + (n == 1 ? ",)" : ")");
}

// At most three sizes.
struct Shape {
  int axes;
  int64_t size[3];

  bool operator==(const Shape& other) const {
    if (axes != other.axes) return false;
    for (int k = 0; k < axes; ++k)
      if (size[k] != other.size[k]) return false;
    return true;
  }
};

inline nb::object size_tuple(const Shape& shape) {
  const nb::object sizes = nb::steal(PyTuple_New(shape.axes));
  for (int k = 0; k < shape.axes; ++k) PyTuple_SET_ITEM(sizes.ptr(), k, PyLong_FromLongLong(shape.size[k]));
  return sizes;
}

// A new array of NumPy, not filled.
template <class T>
nb::object new_array(const Shape& shape) {
  // Looked up once; never released, since the module may outlive the interpreter.
  static const nb::object& empty = *new nb::object(nb::module_::import_("numpy").attr("empty"));
  static const nb::object& dtype =
      *new nb::object(nb::module_::import_("numpy").attr("dtype")(Numbers<T>::name));
  const nb::object sizes = size_tuple(shape);
  PyObject* arguments[] = {sizes.ptr(), dtype.ptr()};
  PyObject* made = PyObject_Vectorcall(empty.ptr(), arguments, 2, nullptr);
  if (!made) nb::raise_python_error();
  return nb::steal(made);
}

// The memory of an array, held as long as this lives.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { close(); }

  // Whether it is an array of T, in the byte order of this machine.
  bool open(nb::handle array, bool writeable = false) {
    close();
    if (PyObject_GetBuffer(array.ptr(), &view_,
                           PyBUF_FORMAT | PyBUF_STRIDES | (writeable ? PyBUF_WRITABLE : 0))) {
      PyErr_Clear();  // callers raise an error of their own, which says what they need
      view_ = {};
      return false;
    }
    const char* format = view_.format + (*view_.format == '@' || *view_.format == '=');
    return view_.itemsize == sizeof(T) && *format && !format[1] && std::strchr(Numbers<T>::formats, *format);
  }
  void close() {
    if (view_.obj) PyBuffer_Release(&view_);
    view_ = {};
  }

  T* data() const { return static_cast<T*>(view_.buf); }
  int axes() const { return view_.ndim; }
  int64_t size(int axis) const { return view_.shape[axis]; }
  int64_t count() const { return view_.len / int64_t(sizeof(T)); }
  std::string shape() const { return shape_text(view_.shape, view_.ndim); }

  bool has(const Shape& shape) const {
    if (view_.ndim != shape.axes) return false;
    for (int k = 0; k < shape.axes; ++k)
      if (view_.shape[k] != shape.size[k]) return false;
    return true;
  }

  // Finds the distance from row to row in elements, where the rows are all axes but the last together. False
  // where there is no such distance, or where numbers do not lie at multiples of their size.
  bool rows(int64_t& distance) const {
    const int last = view_.ndim - 1;
    distance = last < 0 ? 1 : view_.shape[last];
    if (view_.len == 0) return true;
    if (last < 0 || reinterpret_cast<uintptr_t>(view_.buf) % sizeof(T) ||
        (view_.shape[last] > 1 && view_.strides[last] != sizeof(T)))
      return false;
    bool found = false;
    int64_t expected = 0;  // in bytes; may be zero, of a row that is broadcast
    for (int k = last - 1; k >= 0; --k) {
      if (view_.shape[k] == 1) continue;
      if (!found) {
        if (view_.strides[k] % int64_t(sizeof(T))) return false;
        expected = view_.strides[k];
        distance = expected / int64_t(sizeof(T));
        found = true;
      }
      if (view_.strides[k] != expected) return false;
      expected *= view_.shape[k];
    }
    return true;
  }
  bool contiguous() const {
    int64_t distance;
    return rows(distance) && distance == (view_.ndim ? view_.shape[view_.ndim - 1] : 1);
  }

  template <class U>
  bool overlaps(const Buffer<U>& other) const {
    if (!view_.len || !other.view_.len) return false;
    const auto a = extent(), b = other.extent();
    return a.first < b.second && b.first < a.second;
  }

 private:
  template <class U>
  friend class Buffer;

  Py_buffer view_{};

  std::pair<const char*, const char*> extent() const {
    const char *first = static_cast<const char*>(view_.buf), *last = first + view_.itemsize;
    for (int k = 0; k < view_.ndim; ++k) {
      const int64_t reach = (view_.shape[k] - 1) * view_.strides[k];
      (reach < 0 ? first : last) += reach;
    }
    return {first, last};
  }
};

inline std::string type_of(nb::handle given) { return text(given.type().attr("__name__")); }

[[noreturn]] inline void wrong_type(const char* name, nb::handle given, const char* expected) {
  std::string what = type_of(given);
  if (nb::hasattr(given, "dtype")) what += " of " + text(given.attr("dtype"));
  type_error(std::string(name) + ": " + what + ", expected a NumPy array of " + expected);
}

[[noreturn]] inline void wrong_shape(const char* name, const std::string& given, const Shape& expected) {
  value_error(std::string(name) + ": shape " + given + ", expected " +
              shape_text(expected.size, expected.axes));
}

// An array that is read. Its rows are contiguous and lie at one distance; otherwise it is copied.
template <class T>
class Input {
 public:
  Buffer<T> buffer;
  int64_t distance = 0;

  Input() = default;  // none is given: null
  Input(const char* name, nb::handle given) { open(name, given); }
  Input(const char* name, nb::handle given, const Shape& shape) { open(name, given, shape); }

  void open(const char* name, nb::handle given) {
    if (!buffer.open(given)) wrong_type(name, given, Numbers<T>::name);
    if (!buffer.rows(distance)) copy(given);
  }
  // One of this shape; contiguous.
  void open(const char* name, nb::handle given, const Shape& shape) {
    open(name, given);
    if (!buffer.has(shape)) wrong_shape(name, buffer.shape(), shape);
    if (!buffer.contiguous()) copy(given);
  }
  const T* data() const { return buffer.data(); }

 private:
  void copy(nb::handle given) {
    buffer.open(nb::module_::import_("numpy").attr("require")(given, nb::none(), "CA"));
    buffer.rows(distance);
  }
};

// Small arrays that were handed out and that nobody holds any more, to be handed out again: making one takes
// 0.3 us, and a step of a small layer no more. Whoever shares its memory holds the array itself.
template <class T>
class SpareArrays {
 public:
  nb::object take(const Shape& shape, Buffer<T>& memory) {
    Slot* unused = nullptr;
    for (Slot& slot : slots_) {
      if (slot.array.is_valid() && Py_REFCNT(slot.array.ptr()) > 1) continue;
      if (slot.array.is_valid() && slot.shape == shape) {
        const nb::object array = slot.array;
        // Its holders may have made it read-only, or something else than it was.
        if (memory.open(array, true) && memory.has(shape) && memory.contiguous()) return array;
      }
      unused = &slot;
    }
    if (!unused) unused = &slots_[oldest_++ % kSlots];
    const nb::object array = new_array<T>(shape);
    memory.open(array, true);
    *unused = {shape, array};
    return array;
  }

 private:
  static constexpr unsigned kSlots = 8;  // the results of two calls, and some
  struct Slot {
    Shape shape;
    nb::object array;
  };
  Slot slots_[kSlots] = {};
  unsigned oldest_ = 0;
};

// Memory of large arrays, for others once nobody holds them: its pages have to be asked of the system one by
// one. It starts at a cache line, so that no register crosses two. Arrays are views of it, and so are theirs.
class SpareMemory {
 public:
  // A view of so many bytes for an array of this type and shape.
  nb::object take(const Shape& shape, const char* dtype, int64_t bytes) {
    Slot* unused = nullptr;
    for (Slot& slot : slots_) {
      if (slot.memory.is_valid() && Py_REFCNT(slot.memory.ptr()) > 1) continue;
      unused = &slot;
      if (slot.memory.is_valid() && bytes <= slot.bytes && slot.bytes <= kWaste * bytes) break;
      slot.memory.reset();  // too small or too large: given back
    }
    if (!unused) unused = &slots_[oldest_++ % kSlots];
    const nb::module_ numpy = nb::module_::import_("numpy");
    if (!unused->memory.is_valid() || Py_REFCNT(unused->memory.ptr()) > 1)
      *unused = {numpy.attr("empty")(bytes + kLine, "uint8"), bytes};
    Py_buffer view;
    if (PyObject_GetBuffer(unused->memory.ptr(), &view, PyBUF_SIMPLE)) nb::raise_python_error();
    const int64_t offset = -int64_t(reinterpret_cast<uintptr_t>(view.buf)) & (kLine - 1);
    PyBuffer_Release(&view);
    return numpy.attr("ndarray")(size_tuple(shape), dtype, unused->memory, offset);
  }

 private:
  static constexpr unsigned kSlots = 4;  // y, dx, dW and dU
  static constexpr int64_t kLine = 64, kWaste = 4;
  struct Slot {
    nb::object memory;
    int64_t bytes;
  };
  Slot slots_[kSlots] = {};
  unsigned oldest_ = 0;
};

template <class T>
class Spares {
 public:
  // An array for results and its memory, contents undefined.
  nb::object take(const Shape& shape, Buffer<T>& memory) {
    int64_t count = 1;
    for (int k = 0; k < shape.axes; ++k) count *= shape.size[k];
    if (count <= kSmall) return small_.take(shape, memory);
    const nb::object array = large_.take(shape, Numbers<T>::name, count * int64_t(sizeof(T)));
    memory.open(array, true);
    return array;
  }

 private:
  static constexpr int64_t kSmall = 16384;  // numbers
  SpareArrays<T> small_;
  SpareMemory large_;
};

// An array that is written: the caller's, or one of ours where None is given.
template <class T>
class Output {
 public:
  Buffer<T> buffer;
  nb::object array;

  Output(Spares<T>& spares, const Shape& shape) : array(spares.take(shape, buffer)) {}
  Output(const char* name, nb::handle given, const Shape& shape) : array(nb::borrow(given)) {
    if (!buffer.open(given, true)) {
      if (Buffer<T>().open(given)) value_error(std::string(name) + ": is read-only, but is written to");
      wrong_type(name, given, Numbers<T>::name);
    }
    if (!buffer.has(shape)) wrong_shape(name, buffer.shape(), shape);
    if (!buffer.contiguous()) value_error(std::string(name) + ": must be contiguous, since it is written to");
  }
  T* data() const { return buffer.data(); }
};

// Copies an array or sequence of integers, so that what is checked then stays as it is.
inline void read_integers(const char* name, nb::handle given, std::vector<int64_t>& to) {
  Buffer<int64_t> buffer;
  if (!buffer.open(given) || buffer.axes() != 1 || !buffer.contiguous()) {
    const nb::object array = nb::module_::import_("numpy").attr("asarray")(given);
    const std::string kind = text(array.attr("dtype").attr("kind"));
    const bool none = nb::cast<int64_t>(array.attr("size")) == 0;
    if (kind != "i" && kind != "u" && !none)
      type_error(std::string(name) + ": " + text(array.attr("dtype")) + ", expected integers");
    if (nb::cast<int>(array.attr("ndim")) != 1)
      value_error(std::string(name) + ": shape " + text(array.attr("shape")) + ", expected one axis");
    buffer.open(nb::module_::import_("numpy").attr("require")(array, "int64", "CA"));
  }
  to.assign(buffer.data(), buffer.data() + buffer.count());
}

}  // namespace timelike
