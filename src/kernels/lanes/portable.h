// The operations of vec.h in vector extensions alone, for registers of any width.
#pragma once

namespace timelike {
namespace TIMELIKE_ISA {

template <class V>
TIMELIKE_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}

// A NaN in v compares false.
template <class V>
TIMELIKE_INLINE V larger(V bound, V v) {
  return v < bound ? bound : v;
}
template <class V>
TIMELIKE_INLINE V smaller(V bound, V v) {
  return v > bound ? bound : v;
}

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

}  // namespace TIMELIKE_ISA
}  // namespace timelike
