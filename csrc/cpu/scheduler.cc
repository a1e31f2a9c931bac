#include "cpu/scheduler.h"

#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <deque>

#include "cpu/append.h"
#include "cpu/attention.h"
#include "cpu/average.h"
#include "cpu/copy.h"
#include "cpu/copy_rows.h"
#include "cpu/link.h"
#include "cpu/merge.h"
#include "cpu/pooling.h"
#include "cpu/reflect.h"
#include "cpu/retrieve.h"
#include "cpu/rotate.h"
#include "cpu/select.h"
#include "cpu/sparse_plan.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Operations are linked by link[0]; link[1] counts the waits that an operation still has.
struct na_stream {
  na_operation *head = nullptr, *tail = nullptr;  // not yet begun
  std::deque<na_operation*> ended;                // `done` not yet called
  uint64_t completed = 0;                         // `done` called
  bool busy = false;                              // an operation has begun and not ended, or the stream is in ready_
  bool telling = false;                           // a thread calls `done` of those that have ended
  bool destroyed = false;                         // to be deleted when neither
  struct Waiter {
    uint64_t sequence;
    na_stream* stream;
    na_operation* operation;
    bool operator<(const Waiter& other) const { return sequence > other.sequence; }
  };
  std::vector<Waiter> waiters;  // operations of other streams that wait for this one: a heap, the earliest first
};

namespace na::cpu {
namespace {

// Pool threads give way to the event loop and to whatever else the user runs.
constexpr int kNice = 5;
constexpr size_t kPage = 4096;

// Putting a thread to sleep and waking it takes longer than a small operation, on a virtual machine 100 microseconds.
// So threads look out for more work for that long before they sleep, and yield all the while to whoever else wants the
// processor.
constexpr int64_t kLookOutNanoseconds = 100000;
constexpr int kLooks = 16;  // between yields

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

na_operation* next_of(const na_operation* operation) { return static_cast<na_operation*>(operation->link[0]); }
uintptr_t waits_of(const na_operation* operation) { return reinterpret_cast<uintptr_t>(operation->link[1]); }
void set_waits(na_operation* operation, uintptr_t count) { operation->link[1] = reinterpret_cast<void*>(count); }

int64_t now_nanoseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{1000000000} * time.tv_sec + time.tv_nsec;
}

na_operation* take_head(na_stream* stream) {
  na_operation* operation = stream->head;
  stream->head = next_of(operation);
  if (!stream->head) stream->tail = nullptr;
  return operation;
}

void mark(const na_operation* operation) {
  int64_t* nanoseconds = static_cast<const na_mark*>(operation->args)->nanoseconds;
  if (nanoseconds) *nanoseconds = now_nanoseconds();
}

}  // namespace

bool Scheduler::start() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (; started_ < threads_; started_++) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, thread_main, this) != 0) return false;
    pthread_detach(thread);
  }
  return true;
}

// New blocks for all threads, or none: a thread takes one that fits before its next task.
bool Scheduler::reserve(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (bytes <= reserved_) return true;
  const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
  std::vector<void*> blocks;
  for (int i = 0; i < threads_; i++) {
    void* block = aligned_alloc(kPage, rounded);
    if (!block) {
      for (void* made : blocks) free(made);
      return false;
    }
    blocks.push_back(block);
  }
  for (void* unused : fresh_scratch_) free(unused);
  fresh_scratch_ = std::move(blocks);
  reserved_ = rounded;
  return true;
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
  const bool unused = !stream->busy && !stream->telling;
  lock.unlock();
  if (unused) delete stream;
}

