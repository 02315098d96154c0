// Runs the kernels of one instruction set, on a processor or on an emulator of one, without Python:
//
//   run_cases INPUT OUTPUT
//
// The build names the table (-DTIMELIKE_TABLE=table_neon). tests/native_runs.py writes the input and reads
// the output; both are numbers in the machine's order, and an array is its length, 0 where it is absent, and
// then its elements. A case is
//
//   name[24]  bytes per number  B D H R  reverse   lengths offsets   the arrays of Case, in its order
//
// and gives the arrays of Results. The name is a cell's, or exp, sigmoid or tanh, which take x and give y.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "api.h"

namespace timelike {
extern const Table TIMELIKE_TABLE;
}

using namespace timelike;

namespace {

FILE* open(const char* path, const char* mode) {
  FILE* file = std::fopen(path, mode);
  if (!file) std::perror(path), std::exit(1);
  return file;
}

template <class T>
void read(FILE* from, T* to, size_t count) {
  if (std::fread(to, sizeof(T), count, from) != count)
    std::fputs("the input ends too early\n", stderr), std::exit(1);
}

int64_t read_integer(FILE* from) {
  int64_t value;
  read(from, &value, 1);
  return value;
}

template <class T>
std::vector<T> read_array(FILE* from) {
  std::vector<T> array(size_t(read_integer(from)));
  read(from, array.data(), array.size());
  return array;
}

template <class T>
void write_array(FILE* to, const std::vector<T>& array) {
  const int64_t count = int64_t(array.size());
  std::fwrite(&count, sizeof(count), 1, to);
  std::fwrite(array.data(), sizeof(T), array.size(), to);
}

template <class T>
T* given(std::vector<T>& array) {
  return array.empty() ? nullptr : array.data();
}

template <class T>
std::vector<T> nan(int64_t count) {
  return std::vector<T>(size_t(count), std::numeric_limits<T>::quiet_NaN());
}

// Packed weights start at a cache line, as they do in Python.
template <class T>
struct Aligned {
  std::vector<T> memory;
  T* data;
  explicit Aligned(int64_t count) : memory(nan<T>(count + 64 / int64_t(sizeof(T)))) {
    data = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  }
};

template <class T>
const Layer<T>* layers(const Table& table);
template <>
const Layer<float>* layers(const Table& table) {
  return table.f32;
}
template <>
const Layer<double>* layers(const Table& table) {
  return table.f64;
}
template <class T>
const Functions<T>& functions(const Table& table);
template <>
const Functions<float>& functions(const Table& table) {
  return table.functions_f32;
}
template <>
const Functions<double>& functions(const Table& table) {
  return table.functions_f64;
}

struct Sizes {
  int64_t B, D, H, R, reverse;
};

template <class T>
void run_layer(const Layer<T>& layer, const Sizes& size, FILE* from, FILE* to) {
  const int64_t B = size.B, D = size.D, H = size.H, R = size.R;
  std::vector<int64_t> lengths = read_array<int64_t>(from), start = read_array<int64_t>(from);
  auto W = read_array<T>(from), U = read_array<T>(from), b_ih = read_array<T>(from),
       b_hh = read_array<T>(from);
  auto peephole = read_array<T>(from), projection = read_array<T>(from), x = read_array<T>(from);
  auto h0 = read_array<T>(from), c0 = read_array<T>(from);
  auto dy = read_array<T>(from), dhT = read_array<T>(from), dcT = read_array<T>(from);

  const int64_t N = D ? int64_t(x.size()) / D : 0, GH = int64_t(U.size()) / R;
  const int64_t cells = std::strncmp(layer.cell, "lstm", 4) == 0 ? H : 0;
  int64_t T_max = 0;
  for (int64_t length : lengths) T_max = length > T_max ? length : T_max;
  std::vector<int64_t> step;
  for (int64_t t = 0; t < T_max; ++t) step.push_back(t);
  const Rows rows{start.data(), step.data(),      start.data(), step.data(), lengths.data(), B, 0,
                  T_max,        size.reverse != 0};
  const Weights<T> weights{
      D, H, R, given(W), given(U), given(b_ih), given(b_hh), given(peephole), given(projection)};

  Aligned<T> forward(layer.forward_size(D, H, R)), backward(layer.backward_size(D, H, R));
  layer.pack_forward(weights, forward.data);
  layer.pack_backward(weights, backward.data);

  auto y = nan<T>(N * R), hT = nan<T>(B * R), cT = nan<T>(B * cells);
  auto gates = nan<T>(N * layer.tape_gates * H), tape_cells = nan<T>(N * cells);
  Forward<T> f{};
  f.rows = rows, f.D = D, f.H = H, f.R = R, f.packed = forward.data, f.x = x.data(), f.ldx = D;
  f.h0 = given(h0), f.c0 = given(c0), f.y = y.data(), f.ldy = R, f.hT = hT.data(), f.cT = given(cT);
  f.gates = given(gates), f.cells = given(tape_cells), f.threads = 1;
  layer.forward(f);

  auto dx = nan<T>(N * D), dW = nan<T>(GH * D), dU = nan<T>(GH * R);
  auto db_ih = nan<T>(int64_t(b_ih.size())), db_hh = nan<T>(int64_t(b_hh.size()));
  auto dpeephole = nan<T>(int64_t(peephole.size())), dprojection = nan<T>(int64_t(projection.size()));
  auto dh0 = nan<T>(B * R), dc0 = nan<T>(B * cells);
  auto dgates = nan<T>(N * GH), dhidden = nan<T>(N * R), dcells = nan<T>(N * cells);
  Backward<T> b{};
  b.rows = rows, b.D = D, b.H = H, b.R = R, b.packed = backward.data, b.x = x.data(), b.ldx = D;
  b.h0 = given(h0), b.c0 = given(c0), b.hidden = y.data(), b.ldhidden = R;
  b.gates = given(gates), b.cells = given(tape_cells), b.dy = given(dy), b.lddy = R;
  b.dhT = given(dhT), b.dcT = given(dcT), b.dx = given(dx), b.lddx = D, b.dW = dW.data(), b.dU = dU.data();
  b.db_ih = given(db_ih), b.db_hh = given(db_hh), b.dpeephole = given(dpeephole);
  b.dprojection = given(dprojection), b.dh0 = dh0.data(), b.dc0 = given(dc0), b.dgates = given(dgates);
  b.dhidden = given(dhidden), b.dcells = given(dcells);
  b.threads = 1;
  layer.backward(b);

  for (const auto* array : {&y, &hT, &cT, &gates, &tape_cells, &dx, &dW, &dU, &db_ih, &db_hh, &dpeephole,
                            &dprojection, &dh0, &dc0, &dgates, &dhidden, &dcells})
    write_array(to, *array);
}

template <class T>
bool run_case(const Table& table, const std::string& name, const Sizes& size, FILE* from, FILE* to) {
  const Functions<T>& f = functions<T>(table);
  if (const auto function = name == "exp"       ? f.exp
                            : name == "sigmoid" ? f.sigmoid
                            : name == "tanh"    ? f.tanh
                                                : nullptr) {
    const auto x = read_array<T>(from);
    auto y = nan<T>(int64_t(x.size()));
    function(x.data(), y.data(), int64_t(x.size()));
    write_array(to, y);
    return true;
  }
  for (int k = 0; k < kCells; ++k)
    if (name == layers<T>(table)[k].cell) return run_layer<T>(layers<T>(table)[k], size, from, to), true;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fputs("run_cases INPUT OUTPUT\n", stderr), 1;
  FILE *from = open(argv[1], "rb"), *to = open(argv[2], "wb");
  for (int64_t left = read_integer(from); left > 0; --left) {
    char name[25] = {};
    read(from, name, 24);
    const int64_t bytes = read_integer(from);
    Sizes size;
    read(from, &size.B, 5);
    const bool known = bytes == 4 ? run_case<float>(TIMELIKE_TABLE, name, size, from, to)
                                  : run_case<double>(TIMELIKE_TABLE, name, size, from, to);
    if (!known) return std::fprintf(stderr, "no cell %s\n", name), 1;
  }
  return std::fclose(to) == 0 ? 0 : 1;
}
