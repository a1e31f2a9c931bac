// Between a stream and its backend. An operation may be handed to the backend at once when the backend itself can order
// it after all it waits for; otherwise the gate holds it back, and with it all later operations of the stream, until
// the points it waits for have been reached.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "core/operation.h"

namespace na {

// "All up to and including the sequence-th operation of the timeline"; the timeline outlives the call it is passed to.
struct Wait {
  Timeline* timeline;
  uint64_t sequence;
};

class Gate : public RefCounted {
 public:
  Gate(const na_backend* backend, Ref<Timeline> timeline) : backend_(backend), timeline_(std::move(timeline)) {}

  // On the JavaScript thread, in the order of the stream, as long as nothing is held.
  void hand(Operation* operation, uint64_t sequence, const std::vector<na_wait>& waits) {
    submit(operation, sequence, waits.data(), static_cast<int32_t>(waits.size()));
  }

  // On the JavaScript thread, in the order of the stream. The thread that reaches the last of the points hands the
  // operation on. By then nothing is left for the backend to wait for; so it is given no streams, which might have
  // ended meanwhile.
  void hold(Operation* operation, uint64_t sequence, const std::vector<Wait>& waits);

  // For operations that have been cancelled, and so touch nothing: hands them all on.
  void open();
  // Blocks until no thread is inside the backend on behalf of this gate. Nothing may be held.
  void join();

 private:
  class Arrival;
  struct Held {
    Operation* operation;
    uint64_t sequence, waits;
  };

  void submit(Operation* operation, uint64_t sequence, const na_wait* waits, int32_t wait_count) {
    operation->give_up_if_worthless();
    backend_->submit(timeline_->stream, operation, waits, wait_count);
    timeline_->set_handed(sequence);
  }
  void arrive(uint64_t sequence);
  void pass(std::unique_lock<std::mutex>& lock);

  const na_backend* const backend_;
  const Ref<Timeline> timeline_;
  std::mutex mutex_;  // never held while the backend is called: it may call `done`, and that other gates
  std::condition_variable passed_;
  std::deque<Held> held_;
  bool passing_ = false;  // a thread hands operations on: the one that does so for all others
};

}  // namespace na
