// What every processor of the platform can run (SSE2 on x86-64, NEON on AArch64): 16-byte registers.
#define TIMELIKE_ISA baseline
#define TIMELIKE_ISA_NAME "baseline"
#define TIMELIKE_TABLE table_baseline
#define TIMELIKE_VECTOR_BYTES 16
#include "table.inl"
