#include "cpu/scheduler.h"

#include <sys/resource.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>

#include "cpu/attention.h"
#include "cpu/copy.h"
#include "cpu/merge.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Operations are linked by link[0]; link[1] counts the waits that an operation still has.
struct na_stream {
  na_operation *head = nullptr, *tail = nullptr;  // not yet begun
  uint64_t completed = 0;
  bool busy = false;      // an operation has begun and is not finished, or the stream is in ready_
  bool destroyed = false; // to be deleted when no longer busy
  struct Waiter {
    uint64_t sequence;
    na_stream* stream;
    na_operation* operation;
  };
  std::vector<Waiter> waiters;  // operations of other streams that wait for this one
};

namespace na::cpu {
namespace {

// Pool threads give way to the event loop and to whatever else the user runs.
constexpr int kNice = 5;

na_operation* next_of(const na_operation* operation) { return static_cast<na_operation*>(operation->link[0]); }
uintptr_t waits_of(const na_operation* operation) { return reinterpret_cast<uintptr_t>(operation->link[1]); }
void set_waits(na_operation* operation, uintptr_t count) { operation->link[1] = reinterpret_cast<void*>(count); }

int64_t now_nanoseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{1000000000} * time.tv_sec + time.tv_nsec;
}

void mark(const na_operation* operation) {
  int64_t* nanoseconds = static_cast<const na_mark*>(operation->args)->nanoseconds;
  if (nanoseconds) *nanoseconds = now_nanoseconds();
}

}  // namespace

// A thread's own memory, grown to what the largest job so far asked for.
struct Scheduler::Scratch {
  void* data = nullptr;
  size_t bytes = 0;

  bool reserve(size_t wanted) {
    if (wanted <= bytes) return true;
    const size_t rounded = (wanted + 4095) / 4096 * 4096;
    void* grown = aligned_alloc(4096, rounded);
    if (!grown) return false;
    free(data);
    data = grown;
    bytes = rounded;
    return true;
  }
};

bool Scheduler::start() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (started_) return true;
  int running = 0;
  for (int i = 0; i < threads_; i++) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, thread_main, this) != 0) break;
    pthread_detach(thread);
    running++;
  }
  started_ = running == threads_;
  return started_;
}

void* Scheduler::thread_main(void* scheduler) {
#ifdef __linux__
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  pthread_setname_np(pthread_self(), "node-attention");
#endif
  static_cast<Scheduler*>(scheduler)->work();
  return nullptr;
}

na_stream* Scheduler::create_stream() { return new na_stream; }

void Scheduler::destroy_stream(na_stream* stream) {
  std::unique_lock<std::mutex> lock(mutex_);
  // The thread that finished the last operation may be between `done` and its own bookkeeping.
  stream->destroyed = true;
  const bool unused = !stream->busy;
  lock.unlock();
  if (unused) delete stream;
}

void Scheduler::submit(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count) {
  std::unique_lock<std::mutex> lock(mutex_);
  operation->link[0] = nullptr;
  uintptr_t pending = 0;
  for (int32_t i = 0; i < wait_count; i++) {
    if (waits[i].stream->completed < waits[i].sequence) {
      waits[i].stream->waiters.push_back({waits[i].sequence, stream, operation});
      pending++;
    }
  }
  set_waits(operation, pending);
  if (!stream->head && !stream->busy && pending == 0 && operation->kind == NA_OP_MARK) {
    // Nothing to do and nothing before it: no thread need be woken.
    stream->busy = true;
    mark(operation);
    lock.unlock();
    operation->done(operation, nullptr);
    lock.lock();
    finish(stream);
    return;
  }
  if (stream->tail) {
    stream->tail->link[0] = operation;
  } else {
    stream->head = operation;
  }
  stream->tail = operation;
  make_ready(stream);
}

// Puts the stream in line if its head may begin. The lock is held.
void Scheduler::make_ready(na_stream* stream) {
  if (stream->busy || !stream->head || waits_of(stream->head) != 0) return;
  stream->busy = true;
  ready_.push_back(stream);
  work_.notify_one();
}

void Scheduler::work() {
  Scratch scratch;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (!ready_.empty()) {
      na_stream* stream = ready_.front();
      ready_.pop_front();
      begin(stream, lock);
    } else if (!active_.empty()) {
      run_task(active_.front(), scratch, lock);
    } else {
      work_.wait(lock);
    }
  }
}

// Begins the head operation of a stream: marks are done here, the rest is cut into tasks.
void Scheduler::begin(na_stream* stream, std::unique_lock<std::mutex>& lock) {
  na_operation* operation = stream->head;
  stream->head = next_of(operation);
  if (!stream->head) stream->tail = nullptr;
  lock.unlock();

  std::unique_ptr<Job> job;
  size_t scratch_bytes = 0;
  int64_t tasks = 0;
  if (!Cancel(operation->cancelled).requested()) {
    switch (operation->kind) {
      case NA_OP_ATTENTION: {
        const auto& attention = *static_cast<const na_attention*>(operation->args);
        job = attention_job(attention, isa_, threads_);
        scratch_bytes = attention_scratch_bytes(attention);
        break;
      }
      case NA_OP_MERGE: job = merge_job(*static_cast<const na_merge*>(operation->args)); break;
      case NA_OP_COPY: job = copy_job(*static_cast<const na_copy*>(operation->args)); break;
      default: mark(operation);
    }
    if (job) tasks = job->prepare();
  }

  if (tasks > 0) {
    lock.lock();
    active_.push_back(new Active{stream, operation, std::move(job), scratch_bytes, tasks, 0, 0, false});
    if (tasks > 1) work_.notify_all();
    return;
  }
  job.reset();
  operation->done(operation, nullptr);
  lock.lock();
  finish(stream);
}

// Runs one task of the operation at the front of the line. The lock is held on entry and on return.
void Scheduler::run_task(Active* active, Scratch& scratch, std::unique_lock<std::mutex>& lock) {
  const int64_t task = active->next++;
  active->running++;
  active_.pop_front();
  if (active->next < active->tasks) active_.push_back(active);  // concurrent streams take turns
  lock.unlock();
  const Cancel cancel(active->operation->cancelled);
  const bool reserved = scratch.reserve(active->scratch_bytes);
  if (reserved && !cancel.requested()) active->job->run(task, scratch.data, cancel);
  lock.lock();
  active->failed |= !reserved;
  active->running--;
  if (active->running > 0 || active->next < active->tasks) return;

  na_error failure{NA_ERR_OUT_OF_MEMORY, "no scratch memory for a thread of the CPU backend"};
  const bool failed = active->failed;
  na_stream* stream = active->stream;
  lock.unlock();
  active->job.reset();  // before done: it reads what the operation names
  active->operation->done(active->operation, failed ? &failure : nullptr);
  delete active;
  lock.lock();
  finish(stream);
}

// After `done`: lets go those who waited for the operation, and the next one of the stream. The lock is held.
void Scheduler::finish(na_stream* stream) {
  stream->completed++;
  stream->busy = false;
  auto& waiters = stream->waiters;
  for (size_t i = 0; i < waiters.size();) {
    if (waiters[i].sequence > stream->completed) {
      i++;
      continue;
    }
    na_operation* operation = waiters[i].operation;
    na_stream* waiting = waiters[i].stream;
    waiters[i] = waiters.back();
    waiters.pop_back();
    set_waits(operation, waits_of(operation) - 1);
    make_ready(waiting);
  }
  make_ready(stream);
  if (stream->destroyed && !stream->busy) delete stream;
}

}  // namespace na::cpu
