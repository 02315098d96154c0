#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace timelike {

namespace {

struct Job {
  int64_t tasks;
  void (*task)(void*, int64_t);
  void* context;
  std::atomic<int64_t> next{0};
  int seats;                 // threads that may still join, guarded by the pool's mutex
  int joined = 0;            // threads at work besides the caller, guarded by the pool's mutex
  std::exception_ptr error;  // the first one, guarded by the pool's mutex

  Job(int64_t n, void (*t)(void*, int64_t), void* c, int others)
      : tasks(n), task(t), context(c), seats(others) {}
};

class Pool {
 public:
  void run(Job& job) {
    const int others = job.seats;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (job_) {  // busy with another caller's job
        lock.unlock();
        work(job);
        return;
      }
      start(others);
      job_ = &job;
    }
    if (others == 1)
      wake_.notify_one();
    else
      wake_.notify_all();
    work(job);
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;  // nobody joins from now on
    done_.wait(lock, [&] { return job.joined == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int started_ = 0;

  void start(int threads) {
    for (; started_ < threads; ++started_) try {
        std::thread(&Pool::serve, this).detach();
      } catch (const std::system_error&) {  // the system has no more: those that are there do the work
        return;
      }
  }

  void work(Job& job) {
    for (int64_t k; (k = job.next.fetch_add(1, std::memory_order_relaxed)) < job.tasks;) try {
        job.task(job.context, k);
      } catch (...) {
        job.next.store(job.tasks, std::memory_order_relaxed);
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!job.error) job.error = std::current_exception();
      }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ && job_->seats > 0; });
      Job& job = *job_;
      --job.seats, ++job.joined;
      lock.unlock();
      work(job);
      lock.lock();
      if (--job.joined == 0) done_.notify_all();  // more than one caller may wait for the last of its own
    }
  }
};

// Never destroyed: its threads wait to the end of the process. A child of fork() has none of them, and gets
// a pool of its own.
Pool* pool = nullptr;
std::once_flag made;

Pool& the_pool() {
  std::call_once(made, [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  });
  return *pool;
}

}  // namespace

void run_tasks(int64_t tasks, int threads, void (*task)(void*, int64_t), void* context) {
  const int64_t others = (tasks < threads ? tasks : threads) - 1;
  if (others < 1) {
    for (int64_t k = 0; k < tasks; ++k) task(context, k);
    return;
  }
  Job job(tasks, task, context, int(others));
  the_pool().run(job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace timelike
