// The devices that this library has code for. Made at first use and never destroyed: worker threads and waiting threads
// may outlive everything else.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "core/pool.h"
#include "core/status.h"

namespace na::cuda {

class Device {
 public:
  Device(int ordinal, const cudaDeviceProp& properties);

  static int32_t count();
  static Device& at(int32_t index);  // index < count()

  // Makes the device that of the calling thread. Every way in from outside begins with it.
  cudaError_t use() const { return cudaSetDevice(ordinal); }

  // OK, or the error after which the device can do nothing more.
  Status status() const;

  // What `result` of a call means, NA_OK for success. An error that the device does not recover from is kept, with what
  // was being done: from then on status() is that first cause. Errors of one device leave others, and the host, alone.
  Status check(cudaError_t result, const std::string& doing);

  // Events without times, to order streams and to be waited for, and events with times. They are recycled, since to
  // make one is a call of the driver.
  cudaError_t take_event(bool timed, cudaEvent_t* event);
  void give_event(bool timed, cudaEvent_t event);

  // The device's clock when an event was recorded, in nanoseconds. The event must be past; it may be kept, and another
  // one, or none, be put in its place.
  cudaError_t time_of(cudaEvent_t* event, int64_t* nanoseconds);

  const int ordinal;
  const std::string name;
  const int major, minor, multiprocessors;
  const int64_t memory_bytes;

  Pool memory, pinned, staging;  // see memory.h

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> failed_{false};
  Status failure_;
  std::vector<cudaEvent_t> events_[2];  // by `timed`
  cudaEvent_t base_ = nullptr;
  int64_t base_nanoseconds_ = 0;
};

// "out of memory (cudaErrorMemoryAllocation)"
std::string error_text(cudaError_t result);

}  // namespace na::cuda
