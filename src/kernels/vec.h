// Lanes: one register of T by compiler vector extensions, named by width, not by -m flags.
//
// Everything here lives in a namespace per instruction set, whose file (avx2.cpp, ...) names
//   TIMELIKE_VECTOR_BYTES   the width of a register
//   TIMELIKE_REGISTERS      how many there are: the register tiles are cut to fit
//   TIMELIKE_LANES          the file in lanes/ with the five operations that vector extensions do not have
// Multiply-adds go through fma() alone, and the build has -ffp-contract=off: a compiler that fuses at will
// may fuse differently in two instances of one template, and then a result would depend on how many rows a
// tile has.
#pragma once

#include "api.h"

#define TIMELIKE_INLINE inline __attribute__((always_inline))

// A loop over the registers of a tile. Where such a loop is not unrolled, its arrays live in memory instead
// of registers; of their own accord compilers unroll only short ones.
#ifdef __clang__
#define TIMELIKE_EACH(i, count) _Pragma("clang loop unroll(full)") for (int i = 0; i < (count); ++i)
#else
#define TIMELIKE_EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); ++i)
#endif

namespace timelike {
namespace TIMELIKE_ISA {

constexpr int kRegisters = TIMELIKE_REGISTERS;

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int count = TIMELIKE_VECTOR_BYTES / 4;
  typedef float vec __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
  typedef float loose __attribute__((vector_size(TIMELIKE_VECTOR_BYTES), aligned(4), may_alias));
  typedef uint32_t ints __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
};

template <>
struct Lanes<double> {
  static constexpr int count = TIMELIKE_VECTOR_BYTES / 8;
  typedef double vec __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
  typedef double loose __attribute__((vector_size(TIMELIKE_VECTOR_BYTES), aligned(8), may_alias));
  typedef uint64_t ints __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
};

template <class T>
using Vec = typename Lanes<T>::vec;

using VecF = Lanes<float>::vec;
using VecD = Lanes<double>::vec;

template <class T>
TIMELIKE_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Lanes<T>::loose*>(p);
}

template <class T>
TIMELIKE_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Lanes<T>::loose*>(p) = v;
}

template <class T>
TIMELIKE_INLINE Vec<T> broadcast(T s) {
  return s - Vec<T>{};  // s - 0 is s for every s, so this costs the broadcast alone
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike

// For float and for double, in the namespace of the instruction set:
//   fma(a, b, c)          a b + c; rounded once where the instruction set has it, twice in portable.h
//   larger(bound, v)      the larger one; a NaN in v stays
//   smaller(bound, v)     the smaller one; a NaN in v stays
//   load(p, n)            the first n lanes, the rest zero; nothing past p[n - 1] is touched
//   store(p, v, n)        the first n lanes; nothing past p[n - 1] is touched
#include TIMELIKE_LANES
