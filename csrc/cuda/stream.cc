#include "cuda/stream.h"

#include <pthread.h>

#include <algorithm>
#include <optional>

#include "cuda/operation.h"

using na::error;
using na::cuda::operation_name;

namespace {

// Copies up to this size are gathered by the thread that submits them.
constexpr int64_t kSmall = int64_t{1} << 16;

// Pinned memory that a stream may have in pieces: one piece is on its way while the host is at another.
constexpr int64_t kMostPieceBytes = int64_t{1} << 22;

// CUDA holds about a thousand launches for a stream, or for several that share a queue of the device, and a call that
// finds no room waits. So no more of what is pending is given to it: more than a device is through with before the next
// wake-up, and far from what CUDA holds.
constexpr int64_t kMostLaunches = 256;
// What a graph counts as at most, which CUDA is given as a whole: one that follows little is launched by the calling
// thread however much it holds, and the next one while it is pending. That it then need not wait for room is how graphs
// are described, and was not seen on a device.
constexpr int64_t kMostOfGraph = kMostLaunches - 16;

bool cancelled(const na_operation& operation) {
  return operation.cancelled && __atomic_load_n(operation.cancelled, __ATOMIC_RELAXED) != 0;
}

const na_copy& copy_of(const na_operation& operation) { return *static_cast<const na_copy*>(operation.args); }

// Whether a kernel of it goes where a list of pages leads it, or what it writes is part of such a list.
bool follows_lists(const na_operation& operation) {
  switch (operation.kind) {
    case NA_OP_PUT:
    case NA_OP_APPEND: return true;
    case NA_OP_ATTENTION: return static_cast<const na_attention*>(operation.args)->pages;
    case NA_OP_POOL: return static_cast<const na_pool*>(operation.args)->pages;
    case NA_OP_SELECT: return static_cast<const na_select*>(operation.args)->pages;
    default: return false;
  }
}

int64_t* time_of(const na_operation& operation) {
  return operation.kind == NA_OP_MARK ? static_cast<const na_mark*>(operation.args)->nanoseconds : nullptr;
}

}  // namespace

na::Status na_stream::create(Device& device, na_stream** stream) {
  NA_TRY(device.status());
  NA_TRY(device.check(device.use(), "choosing the device"));
  auto* made = new na_stream(device);
  Status status = device.check(cudaStreamCreateWithFlags(&made->stream_, cudaStreamNonBlocking), "creating a stream");
  if (status.ok() && !(made->start(&na_stream::issue_waiting) && made->start(&na_stream::wait_for_issued))) {
    status = error(NA_ERR_BACKEND, "the system grants no threads for a stream");
  }
  if (status.ok()) {
    *stream = made;
  } else {
    made->destroy();
  }
  return status;
}

na_stream::~na_stream() {
  if (stream_) cudaStreamDestroy(stream_);
}

void na_stream::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

// Runs `work` in a thread that holds a reference.
bool na_stream::start(void (na_stream::*work)()) {
  struct Start {
    na_stream* stream;
    void (na_stream::*work)();
  };
  auto* of = new Start{this, work};
  retain();
  pthread_t thread;
  const auto main = [](void* argument) -> void* {
    const Start start = *static_cast<Start*>(argument);
    delete static_cast<Start*>(argument);
#ifdef __linux__
    pthread_setname_np(pthread_self(), "node-attention");
#endif
    start.stream->device_.use();
    (start.stream->*start.work)();
    start.stream->release();
    return nullptr;
  };
  if (pthread_create(&thread, nullptr, main, of) != 0) {
    delete of;
    release();
    return false;
  }
  pthread_detach(thread);
  return true;
}

void na_stream::destroy() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  issuer_.notify_one();
  waiter_.notify_one();
  release();
}

// What CUDA is given for an operation, at most: kernels, copies and the like, waits, and an event.
int64_t na_stream::launches(const na_operation& operation, int32_t wait_count) const {
  int64_t own = cancelled(operation) ? 0 : na::cuda::launches(device_, operation);
  if (operation.kind == NA_OP_LAUNCH) own = std::min(own, kMostOfGraph);
  return own + wait_count + 1;
}

// Whether nothing stands before it, nobody need be waited for, and CUDA has room for it. The mutex is held.
bool na_stream::can_issue_now(int64_t launches, const Copy* pageable, const na_wait* waits, int32_t wait_count) const {
  if (issuing_ || !waiting_.empty() || launches_ + launches > kMostLaunches) return false;
  for (int32_t i = 0; i < wait_count; i++) {
    if (waits[i].stream->issued_up_to_.load(std::memory_order_acquire) < waits[i].sequence) return false;
  }
  if (!pageable) return true;
  const int64_t bytes = pageable->piece_bytes(pageable->elements());
  return bytes <= (pageable->to_host() ? kMostPieceBytes / 4 : kSmall) && piece_bytes_ + bytes <= kMostPieceBytes;
}

