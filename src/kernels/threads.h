// Work shared among threads. What a task computes must not depend on who runs it, nor on when.
#pragma once

#include <cstdint>

namespace timelike {

// Runs task(context, k) for k = 0 .. tasks - 1, each once, on this thread and at most threads - 1 others;
// tasks begin in the order of their numbers. An exception of a task is thrown here when all have ended.
//
// The threads wait for work between calls. They serve one caller at a time: a second caller, from another
// thread of the program, runs its tasks alone. After fork() the child starts threads of its own.
void run_tasks(int64_t tasks, int threads, void (*task)(void* context, int64_t k), void* context);

template <class Task>
void run_tasks(int64_t tasks, int threads, Task&& task) {
  run_tasks(tasks, threads, [](void* context, int64_t k) { (*static_cast<Task*>(context))(k); }, &task);
}

// Threads that pay off for so many multiply-adds: each gets at least about 150 us of work, three times what
// waking it may take.
inline int worthwhile_threads(int threads, double multiply_adds) {
  const double each = 4e6;
  if (multiply_adds < 2 * each) return 1;
  return multiply_adds / each < threads ? int(multiply_adds / each) : threads;
}

}  // namespace timelike
