// What every processor can run, by vector extensions alone (SSE2 on x86-64): 16-byte registers.
#define TIMELIKE_ISA baseline
#define TIMELIKE_ISA_NAME "baseline"
#define TIMELIKE_TABLE table_baseline
#define TIMELIKE_VECTOR_BYTES 16
#define TIMELIKE_REGISTERS 16
#define TIMELIKE_LANES "lanes/portable.h"
#include "table.inl"
