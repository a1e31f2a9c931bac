#include "core/timeline.h"

#include <vector>

namespace na {

void Timeline::advance(const na_error* failure) {
  std::vector<Listener*> due;
  Status status;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure && status_.ok()) {
      status_ = Status::from(*failure);
      failed_.store(true, std::memory_order_release);
    }
    status = status_;
    const uint64_t now = completed_.load(std::memory_order_relaxed) + 1;
    completed_.store(now, std::memory_order_release);
    while (!waiting_.empty() && waiting_.front().sequence <= now) {
      due.push_back(waiting_.front().listener);
      waiting_.pop_front();
    }
    reached_.notify_all();
  }
  for (Listener* listener : due) listener->reached(status);
}

void Timeline::listen(uint64_t sequence, Listener* listener) {
  Status status;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (completed_.load(std::memory_order_relaxed) < sequence) {
      auto place = waiting_.end();
      while (place != waiting_.begin() && (place - 1)->sequence > sequence) --place;
      waiting_.insert(place, {sequence, listener});
      return;
    }
    status = status_;
  }
  listener->reached(status);
}

void Timeline::join(uint64_t sequence) {
  std::unique_lock<std::mutex> lock(mutex_);
  reached_.wait(lock, [&] { return completed_.load(std::memory_order_relaxed) >= sequence; });
}

Status Timeline::status() const {
  if (!failed_.load(std::memory_order_acquire)) return {};
  std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

}  // namespace na
