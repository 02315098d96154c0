#include "api.h"

namespace timelike {

TableList available_tables() {
  TableList list{{&table_baseline}, 1};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.table[list.count++] = &table_avx2;
  if (__builtin_cpu_supports("avx512f")) list.table[list.count++] = &table_avx512;
#elif defined(__aarch64__)
  list.table[list.count++] = &table_neon;
#endif
  return list;
}

}  // namespace timelike
