// Registers of 64 bytes, 32 of them, on any processor: the compiler makes several instructions of each
// operation. So the layouts and tiles of AVX-512 run where AVX-512 is not.
#include "api.h"

namespace timelike {
extern const Table table_wide;
}

#define TIMELIKE_ISA wide
#define TIMELIKE_ISA_NAME "wide"
#define TIMELIKE_TABLE table_wide
#define TIMELIKE_VECTOR_BYTES 64
#define TIMELIKE_REGISTERS 32
#define TIMELIKE_LANES "lanes/portable.h"
#include "table.inl"
