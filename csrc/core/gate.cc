#include "core/gate.h"

namespace na {

// One point that a held operation waits for. It may come when the stream has ended (see open), so it keeps the gate.
class Gate::Arrival final : public Listener {
 public:
  Arrival(Gate* gate, uint64_t sequence) : gate_(gate), sequence_(sequence) {}
  void reached(const Status&) override {
    gate_->arrive(sequence_);
    delete this;
  }

 private:
  const Ref<Gate> gate_;
  const uint64_t sequence_;
};

void Gate::hold(Operation* operation, uint64_t sequence, const std::vector<Wait>& waits) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    held_.push_back({operation, sequence, waits.size() + 1});  // the last is this function's
  }
  for (const Wait& wait : waits) wait.timeline->listen(wait.sequence, new Arrival(this, sequence));
  arrive(sequence);
}

void Gate::arrive(uint64_t sequence) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (held_.empty() || sequence < held_.front().sequence) return;  // open() did not wait for it
  uint64_t& waits = held_[static_cast<size_t>(sequence - held_.front().sequence)].waits;
  if (waits > 0) waits--;
  pass(lock);
}

void Gate::open() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (Held& held : held_) held.waits = 0;
  pass(lock);
}

void Gate::pass(std::unique_lock<std::mutex>& lock) {
  if (passing_) return;
  passing_ = true;
  while (!held_.empty() && held_.front().waits == 0) {
    const Held next = held_.front();
    held_.pop_front();
    lock.unlock();
    submit(next.operation, next.sequence, nullptr, 0);
    lock.lock();
  }
  passing_ = false;
  passed_.notify_all();
}

void Gate::join() {
  std::unique_lock<std::mutex> lock(mutex_);
  passed_.wait(lock, [&] { return !passing_; });
}

}  // namespace na
