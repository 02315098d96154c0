// Weights of IEEE half precision: their bits, moved to where those of a float stand, are 2^-112 of them. (Of
// weights below 6e-5 that is a subnormal number: they are zero where the processor is told to flush such.)
inline Lanes weights_at(const std::uint16_t* w) {
#if !defined(__GNUC__) || defined(TIMELIKE_ONE_LANE)
  const std::uint32_t half = *w, wide = (half & 0x7fffu) << 13 | (half & 0x8000u) << 16;
  float number;
  std::memcpy(&number, &wide, sizeof number);
  return real(number * 0x1p112f);
#elif defined(__AVX512F__) && !$DOUBLE
  return (Lanes)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
#elif defined(__AVX__) && !defined(__AVX512F__) && defined(__F16C__) && !$DOUBLE
  return (Lanes)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
#else
  typedef std::uint32_t Wide __attribute__((vector_size(lanes * 4)));
  typedef float Floats __attribute__((vector_size(lanes * 4)));
  Wide half;
#if defined(__SSE2__) && !defined(__AVX__) && !$DOUBLE
  half = (Wide)_mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w)), _mm_setzero_si128());
#else
  typedef std::uint16_t Small __attribute__((vector_size(lanes * 2)));
  Small small;
  std::memcpy(&small, w, sizeof small);
  half = __builtin_convertvector(small, Wide);
#endif
  const Wide wide = (half & 0x7fffu) << 13 | (half & 0x8000u) << 16;
  Floats number;
  std::memcpy(&number, &wide, sizeof number);
  return __builtin_convertvector(number * 0x1p112f, Lanes);
#endif
}