void Scheduler::submit(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count) {
  std::unique_lock<std::mutex> lock(mutex_);
  operation->link[0] = nullptr;
  uintptr_t pending = 0;
  for (int32_t i = 0; i < wait_count; i++) {
    if (waits[i].stream->completed < waits[i].sequence) {
      auto& waiters = waits[i].stream->waiters;
      waiters.push_back({waits[i].sequence, stream, operation});
      std::push_heap(waiters.begin(), waiters.end());
      pending++;
    }
  }
  set_waits(operation, pending);
  if (!stream->head && !stream->busy && pending == 0 && operation->kind == NA_OP_MARK) {
    // Nothing to do and nothing before it: no thread need be woken.
    stream->busy = true;
    mark(operation);
    finish(stream, operation, lock);
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
  post();
  if (stream->head->kind == NA_OP_MARK) {
    work_.notify_one();
  } else {
    work_.notify_all();  // now rather than when there are tasks: a thread takes as long to wake as a small task
  }
}

// The lock is held.
void Scheduler::post() { posted_.store(posted_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

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
    } else if (!look_out(lock)) {
      work_.wait(lock);
    }
  }
}

// Looks out for work for a while, without the lock, which is held on entry and on return. False: none has come.
bool Scheduler::look_out(std::unique_lock<std::mutex>& lock) {
  const uint32_t seen = posted_.load(std::memory_order_relaxed);
  const auto nothing = [&] { return posted_.load(std::memory_order_relaxed) == seen; };
  lock.unlock();
  const int64_t until = now_nanoseconds() + kLookOutNanoseconds;
  while (nothing() && now_nanoseconds() < until) {
    for (int i = 0; i < kLooks && nothing(); i++) pause_briefly();
    if (nothing()) sched_yield();
  }
  lock.lock();
  return !nothing();
}

// Begins the head operation of a stream: marks are done here, the rest is cut into tasks.
void Scheduler::begin(na_stream* stream, std::unique_lock<std::mutex>& lock) {
  na_operation* operation = take_head(stream);
  lock.unlock();

  std::unique_ptr<Job> job;
  int64_t tasks = 0;
  if (!Cancel(operation->cancelled).requested()) {
    switch (operation->kind) {
      case NA_OP_ATTENTION:
        job = attention_job(*static_cast<const na_attention*>(operation->args), isa_, threads_);
        break;
      case NA_OP_MERGE: job = merge_job(*static_cast<const na_merge*>(operation->args)); break;
      case NA_OP_COPY: job = copy_job(*static_cast<const na_copy*>(operation->args)); break;
      case NA_OP_APPEND: job = append_job(*static_cast<const na_append*>(operation->args)); break;
      case NA_OP_COPY_ROWS: job = copy_rows_job(*static_cast<const na_copy_rows*>(operation->args)); break;
      case NA_OP_ROTATE: job = rotate_job(*static_cast<const na_rotate*>(operation->args)); break;
      case NA_OP_BUILD: job = build_job(*static_cast<const na_build*>(operation->args)); break;
      case NA_OP_INSPECT: job = inspect_job(*static_cast<const na_inspect*>(operation->args)); break;
      case NA_OP_POOL: job = pool_job(*static_cast<const na_pool*>(operation->args)); break;
      case NA_OP_SELECT: job = select_job(*static_cast<const na_select*>(operation->args), isa_); break;
      case NA_OP_REFLECT: job = reflect_job(*static_cast<const na_reflect*>(operation->args), isa_); break;
      case NA_OP_AVERAGE: job = average_job(*static_cast<const na_average*>(operation->args)); break;
      case NA_OP_RETRIEVE: job = retrieve_job(*static_cast<const na_retrieve*>(operation->args), isa_); break;
      case NA_OP_LINK: job = link_job(*static_cast<const na_link*>(operation->args), isa_); break;
      case NA_OP_MARK: mark(operation); break;
      default: break;  // no others come to the CPU: its memory is allocated zeroed, its graphs are replayed
    }
    if (job) tasks = job->prepare();
  }

  if (tasks > 0) {
    lock.lock();
    active_.push_back(new Active{stream, operation, std::move(job), tasks, 0, 0});
    if (tasks > 1) {
      post();
      work_.notify_all();
    }
    return;
  }
  job.reset();
  lock.lock();
  finish(stream, operation, lock);
}