void na_stream::submit(na_operation* operation, const na_wait* waits, int32_t wait_count) {
  device_.use();
  std::optional<Copy> copy;
  if (operation->kind == NA_OP_COPY && !cancelled(*operation)) copy.emplace(device_, copy_of(*operation));
  const int64_t most = launches(*operation, wait_count);
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t sequence = ++submitted_;
  if (!can_issue_now(most, copy && copy->pageable() ? &*copy : nullptr, waits, wait_count)) {
    Waiting waiting{operation, sequence, most, std::vector<na_wait>(waits, waits + wait_count)};
    for (const na_wait& wait : waiting.waits) wait.stream->retain();
    waiting_.push_back(std::move(waiting));
    issuer_.notify_one();
    return;
  }
  if (operation->kind == NA_OP_MARK && !time_of(*operation) && wait_count == 0 && issued_.empty() && !finishing_ &&
      failed_at_ == 0 && device_.status().ok()) {
    // Nothing to do and nothing before it: no thread need be woken.
    issued_up_to_.store(sequence, std::memory_order_release);
    finishing_ = true;
    lock.unlock();
    operation->done(operation, nullptr);
    lock.lock();
    finishing_ = false;
    done_up_to_ = sequence;
    progress_.notify_all();
    waiter_.notify_one();
    return;
  }
  issuing_ = true;
  lock.unlock();
  issue({operation, sequence, most}, copy ? &*copy : nullptr, waits, wait_count);
}

// Enqueues an operation and gives up `issuing_`. The mutex is not held.
void na_stream::issue(Issued last, const Copy* copy, const na_wait* waits, int32_t wait_count) {
  const na_operation& operation = *last.operation;
  last.timed = time_of(operation) != nullptr;
  last.status = device_.status();
  if (last.status.ok() && !cancelled(operation)) {
    last.status = device_.check(device_.use(), "choosing the device");
    // Also when it is not to be enqueued: who waits for it need not wait for what it has waited for.
    if (last.status.ok()) last.status = issue_waits(operation, waits, wait_count);
    if (last.status.ok()) last.status = failure_;
    if (last.status.ok()) {
      if (copy && copy->pageable()) {
        issue_pieces(*copy, &last);
      } else if (copy) {
        last.status = device_.check(copy->enqueue(stream_), operation_name(NA_OP_COPY));
      } else if (operation.kind != NA_OP_MARK) {
        last.status = na::cuda::enqueue(device_, operation, stream_);
      }
    }
    record(&last);  // also when it failed: some of it may have been enqueued
  }
  last.waits.assign(waits, waits + wait_count);
  for (const na_wait& wait : last.waits) wait.stream->retain();
  push(std::move(last));
}

// What comes next on the CUDA stream waits for those points of other streams. Behind what could not be enqueued there
// the operation goes on, since it may not need any of that, unless there could be a list of pages among it.
na::Status na_stream::issue_waits(const na_operation& operation, const na_wait* waits, int32_t wait_count) {
  Status list;
  for (int32_t i = 0; i < wait_count; i++) {
    na_stream& other = *waits[i].stream;
    const uint64_t sequence = waits[i].sequence;
    std::unique_lock<std::mutex> lock(other.mutex_);
    other.progress_.wait(lock, [&] { return other.issued_up_to_.load(std::memory_order_relaxed) >= sequence; });
    if (other.failed_at_ != 0 && other.failed_at_ <= sequence && follows_lists(operation)) list = other.failure_;
    // The last event up to that point; one whose operation is done need not be waited for.
    auto at = std::upper_bound(other.issued_.begin(), other.issued_.end(), sequence,
                               [](uint64_t wanted, const Issued& issued) { return wanted < issued.sequence; });
    while (at != other.issued_.begin() && !(at - 1)->event) --at;
    if (at == other.issued_.begin()) continue;
    NA_TRY(device_.check(cudaStreamWaitEvent(stream_, (at - 1)->event, 0), "waiting for another stream"));
  }
  return list;
}

// Enqueues the pieces of a copy with pageable memory; the last one is left to be pushed.
void na_stream::issue_pieces(const Copy& copy, Issued* last) {
  const int64_t most = copy.piece_elements();
  for (int64_t first = 0; first < copy.elements(); first += most) {
    Issued piece{last->operation, last->sequence, last->launches};
    piece.last = false;
    piece.first = first;
    piece.end = std::min(first + most, copy.elements());
    piece.piece_bytes = copy.piece_bytes(piece.end - first);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      progress_.wait(lock, [&] { return piece_bytes_ + piece.piece_bytes <= kMostPieceBytes; });
      piece_bytes_ += piece.piece_bytes;
    }
    const bool stop = cancelled(*piece.operation);
    if (!stop) piece.status = na::cuda::allocate(device_, piece.piece_bytes, na::cuda::Use::kStaging, &piece.piece);
    if (piece.piece) {
      if (!copy.to_host()) copy.gather(piece.first, piece.end, piece.piece);
      piece.status = device_.check(copy.enqueue_piece(piece.first, piece.end, piece.piece, stream_), "copy");
    }
    piece.last = stop || !piece.status.ok() || piece.end == copy.elements();
    if (!piece.last) {
      record(&piece);
      piece.last = !piece.status.ok();  // so that the error is told
    }
    if (piece.last) {
      *last = std::move(piece);
      return;
    }
    push(std::move(piece));
  }
}

