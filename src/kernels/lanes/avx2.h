// The operations of vec.h on 32-byte registers with FMA.
#pragma once

namespace timelike {
namespace TIMELIKE_ISA {

TIMELIKE_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
TIMELIKE_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}

// Of a number and a NaN, the processor returns the second.
TIMELIKE_INLINE VecF larger(VecF bound, VecF v) { return (VecF)_mm256_max_ps((__m256)bound, (__m256)v); }
TIMELIKE_INLINE VecD larger(VecD bound, VecD v) { return (VecD)_mm256_max_pd((__m256d)bound, (__m256d)v); }
TIMELIKE_INLINE VecF smaller(VecF bound, VecF v) { return (VecF)_mm256_min_ps((__m256)bound, (__m256)v); }
TIMELIKE_INLINE VecD smaller(VecD bound, VecD v) { return (VecD)_mm256_min_pd((__m256d)bound, (__m256d)v); }

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

// A masked store would be one instruction, but is microcoded on several processors: halves are faster.
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

}  // namespace TIMELIKE_ISA
}  // namespace timelike
