// Weights of IEEE half precision: their bits, moved to where those of a float stand, are 2^-112 of them. (Of
// weights below 6e-5 that is a subnormal number: they are zero where the processor is told to flush such.)
inline Lanes weights_at(const std::uint16_t* w) {
#if defined(__GNUC__) && !defined(TIMELIKE_ONE_LANE)
  typedef std::uint16_t Small __attribute__((vector_size(lanes * 2)));
  typedef std::uint32_t Wide __attribute__((vector_size(lanes * 4)));
  typedef float Floats __attribute__((vector_size(lanes * 4)));
  Small small;
  std::memcpy(&small, w, sizeof small);
  const Wide half = __builtin_convertvector(small, Wide);
  const Wide wide = (half & 0x7fffu) << 13 | (half & 0x8000u) << 16;
  Floats number;
  std::memcpy(&number, &wide, sizeof number);
  return __builtin_convertvector(number * 0x1p112f, Lanes);
#else
  const std::uint32_t half = *w;
  const std::uint32_t wide = (half & 0x7fffu) << 13 | (half & 0x8000u) << 16;
  float number;
  std::memcpy(&number, &wide, sizeof number);
  return real(number * 0x1p112f);
#endif
}
