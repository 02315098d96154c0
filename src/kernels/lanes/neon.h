// The operations of vec.h on the 16-byte registers of AArch64.
#pragma once

namespace timelike {
namespace TIMELIKE_ISA {

TIMELIKE_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
TIMELIKE_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

// Of a number and a NaN, the processor returns the NaN.
TIMELIKE_INLINE VecF larger(VecF bound, VecF v) {
  return (VecF)vmaxq_f32((float32x4_t)bound, (float32x4_t)v);
}
TIMELIKE_INLINE VecD larger(VecD bound, VecD v) {
  return (VecD)vmaxq_f64((float64x2_t)bound, (float64x2_t)v);
}
TIMELIKE_INLINE VecF smaller(VecF bound, VecF v) {
  return (VecF)vminq_f32((float32x4_t)bound, (float32x4_t)v);
}
TIMELIKE_INLINE VecD smaller(VecD bound, VecD v) {
  return (VecD)vminq_f64((float64x2_t)bound, (float64x2_t)v);
}

TIMELIKE_INLINE VecF load(const float* p, int n) {
  if (n >= 4) return load(p);
  VecF v{};
  if (n > 0) v[0] = p[0];
  if (n > 1) v[1] = p[1];
  if (n > 2) v[2] = p[2];
  return v;
}
TIMELIKE_INLINE VecD load(const double* p, int n) {
  if (n >= 2) return load(p);
  VecD v{};
  if (n > 0) v[0] = p[0];
  return v;
}
TIMELIKE_INLINE void store(float* p, VecF v, int n) {
  if (n >= 4) return store(p, v);
  if (n > 0) p[0] = v[0];
  if (n > 1) p[1] = v[1];
  if (n > 2) p[2] = v[2];
}
TIMELIKE_INLINE void store(double* p, VecD v, int n) {
  if (n >= 2) return store(p, v);
  if (n > 0) p[0] = v[0];
}

}  // namespace TIMELIKE_ISA
}  // namespace timelike
