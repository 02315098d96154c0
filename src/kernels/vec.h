// Lanes: one register of T by compiler vector extensions, named by width, not by -m flags.
//
// Everything here lives in a namespace per instruction set. Multiply-adds go through fma() alone, and the
// build has -ffp-contract=off: a compiler that fuses at will may fuse differently in two instances of one
// template, and then a result would depend on how many rows a tile has.
#pragma once

#include "api.h"

#define TIMELIKE_INLINE inline __attribute__((always_inline))

namespace timelike {
namespace TIMELIKE_ISA {

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int count = TIMELIKE_VECTOR_BYTES / 4;
  typedef float vec __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
  typedef float loose __attribute__((vector_size(TIMELIKE_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t ints __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
};

template <>
struct Lanes<double> {
  static constexpr int count = TIMELIKE_VECTOR_BYTES / 8;
  typedef double vec __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
  typedef double loose __attribute__((vector_size(TIMELIKE_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t ints __attribute__((vector_size(TIMELIKE_VECTOR_BYTES)));
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

// The first n lanes, the rest zero; nothing past p[n - 1] is touched.
template <class T>
TIMELIKE_INLINE Vec<T> load(const T* p, int n) {
  constexpr int L = Lanes<T>::count;
  if (n >= L) return load(p);
  Vec<T> v{};
  for (int l = 0; l < n; ++l) v[l] = p[l];
  return v;
}

template <class T>
TIMELIKE_INLINE void store(T* p, Vec<T> v, int n) {
  constexpr int L = Lanes<T>::count;
  if (n >= L) return store(p, v);
  for (int l = 0; l < n; ++l) p[l] = v[l];
}

#if TIMELIKE_HAS_FMA256
TIMELIKE_INLINE VecF fma(VecF a, VecF b, VecF c) { return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
TIMELIKE_INLINE VecD fma(VecD a, VecD b, VecD c) { return (VecD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
TIMELIKE_INLINE VecF larger(VecF bound, VecF v) { return (VecF)_mm256_max_ps((__m256)bound, (__m256)v); }
TIMELIKE_INLINE VecD larger(VecD bound, VecD v) { return (VecD)_mm256_max_pd((__m256d)bound, (__m256d)v); }
TIMELIKE_INLINE VecF smaller(VecF bound, VecF v) { return (VecF)_mm256_min_ps((__m256)bound, (__m256)v); }
TIMELIKE_INLINE VecD smaller(VecD bound, VecD v) { return (VecD)_mm256_min_pd((__m256d)bound, (__m256d)v); }
#else
template <class V>
TIMELIKE_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}
// A NaN in v stays: it compares false.
template <class V>
TIMELIKE_INLINE V larger(V bound, V v) {
  return v < bound ? bound : v;
}
template <class V>
TIMELIKE_INLINE V smaller(V bound, V v) {
  return v > bound ? bound : v;
}
#endif

}  // namespace TIMELIKE_ISA
}  // namespace timelike
