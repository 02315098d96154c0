// Weights of 8 bits, with a scale for each column.
template <int Inputs, int Columns>
struct ScaledMatrix {
  Matrix<std::int8_t, Inputs, Columns> numbers;
  real scale[Columns];
};

inline Lanes weights_at(const std::int8_t* w) {
#if !defined(__GNUC__) || defined(TIMELIKE_ONE_LANE)
  return real(*w);
#else
  // By the processor's own instructions where compilers do not find them.
  typedef std::int32_t Whole __attribute__((vector_size(lanes * 4)));
  Whole whole;
#if defined(__AVX512F__) && !$DOUBLE
  whole = (Whole)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
#elif defined(__AVX2__) && (!$DOUBLE || defined(__AVX512F__))
  whole = (Whole)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w)));
#elif defined(__SSE2__) && !defined(__AVX__) && !$DOUBLE
  std::int32_t four;
  std::memcpy(&four, w, sizeof four);
  const __m128i bytes = _mm_cvtsi32_si128(four), twice = _mm_unpacklo_epi8(bytes, bytes);
  whole = (Whole)_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24);
#else
  typedef std::int8_t Small __attribute__((vector_size(lanes)));
  Small small;
  std::memcpy(&small, w, sizeof small);
  whole = __builtin_convertvector(small, Whole);
#endif
  return __builtin_convertvector(whole, Lanes);
#endif
}

