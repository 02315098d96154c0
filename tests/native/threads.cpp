// The pool of threads.h alone: every task once, errors handed on, several callers at a time, fork().
// Ends with 0 and "done"; what hangs is ended by the caller.
#include "threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

using timelike::run_tasks;

#define CHECK(condition)                                                         \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::_Exit(1);                                                               \
  }

namespace {

// Waits until so many threads have come here.
class Meeting {
 public:
  explicit Meeting(int expected) : expected_(expected) {}
  void join() {
    ++here_;
    wait();
  }
  void wait() const {
    while (here_ < expected_) std::this_thread::yield();
  }

 private:
  const int expected_;
  std::atomic<int> here_{0};
};

void every_task_runs_once(int64_t tasks, int threads) {
  std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
  run_tasks(tasks, threads, [&](int64_t k) { ++runs[static_cast<size_t>(k)]; });
  for (const auto& n : runs) CHECK(n == 1);
}

// As many threads as asked for work at the same time: each task waits for all the others.
void tasks_run_side_by_side(int threads) {
  Meeting meeting(threads);
  run_tasks(threads, threads, [&](int64_t) { meeting.join(); });
}

void an_error_reaches_the_caller(int threads) {
  for (int64_t bad = 0; bad < 5; ++bad) {
    bool caught = false;
    try {
      run_tasks(5, threads, [&](int64_t k) {
        if (k == bad) throw std::runtime_error("task");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
    every_task_runs_once(5, threads);
  }
}

// Two callers wait for their workers at the same time, and the one that began last is done first. (It works
// alone if it comes before the first one waits, so that this happens in most rounds and not in all.)
void callers_wait_for_their_own_workers() {
  std::atomic<bool> first_may_end{false}, second_ended{false};
  Meeting first(2);
  std::thread caller([&] {
    const auto self = std::this_thread::get_id();
    run_tasks(2, 2, [&](int64_t) {
      first.join();
      while (std::this_thread::get_id() != self && !first_may_end) std::this_thread::yield();
    });
  });
  first.wait();
  std::thread other([&] {
    const auto self = std::this_thread::get_id();
    std::atomic<bool> helped{false};
    run_tasks(2, 2, [&](int64_t) {
      const bool here = std::this_thread::get_id() == self;
      if (!here) helped = true;
      for (int k = 0; k < 1000 && !(here && helped); ++k) std::this_thread::yield();
    });
    second_ended = true;
  });
  while (!second_ended) std::this_thread::yield();
  first_may_end = true;
  caller.join();
  other.join();
}

void many_callers_at_once() {
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([] {
      for (int round = 0; round < 2000; ++round) every_task_runs_once(1 + round % 7, 1 + round % 4);
    });
  for (auto& caller : callers) caller.join();
}

#ifndef __SANITIZE_THREAD__  // it takes no new threads in a child
void a_child_has_threads_of_its_own() {
  const pid_t child = fork();
  if (child == 0) {
    tasks_run_side_by_side(3);
    std::_Exit(0);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  tasks_run_side_by_side(3);
}
#endif

}  // namespace

int main() {
  for (int threads : {-1, 0, 1, 2, 3, 8})
    for (int64_t tasks : {0, 1, 2, 3, 7, 100}) every_task_runs_once(tasks, threads);
  tasks_run_side_by_side(4);
  for (int threads : {1, 2, 4}) an_error_reaches_the_caller(threads);
  for (int round = 0; round < 50; ++round) callers_wait_for_their_own_workers();
  many_callers_at_once();
#ifndef __SANITIZE_THREAD__
  a_child_has_threads_of_its_own();
#endif
  std::puts("done");
}
