#include "stream.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "device.h"
#include "error.h"
#include "standin.h"

using namespace standin;

namespace {

std::mutex streams_mutex;
std::set<CUstream_st*>& streams() {
  static auto* all = new std::set<CUstream_st*>();  // never destroyed: threads may outlive static objects
  return *all;
}

CUstream_st& default_stream() {
  static CUstream_st* made[kMostDevices] = {};
  const std::lock_guard<std::mutex> lock(streams_mutex);
  CUstream_st*& stream = made[current_device()];
  if (!stream) {
    stream = new CUstream_st(current_device(), 0);
    streams().insert(stream);
  }
  return *stream;
}

// Whoever submits more than that waits, as for a device.
constexpr size_t kMostPending = 1024;

thread_local size_t longest_queue = 0;

double now() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

CUstream_st::CUstream_st(int of, unsigned how) : device(of), flags(how), thread_([this] { run(); }) {}

CUstream_st::~CUstream_st() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CUstream_st::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Work work = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    work();
    work = nullptr;  // what it holds is given up before others learn that it has ended
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

void CUstream_st::submit(Work work) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return queue_.size() < kMostPending; });
    queue_.push_back(std::move(work));
    longest_queue = std::max(longest_queue, queue_.size());
  }
  changed_.notify_all();
}

bool CUstream_st::idle() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return queue_.empty() && !busy_;
}

void CUstream_st::drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
}

void CUevent_st::Mark::reach() {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    reached = true;
    milliseconds = now();
  }
  changed.notify_all();
}

void CUevent_st::Mark::wait() {
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [this] { return reached; });
}

namespace standin {

CUstream_st* find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread) return &default_stream();
  const std::lock_guard<std::mutex> lock(streams_mutex);
  return streams().count(handle) > 0 ? handle : nullptr;
}

void enqueue(CUstream_st& stream, Work work) {
  if (stream.capture) {
    stream.capture->work.push_back(std::move(work));
  } else {
    stream.submit(std::move(work));
  }
}

void drain_device() {
  std::vector<CUstream_st*> all;
  {
    const std::lock_guard<std::mutex> lock(streams_mutex);
    all.assign(streams().begin(), streams().end());
  }
  for (CUstream_st* stream : all) {
    if (stream->device == current_device()) stream->drain();
  }
}

}  // namespace standin

uint64_t standin_longest_queue(void) { return std::exchange(longest_queue, 0); }

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  STANDIN_ALIVE();
  if (!stream || (flags & ~unsigned{cudaStreamNonBlocking}) != 0) return finish(cudaErrorInvalidValue);
  *stream = new CUstream_st(current_device(), flags);
  const std::lock_guard<std::mutex> lock(streams_mutex);
  streams().insert(*stream);
  return finish(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    const std::lock_guard<std::mutex> lock(streams_mutex);
    if (streams().erase(stream) == 0) return finish(cudaErrorInvalidResourceHandle);
  }
  delete stream;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  CUstream_st* stream = find_stream(handle);
  if (!stream) return finish(cudaErrorInvalidResourceHandle);
  if (stream->capture) return finish(cudaErrorStreamCaptureUnsupported);
  stream->drain();
  return finish(failure_of(stream->device));
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream) return finish(cudaErrorInvalidResourceHandle);
  if (stream->capture) return finish(cudaErrorStreamCaptureUnsupported);
  return finish(stream->idle() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  CUstream_st* stream = find_stream(handle);
  if (!stream || !device) return finish(cudaErrorInvalidResourceHandle);
  *device = stream->device;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  CUstream_st* stream = find_stream(handle);
  if (!stream || !flags) return finish(cudaErrorInvalidResourceHandle);
  *flags = stream->flags;
  return finish(cudaSuccess);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream || !event) return finish(cudaErrorInvalidResourceHandle);
  if (event->capture) {  // the stream joins the capture
    if (stream->capture && stream->capture != event->capture) return finish(cudaErrorStreamCaptureUnsupported);
    stream->capture = event->capture;
  } else if (event->mark) {
    enqueue(*stream, [mark = event->mark] { mark->wait(); });
  }
  return finish(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream || !function) return finish(cudaErrorInvalidValue);
  enqueue(*stream, [function, data, device = stream->device] {
    if (failure_of(device) == cudaSuccess) function(data);  // as on a device, not called after an error
  });
  return finish(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize() {
  drain_device();
  return finish(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  STANDIN_ALIVE();
  if (!event) return finish(cudaErrorInvalidValue);
  *event = new CUevent_st();
  (*event)->device = current_device();
  return finish(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (!event) return finish(cudaErrorInvalidResourceHandle);
  delete event;
  return finish(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream || !event || event->device != stream->device) return finish(cudaErrorInvalidResourceHandle);
  event->capture = stream->capture;
  if (!stream->capture) {
    event->mark = std::make_shared<CUevent_st::Mark>();
    stream->submit([mark = event->mark] { mark->reach(); });
  }
  return finish(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  STANDIN_ALIVE();
  if (!event) return finish(cudaErrorInvalidResourceHandle);
  if (!event->mark) return finish(cudaSuccess);
  const std::lock_guard<std::mutex> lock(event->mark->mutex);
  if (failure_of(event->device) != cudaSuccess) return finish(failure_of(event->device));
  return finish(event->mark->reached ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (!event) return finish(cudaErrorInvalidResourceHandle);
  if (event->mark) event->mark->wait();
  const cudaError_t failure = failure_of(event->device);
  return finish(failure);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  STANDIN_ALIVE();
  if (!milliseconds || !start || !end || !start->mark || !end->mark) return finish(cudaErrorInvalidResourceHandle);
  for (const auto& mark : {start->mark, end->mark}) {
    const std::lock_guard<std::mutex> lock(mark->mutex);
    if (!mark->reached) return finish(cudaErrorNotReady);
  }
  *milliseconds = static_cast<float>(end->mark->milliseconds - start->mark->milliseconds);
  return finish(cudaSuccess);
}

}  // extern "C"
