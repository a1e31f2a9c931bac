#include "cuda/stream.h"

#include <algorithm>
#include <thread>

#include "cuda/operation.h"

namespace na::cuda {
namespace {

bool is_cancelled(const na_operation& operation) {
  return operation.cancelled && __atomic_load_n(operation.cancelled, __ATOMIC_RELAXED) != 0;
}

}  // namespace

Status Event::make(Device& device, bool timed, std::shared_ptr<Event>* event) {
  std::shared_ptr<Event> made(new Event);
  const unsigned flags = cudaEventBlockingSync | (timed ? 0u : unsigned{cudaEventDisableTiming});
  cudaError_t status = device.select();
  if (status == cudaSuccess) status = cudaEventCreateWithFlags(&made->handle, flags);
  if (status != cudaSuccess) {
    made->handle = nullptr;
    return cuda_error(status, "an event");
  }
  *event = std::move(made);
  return {};
}

Status Stream::open(Device& device, std::shared_ptr<Stream>* stream) {
  NA_TRY(device.status());
  std::shared_ptr<Stream> made(new Stream(device));
  cudaError_t status = device.select();
  if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&made->stream_, cudaStreamNonBlocking);
  if (status != cudaSuccess) {
    made->stream_ = nullptr;
    return cuda_error(status, "a stream");
  }
  std::thread([made] { made->finish_issued(); }).detach();
  *stream = std::move(made);
  return {};
}

Stream::~Stream() {
  if (stream_ && device_.select() == cudaSuccess) cudaStreamDestroy(stream_);
}

void Stream::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

bool Stream::has_issued(uint64_t sequence) {
  std::lock_guard<std::mutex> lock(mutex_);
  return issued_count_ >= sequence;
}

std::shared_ptr<Event> Stream::event_at(uint64_t sequence) {
  std::lock_guard<std::mutex> lock(mutex_);
  // Of an operation that has no event, since it was not enqueued, the one before it speaks.
  std::shared_ptr<Event> event;
  for (const Issued& issued : issued_) {
    if (issued.sequence > sequence) break;
    if (issued.event) event = issued.event;
  }
  return event;
}

void Stream::wait_until_issued(uint64_t sequence) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return issued_count_ >= sequence; });
}

void Stream::submit(na_operation* operation, const na_wait* waits, int32_t wait_count) {
  Queued queued{operation, {}};
  bool ready = true;
  for (int32_t i = 0; i < wait_count; i++) {
    queued.waits.push_back({waits[i].stream->stream, waits[i].sequence});
    ready &= queued.waits.back().stream->has_issued(waits[i].sequence);
  }
  ready &= !needs_host(*operation);
  std::unique_lock<std::mutex> lock(mutex_);
  if (ready && queue_.empty() && !busy_) {
    busy_ = true;
    lock.unlock();
    issue(queued);
    lock.lock();
    busy_ = false;
  } else {
    queue_.push_back(std::move(queued));
  }
  if (!queue_.empty() && !busy_ && !issuing_) {
    issuing_ = true;
    std::thread([self = shared_from_this()] { self->issue_queued(); }).detach();
  }
  lock.unlock();
  changed_.notify_all();
}

void Stream::issue(const Queued& queued) {
  na_operation* const operation = queued.operation;
  Issued issued{operation, 0, nullptr, {}, is_cancelled(*operation)};
  if (!issued.cancelled) {
    issued.status = device_.status();
    if (issued.status.ok()) {
      const bool timed = operation->kind == NA_OP_MARK && static_cast<const na_mark*>(operation->args)->nanoseconds;
      issued.status = Event::make(device_, timed, &issued.event);
    }
    if (issued.event) {
      issued.status = enqueue_on_device(queued);
      // Also behind what failed half-way: its part that runs is over when the event is reached.
      const cudaError_t recorded = cudaEventRecord(issued.event->handle, stream_);
      if (recorded != cudaSuccess) {
        issued.event = nullptr;
        if (issued.status.ok()) issued.status = judge(recorded, kind_name(operation->kind));
      }
    }
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    issued.sequence = ++issued_count_;
    issued_.push_back(std::move(issued));
  }
  changed_.notify_all();
}

Status Stream::enqueue_on_device(const Queued& queued) {
  const na_operation& operation = *queued.operation;
  for (const Wait& wait : queued.waits) {
    const std::shared_ptr<Event> event = wait.stream->event_at(wait.sequence);
    if (!event) continue;
    const cudaError_t status = cudaStreamWaitEvent(stream_, event->handle, 0);
    if (status != cudaSuccess) return judge(status, "a wait");
  }
  if (needs_host(operation)) {
    const Status carried = staging_.carry(*static_cast<const na_copy*>(operation.args), operation.cancelled, stream_);
    if (!carried.ok() && device_.lost(stream_)) return device_.fail(cudaStreamQuery(stream_), "a copy");
    return carried;
  }
  const cudaError_t status = enqueue(device_, operation, stream_);
  return status == cudaSuccess ? Status{} : judge(status, kind_name(operation.kind));
}

Status Stream::judge(cudaError_t failure, const char* during) {
  return device_.lost(stream_) ? device_.fail(failure, during) : cuda_error(failure, during);
}

void Stream::issue_queued() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closed_ || (!queue_.empty() && !busy_); });
    if (queue_.empty()) return;
    const Queued queued = queue_.front();
    lock.unlock();
    for (const Wait& wait : queued.waits) wait.stream->wait_until_issued(wait.sequence);
    issue(queued);
    lock.lock();
    queue_.pop_front();
  }
}

void Stream::finish_issued() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closed_ || !issued_.empty(); });
    if (issued_.empty()) return;
    // It stays in the list until it is done, for others to wait for.
    Issued issued = issued_.front();
    lock.unlock();
    na_operation* const operation = issued.operation;
    const char* const name = kind_name(operation->kind);
    if (issued.event) {
      const cudaError_t ended = cudaEventSynchronize(issued.event->handle);
      if (ended != cudaSuccess) issued.status = device_.fail(ended, name);
      if (operation->kind == NA_OP_MARK && issued.status.ok()) {
        int64_t* const nanoseconds = static_cast<const na_mark*>(operation->args)->nanoseconds;
        if (nanoseconds) issued.status = device_.clock(&issued.event->handle, nanoseconds);
      }
    }
    lock.lock();
    issued_.pop_front();
    lock.unlock();
    na_error failure{};
    operation->done(operation, put(issued.status, &failure) == NA_OK ? nullptr : &failure);
    lock.lock();
  }
}

}  // namespace na::cuda
