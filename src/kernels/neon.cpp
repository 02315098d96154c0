// NEON of AArch64, which every processor there has: 16-byte registers, 32 of them, and a fused multiply-add.
#ifdef __aarch64__
#include <arm_neon.h>

#define TIMELIKE_ISA neon
#define TIMELIKE_ISA_NAME "neon"
#define TIMELIKE_TABLE table_neon
#define TIMELIKE_VECTOR_BYTES 16
#define TIMELIKE_REGISTERS 32
#define TIMELIKE_LANES "lanes/neon.h"
#include "table.inl"
#endif