// Runs one task of the operation at the front of the line. The lock is held on entry and on return.
void Scheduler::run_task(Active* active, Scratch& scratch, std::unique_lock<std::mutex>& lock) {
  const int64_t task = active->next++;
  active->running++;
  active_.pop_front();
  if (active->next < active->tasks) active_.push_back(active);  // concurrent streams take turns
  if (scratch.bytes < reserved_) {
    free(scratch.data);
    scratch = {fresh_scratch_.back(), reserved_};
    fresh_scratch_.pop_back();
  }
  lock.unlock();
  const Cancel cancel(active->operation->cancelled);
  if (!cancel.requested()) active->job->run(task, scratch.data, cancel);
  lock.lock();
  active->running--;
  if (active->running != 0 || active->next != active->tasks) return;
  lock.unlock();
  const int64_t more = cancel.requested() ? 0 : active->job->more();
  lock.lock();
  if (more == 0 || cancel.requested()) {  // asked again: from here on drain() finds it
    end(active, lock);
    return;
  }
  active->tasks += more;
  active_.push_back(active);
  post();
  work_.notify_all();
}

// All tasks of an operation have ended. The lock is held on entry and on return.
void Scheduler::end(Active* active, std::unique_lock<std::mutex>& lock) {
  na_stream* const stream = active->stream;
  na_operation* const operation = active->operation;
  lock.unlock();
  delete active;  // before `done`: the job reads what the operation names
  lock.lock();
  finish(stream, operation, lock);
}

int64_t Scheduler::drain(na_stream* stream) {
  std::unique_lock<std::mutex> lock(mutex_);
  int64_t ended = 0;
  const auto active = std::find_if(active_.begin(), active_.end(), [&](Active* a) { return a->stream == stream; });
  if (active != active_.end()) {
    Active* stopped = *active;
    active_.erase(active);
    stopped->next = stopped->tasks;  // the threads that still run a task of it will end it
    if (stopped->running == 0) {
      end(stopped, lock);
      ended++;
    }
  }
  for (;;) {
    // finish() has put the stream in line if there is more that could begin.
    const auto place = std::find(ready_.begin(), ready_.end(), stream);
    if (place == ready_.end()) return ended;
    ready_.erase(place);
    na_operation* operation = take_head(stream);
    finish(stream, operation, lock);
    ended++;
  }
}

// Lets the next operation of the stream begin and calls `done`, for the operations of a stream in their order; those
// that wait for one of them begin after its `done`, so that whoever learns of their end finds it done too. In `done` a
// thread may be held up by the JavaScript that it wakes, on its processor: the stream need not wait for that. The lock
// is held on entry and on return.
void Scheduler::finish(na_stream* stream, na_operation* operation, std::unique_lock<std::mutex>& lock) {
  stream->busy = false;
  post();  // more is likely to come soon
  make_ready(stream);
  stream->ended.push_back(operation);
  if (stream->telling) return;
  stream->telling = true;
  while (!stream->ended.empty()) {
    na_operation* next = stream->ended.front();
    stream->ended.pop_front();
    lock.unlock();
    next->done(next, nullptr);
    lock.lock();
    stream->completed++;
    release_waiters(stream);
  }
  stream->telling = false;
  if (stream->destroyed && !stream->busy) delete stream;
}

// Lets go the operations that waited for what the stream has completed. The lock is held.
void Scheduler::release_waiters(na_stream* stream) {
  auto& waiters = stream->waiters;
  while (!waiters.empty() && waiters.front().sequence <= stream->completed) {
    const na_stream::Waiter waiter = waiters.front();
    std::pop_heap(waiters.begin(), waiters.end());
    waiters.pop_back();
    set_waits(waiter.operation, waits_of(waiter.operation) - 1);
    make_ready(waiter.stream);
  }
}

}  // namespace na::cpu
