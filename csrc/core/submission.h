// What one call enqueues: several operations, all of them or none.
#pragma once

#include <functional>
#include <vector>

#include "core/stream.h"

namespace na {

// Used within one call, by the thread of its stream.
class Submission {
 public:
  explicit Submission(Stream* stream) : stream(stream) {}
  Submission(const Submission&) = delete;
  Submission& operator=(const Submission&) = delete;
  // What has not run by now never will.
  ~Submission() { settle(false); }

  // Takes the operation over, which follows those added before.
  void add(Operation* operation) { operations_.push_back(operation); }
  // Is called once, with whether the operations were enqueued: for what has to be kept in mind then, or given back.
  void then(std::function<void(bool enqueued)> action) { actions_.push_back(std::move(action)); }

  // Enqueues all of them, or none if one is refused.
  Status run();
  // The two halves of it, for a call on several streams: once all of its submissions are prepared, none is refused.
  Status prepare();
  void enqueue();

  Stream* const stream;

 private:
  void settle(bool enqueued);

  std::vector<Operation*> operations_;
  std::vector<std::function<void(bool)>> actions_;
};

}  // namespace na
