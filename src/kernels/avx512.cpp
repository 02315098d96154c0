// AVX-512 (F alone): 64-byte registers, 32 of them, and masks. See avx2.cpp for the region.
#ifdef __x86_64__
#include <immintrin.h>

#include "rows.h"
#include "threads.h"

#include <cstring>

#define TIMELIKE_ISA avx512
#define TIMELIKE_ISA_NAME "avx512"
#define TIMELIKE_TABLE table_avx512
#define TIMELIKE_VECTOR_BYTES 64
#define TIMELIKE_REGISTERS 32
#define TIMELIKE_LANES "lanes/avx512.h"
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#include "table.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#include "table.inl"
#pragma GCC pop_options
#endif
#endif
