// The operations of vec.h on 64-byte registers; mask registers take the first n lanes.
#pragma once

namespace timelike {
namespace TIMELIKE_ISA {

TIMELIKE_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
TIMELIKE_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}

// Of a number and a NaN, the processor returns the second. (All lanes by a mask: the intrinsics without one
// start from an undefined register, of which GCC 12 warns.)
TIMELIKE_INLINE VecF larger(VecF bound, VecF v) {
  return (VecF)_mm512_maskz_max_ps(__mmask16(-1), (__m512)bound, (__m512)v);
}
TIMELIKE_INLINE VecD larger(VecD bound, VecD v) {
  return (VecD)_mm512_maskz_max_pd(__mmask8(-1), (__m512d)bound, (__m512d)v);
}
TIMELIKE_INLINE VecF smaller(VecF bound, VecF v) {
  return (VecF)_mm512_maskz_min_ps(__mmask16(-1), (__m512)bound, (__m512)v);
}
TIMELIKE_INLINE VecD smaller(VecD bound, VecD v) {
  return (VecD)_mm512_maskz_min_pd(__mmask8(-1), (__m512d)bound, (__m512d)v);
}

TIMELIKE_INLINE VecF load(const float* p, int n) {
  if (n >= 16) return load(p);
  return (VecF)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
TIMELIKE_INLINE VecD load(const double* p, int n) {
  if (n >= 8) return load(p);
  return (VecD)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
}
TIMELIKE_INLINE void store(float* p, VecF v, int n) {
  if (n >= 16) return store(p, v);
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
TIMELIKE_INLINE void store(double* p, VecD v, int n) {
  if (n >= 8) return store(p, v);
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
