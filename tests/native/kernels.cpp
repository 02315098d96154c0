// The kernels of every cell on three threads against one, to the bit: a program small enough for the thread
// sanitizer, which cannot watch a whole Python.
#include "api.h"

#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace timelike;

namespace {

// Chunks enough for several tasks, forward and backward, and work that pays for three threads.
constexpr int64_t B = 230, T = 9, D = 5, H = 19, R = 7;

template <class T_>
struct Buffers {
  std::vector<T_> packed, back, y, hT, cT, gates, cells, dx, dW, dU, db, peephole, projection, dh0, dc0,
      dgates;
  bool operator==(const Buffers& other) const {
    const auto same = [](const std::vector<T_>& a, const std::vector<T_>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T_)) == 0;
    };
    return same(y, other.y) && same(hT, other.hT) && same(cT, other.cT) && same(gates, other.gates) &&
           same(cells, other.cells) && same(dx, other.dx) && same(dW, other.dW) && same(dU, other.dU) &&
           same(db, other.db) && same(peephole, other.peephole) && same(projection, other.projection) &&
           same(dh0, other.dh0) && same(dc0, other.dc0) && same(dgates, other.dgates);
  }
};

template <class T_>
std::vector<T_> normal(int64_t n) {
  std::mt19937 engine(static_cast<unsigned>(n));
  std::normal_distribution<T_> draw;
  std::vector<T_> numbers(static_cast<size_t>(n));
  for (T_& x : numbers) x = draw(engine) / 2;
  return numbers;
}

template <class T_>
Buffers<T_> run(const Layer<T_>& layer, const Rows& rows, int64_t N, int threads) {
  const bool lstm = std::strncmp(layer.cell, "lstm", 4) == 0, gru = std::strncmp(layer.cell, "gru", 3) == 0;
  const bool peephole = std::strstr(layer.cell, "peephole"), projected = std::strstr(layer.cell, "projected");
  const int64_t G = gru || std::strstr(layer.cell, "coupled") ? 3 : lstm ? 4 : 1, r = projected ? R : H;
  const auto W = normal<T_>(G * H * D), U = normal<T_>(G * H * r), b = normal<T_>(G * H),
             p = normal<T_>(3 * H), projection = normal<T_>(r * H), x = normal<T_>(N * D),
             dy = normal<T_>(N * r), h = normal<T_>(B * r), c = normal<T_>(B * H);
  const auto zeros = [](int64_t n) { return std::vector<T_>(static_cast<size_t>(n)); };
  Buffers<T_> o;
  o.packed = zeros(layer.forward_size(D, H, r)), o.back = zeros(layer.backward_size(D, H, r));
  const Weights<T_> weights{D,
                            H,
                            r,
                            W.data(),
                            U.data(),
                            b.data(),
                            b.data(),
                            peephole ? p.data() : nullptr,
                            projected ? projection.data() : nullptr};
  layer.pack_forward(weights, o.packed.data());
  layer.pack_backward(weights, o.back.data());

  o.y = zeros(N * r), o.hT = zeros(B * r), o.gates = zeros(N * layer.tape_gates * H);
  if (lstm) o.cT = zeros(B * H), o.cells = zeros(N * H);
  Forward<T_> f{};
  f.rows = rows, f.D = D, f.H = H, f.R = r, f.threads = threads;
  f.packed = o.packed.data(), f.x = x.data(), f.ldx = D, f.y = o.y.data(), f.ldy = r;
  f.h0 = h.data(), f.hT = o.hT.data(), f.gates = layer.tape_gates ? o.gates.data() : nullptr;
  if (lstm) f.c0 = c.data(), f.cT = o.cT.data(), f.cells = o.cells.data();
  layer.forward(f);

  o.dx = zeros(N * D), o.dW = zeros(G * H * D), o.dU = zeros(G * H * r), o.db = zeros(G * H);
  o.dh0 = zeros(B * r), o.dgates = zeros(N * G * H);
  if (lstm) o.dc0 = zeros(B * H);
  if (peephole) o.peephole = zeros(3 * H);
  if (projected) o.projection = zeros(r * H);
  Backward<T_> g{};
  g.rows = rows, g.D = D, g.H = H, g.R = r, g.threads = threads;
  g.packed = o.back.data(), g.x = x.data(), g.ldx = D, g.h0 = h.data(), g.c0 = f.c0;
  g.hidden = o.y.data(), g.ldhidden = r, g.gates = f.gates, g.cells = f.cells;
  g.dy = dy.data(), g.lddy = r, g.dhT = h.data(), g.dcT = f.c0;
  g.dx = o.dx.data(), g.lddx = D, g.dW = o.dW.data(), g.dU = o.dU.data(), g.db_ih = o.db.data();
  g.dpeephole = peephole ? o.peephole.data() : nullptr;
  g.dprojection = projected ? o.projection.data() : nullptr;
  g.dh0 = o.dh0.data(), g.dc0 = lstm ? o.dc0.data() : nullptr, g.dgates = o.dgates.data();
  layer.backward(g);
  return o;
}

template <class T_>
int differences(const Layer<T_> (&layers)[kCells]) {
  std::vector<int64_t> start, step, length;
  int64_t N = 0;
  for (int64_t b = 0; b < B; N += length[static_cast<size_t>(b++)])
    start.push_back(N), length.push_back(T - b * 7 % (T + 1));
  for (int64_t t = 0; t < T; ++t) step.push_back(t);
  const Rows rows{start.data(), step.data(), start.data(), step.data(), length.data(), B, 0, T, false};
  int found = 0;
  for (const Layer<T_>& layer : layers) {
    const Buffers<T_> alone = run(layer, rows, N, 1);
    for (int round = 0; round < 3; ++round)
      if (!(run(layer, rows, N, 3) == alone)) {
        std::fprintf(stderr, "%s: %zu bytes a number: threads change bits\n", layer.cell, sizeof(T_));
        ++found;
      }
  }
  return found;
}

}  // namespace

int main() {
  const TableList list = available_tables();
  const Table& table = *list.table[list.count - 1];
  if (differences(table.f32) + differences(table.f64)) return 1;
  std::puts("done");
}
