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

#if TIMELIKE_HAS_FMA256
TIMELIKE_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
TIMELIKE_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
TIMELIKE_INLINE VecF larger(VecF bound, VecF v) { return (VecF)_mm256_max_ps((__m256)bound, (__m256)v); }
TIMELIKE_INLINE VecD larger(VecD bound, VecD v) { return (VecD)_mm256_max_pd((__m256d)bound, (__m256d)v); }
TIMELIKE_INLINE VecF smaller(VecF bound, VecF v) { return (VecF)_mm256_min_ps((__m256)bound, (__m256)v); }
TIMELIKE_INLINE VecD smaller(VecD bound, VecD v) { return (VecD)_mm256_min_pd((__m256d)bound, (__m256d)v); }

// The first n lanes, the rest zero; nothing past p[n - 1] is touched. (A masked store would be one
// instruction, but is microcoded on several processors: halves are faster.)
alignas(32) constexpr int32_t kLaneMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

TIMELIKE_INLINE VecF load(const float* p, int n) {
  if (n >= 8) return load(p);
  return (VecF)_mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask + 8 - n)));
}
TIMELIKE_INLINE VecD load(const double* p, int n) {
  if (n >= 4) return load(p);
  return (VecD)_mm256_maskload_pd(
      p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask + 8 - 2 * n)));
}
TIMELIKE_INLINE void store(float* p, VecF v, int n) {
  if (n >= 8) return store(p, v);
  __m128 half = _mm256_castps256_ps128((__m256)v);
  if (n & 4) {
    _mm_storeu_ps(p, half);
    half = _mm256_extractf128_ps((__m256)v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), half);
    half = _mm_movehl_ps(half, half);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, half);
}
TIMELIKE_INLINE void store(double* p, VecD v, int n) {
  if (n >= 4) return store(p, v);
  __m128d half = _mm256_castpd256_pd128((__m256d)v);
  if (n & 2) {
    _mm_storeu_pd(p, half);
    half = _mm256_extractf128_pd((__m256d)v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, half);
}
#else
// The first n lanes, the rest zero; nothing past p[n - 1] is touched.
template <class T>
TIMELIKE_INLINE Vec<T> load(const T* p, int n) {
  if (n >= Lanes<T>::count) return load(p);
  Vec<T> v{};
  for (int l = 0; l < n; ++l) v[l] = p[l];
  return v;
}
template <class V, class T>
TIMELIKE_INLINE void store(T* p, V v, int n) {
  if (n >= Lanes<T>::count) return store(p, v);
  for (int l = 0; l < n; ++l) p[l] = v[l];
}
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
