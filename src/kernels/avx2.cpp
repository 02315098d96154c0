// AVX2 with FMA: 32-byte registers. The instruction set is switched on for this region alone, after the
// standard headers, so that no inline function of theirs is compiled for it and then linked into others.
#include <immintrin.h>

#include "rows.h"

#include <cstring>

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define TIMELIKE_ISA avx2
#define TIMELIKE_ISA_NAME "avx2"
#define TIMELIKE_TABLE table_avx2
#define TIMELIKE_VECTOR_BYTES 32
#define TIMELIKE_HAS_FMA256 1
#include "table.inl"
#pragma GCC pop_options