// Puts an event behind what was enqueued.
void na_stream::record(Issued* issued) {
  cudaError_t result = device_.take_event(issued->timed, &issued->event);
  if (result == cudaSuccess) result = cudaEventRecord(issued->event, stream_);
  Status status = device_.check(result, operation_name(issued->operation->kind));
  if (status.ok()) return;
  // Without an event nobody could tell when the memory of what was enqueued is free again; this happens only when the
  // device is lost or the system has no memory left.
  cudaStreamSynchronize(stream_);
  if (issued->event) device_.give_event(issued->timed, issued->event);
  issued->event = nullptr;
  if (issued->status.ok()) issued->status = std::move(status);
}

// From here on the operation belongs to the thread that waits.
void na_stream::push(Issued issued) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (issued.last) {
    if (!issued.status.ok() && failed_at_ == 0) {
      failed_at_ = issued.sequence;
      failure_ = issued.status;
    }
    issued_up_to_.store(issued.sequence, std::memory_order_release);
    issuing_ = false;
    if (!waiting_.empty()) issuer_.notify_one();
    progress_.notify_all();
  }
  launches_ += issued.launches;
  issued_.push_back(std::move(issued));
  waiter_.notify_one();
}

void na_stream::issue_waiting() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    issuer_.wait(lock, [&] { return ending_ || (!waiting_.empty() && !issuing_ && launches_ < kMostLaunches); });
    if (waiting_.empty()) return;
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    issuing_ = true;
    lock.unlock();
    std::optional<Copy> copy;
    if (next.operation->kind == NA_OP_COPY && !cancelled(*next.operation)) {
      copy.emplace(device_, copy_of(*next.operation));
    }
    issue({next.operation, next.sequence, next.launches}, copy ? &*copy : nullptr, next.waits.data(),
          static_cast<int32_t>(next.waits.size()));
    for (const na_wait& wait : next.waits) wait.stream->release();
    lock.lock();
  }
}

void na_stream::wait_for_issued() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    waiter_.wait(lock, [&] { return !finishing_ && (ending_ || !issued_.empty()); });
    if (issued_.empty()) return;
    finishing_ = true;
    // Stays in the queue meanwhile, so that others find its event; nobody else takes from the front.
    Issued& first = issued_.front();
    lock.unlock();
    finish(first);
    lock.lock();
    Issued issued = std::move(first);
    issued_.pop_front();
    launches_ -= issued.launches;
    if (!waiting_.empty()) issuer_.notify_one();
    piece_bytes_ -= issued.piece_bytes;
    if (issued.piece_bytes) progress_.notify_all();
    lock.unlock();
    if (issued.timed && issued.event && issued.status.ok()) {
      issued.status =
          device_.check(device_.time_of(&issued.event, time_of(*issued.operation)), "reading the time of an event");
    }
    if (issued.event) device_.give_event(issued.timed, issued.event);
    if (issued.piece) na::cuda::release(device_, issued.piece_bytes, na::cuda::Use::kStaging, issued.piece);
    if (issued.last) tell(issued);
    lock.lock();
    if (issued.last) {
      done_up_to_ = issued.sequence;
      progress_.notify_all();
    }
    finishing_ = false;
  }
}

// Calls `done`: after that of all that the operation waited for, so that it is known by then what of that has failed.
// Those were submitted before it, so that nobody waits in a circle. The mutex is not held.
void na_stream::tell(const Issued& issued) {
  for (const na_wait& wait : issued.waits) {
    na_stream& other = *wait.stream;
    {
      std::unique_lock<std::mutex> lock(other.mutex_);
      other.progress_.wait(lock, [&] { return other.done_up_to_ >= wait.sequence; });
    }
    other.release();
  }
  na_error failure{};
  failure.code = issued.status.code;
  snprintf(failure.message, sizeof(failure.message), "%s", issued.status.message.c_str());
  issued.operation->done(issued.operation, issued.status.ok() ? nullptr : &failure);
}

// Waits until it is past, and does the host's part. The mutex is not held.
void na_stream::finish(Issued& issued) {
  if (issued.event) {
    const Status status = device_.check(cudaEventSynchronize(issued.event), operation_name(issued.operation->kind));
    if (issued.status.ok()) issued.status = status;
  }
  if (!issued.status.ok() || cancelled(*issued.operation)) return;
  if (issued.piece) {
    const Copy copy(device_, copy_of(*issued.operation));
    if (copy.to_host()) copy.scatter(issued.first, issued.end, issued.piece);
  }
}
