// Progress of one stream: operations are numbered from 1 as they are submitted and finish in that order, so "done"
// is a comparison of two numbers.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "core/ref.h"
#include "core/status.h"

namespace na {

// Told once, from a backend thread, when a point of a timeline has been reached.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void reached(const Status& status) = 0;
};

class Timeline : public RefCounted {
 public:
  Timeline(const na_backend* backend, na_stream* stream) : backend(backend), stream(stream) {}

  bool done(uint64_t sequence) const { return completed_.load(std::memory_order_acquire) >= sequence; }
  uint64_t completed() const { return completed_.load(std::memory_order_acquire); }

  // How many operations the backend has been given; the others are held back.
  uint64_t handed() const { return handed_.load(std::memory_order_acquire); }
  void set_handed(uint64_t sequence) { handed_.store(sequence, std::memory_order_release); }

  // Called by the backend thread that finished the next operation. The first error stays.
  void advance(const na_error* failure);

  // Calls the listener when `sequence` is reached: at once, from this thread, if it has been already.
  void listen(uint64_t sequence, Listener* listener);

  // Blocks. For the end of an environment only.
  void join(uint64_t sequence);

  // OK, or the first error any operation of this stream ended with.
  Status status() const;

  const na_backend* const backend;
  na_stream* const stream;  // the backend's; valid while operations are outstanding

 private:
  struct Waiting {
    uint64_t sequence;
    Listener* listener;
  };
  mutable std::mutex mutex_;
  std::condition_variable reached_;
  std::atomic<uint64_t> completed_{0}, handed_{0};
  std::deque<Waiting> waiting_;  // ascending: listeners come in the order of submission
  std::atomic<bool> failed_{false};
  Status status_;
};

// A point of a timeline: the end of one operation. Default: long past.
struct Point {
  Ref<Timeline> timeline;
  uint64_t sequence = 0;

  bool done() const { return !timeline || timeline->done(sequence); }
};

}  // namespace na
