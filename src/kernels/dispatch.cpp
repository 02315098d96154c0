#include "api.h"

namespace timelike {

TableList available_tables() {
  TableList list{{&table_baseline}, 1};
#ifdef TIMELIKE_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.table[list.count++] = &table_avx2;
#endif
  return list;
}

}  // namespace timelike
