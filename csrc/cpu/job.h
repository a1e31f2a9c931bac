// What the thread pool runs: an operation cut into tasks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace na::cpu {

// True once the environment that asked for the work is going away; looked at once per tile.
class Cancel {
 public:
  explicit Cancel(const int32_t* flag) : flag_(flag) {}
  bool requested() const { return __atomic_load_n(flag_, __ATOMIC_RELAXED) != 0; }

 private:
  const int32_t* flag_;
};

class Job {
 public:
  virtual ~Job() = default;

  // Called once, on a pool thread, when all that the job reads has been written. Returns the number of tasks.
  virtual int64_t prepare() = 0;

  // Runs one of the tasks, counted from 0, on any pool thread, tasks in ascending order of start and several at
  // once. `scratch` is this thread's own memory, 64-byte aligned, of at least the bytes asked for by scratch_bytes.
  virtual void run(int64_t task, void* scratch, const Cancel& cancel) = 0;

  // Called by one thread each time that all tasks so far have ended: how many more follow, which are numbered on from
  // them and may read what they wrote.
  virtual int64_t more() { return 0; }
};

}  // namespace na::cpu
