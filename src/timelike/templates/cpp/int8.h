// Weights of 8 bits, with a scale for each column.
template <int Inputs, int Columns>
struct ScaledMatrix {
  Matrix<std::int8_t, Inputs, Columns> numbers;
  real scale[Columns];
};

inline Lanes weights_at(const std::int8_t* w) {
#if defined(__GNUC__) && !defined(TIMELIKE_ONE_LANE)
  typedef std::int8_t Small __attribute__((vector_size(lanes)));
  typedef std::int32_t Middle __attribute__((vector_size(lanes * 4)));
  Small small;
  std::memcpy(&small, w, sizeof small);
  return __builtin_convertvector(__builtin_convertvector(small, Middle), Lanes);
#else
  return real(*w);
#endif
}
