// Streams and threads of the CPU backend. One pool of threads serves all streams of the process: an operation at
// the head of its stream, once all it waits for is done, is cut into tasks that any thread may take. Nothing
// blocks but idle threads.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

class Scheduler {
 public:
  Scheduler(Isa isa, int threads) : isa_(isa), threads_(threads) {}

  // Starts the threads at first use. False when the system refuses.
  bool start();

  // Makes sure that every thread has scratch memory of that size by its next task. False when there is no memory.
  bool reserve(size_t bytes);

  na_stream* create_stream();
  void destroy_stream(na_stream* stream);
  void submit(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count);
  int64_t drain(na_stream* stream);

 private:
  // An operation whose tasks are being taken.
  struct Active {
    na_stream* stream;
    na_operation* operation;
    std::unique_ptr<Job> job;
    int64_t tasks, next, running;
  };
  // A thread's own memory.
  struct Scratch {
    void* data = nullptr;
    size_t bytes = 0;
  };

  static void* thread_main(void* scheduler);
  void work();
  void post();
  bool look_out(std::unique_lock<std::mutex>& lock);
  void make_ready(na_stream* stream);
  void begin(na_stream* stream, std::unique_lock<std::mutex>& lock);
  void finish(na_stream* stream, na_operation* operation, std::unique_lock<std::mutex>& lock);
  void release_waiters(na_stream* stream);
  void run_task(Active* active, Scratch& scratch, std::unique_lock<std::mutex>& lock);
  void end(Active* active, std::unique_lock<std::mutex>& lock);

  const Isa isa_;
  const int threads_;
  std::mutex mutex_;  // guards everything below and all streams
  std::condition_variable work_;
  std::atomic<uint32_t> posted_{0};  // how often work was put in line; threads that look out read it without the lock
  int started_ = 0;
  size_t reserved_ = 0;               // scratch bytes that every thread has or may take
  std::vector<void*> fresh_scratch_;  // blocks of reserved_ bytes, for threads whose own are smaller
  std::deque<na_stream*> ready_;      // their head operation may begin
  std::deque<Active*> active_;        // have tasks to be taken, in turn
};

}  // namespace na::cpu
