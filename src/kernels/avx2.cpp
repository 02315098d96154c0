// AVX2 with FMA: 32-byte registers. The instruction set is switched on for this region alone, after the
// standard headers, so that no inline function of theirs is compiled for it and then linked into others.
#ifdef __x86_64__
#include <immintrin.h>

#include "rows.h"
#include "threads.h"

#include <cstring>

#define TIMELIKE_ISA avx2
#define TIMELIKE_ISA_NAME "avx2"
#define TIMELIKE_TABLE table_avx2
#define TIMELIKE_VECTOR_BYTES 32
#define TIMELIKE_REGISTERS 16
#define TIMELIKE_LANES "lanes/avx2.h"
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include "table.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "table.inl"
#pragma GCC pop_options
#endif
#endif
