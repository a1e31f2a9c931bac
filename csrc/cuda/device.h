// The devices that this backend can use, and the first error of each. Process-wide, never destroyed.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <string>
#include <vector>

#include "core/status.h"
#include "cuda/memory.h"

namespace na::cuda {

class Device {
 public:
  // Those of compute capability 8.0 and newer; their place in this list is their number in the table.
  static const std::vector<Device*>& all();
  static Device& at(int32_t index) { return *all()[static_cast<size_t>(index)]; }
  // The device of an ordinal of CUDA.
  static Device* of_ordinal(int ordinal);

  // Makes it the current one of this thread, on which CUDA's calls act.
  cudaError_t select() const { return cudaSetDevice(ordinal); }

  // What every call asks first. After an error that leaves the device unusable it is that error, with what it was
  // noticed at; CUDA would repeat the error without saying where it came from.
  Status status();
  Status fail(cudaError_t failure, const char* during);

  // Whether the device answers at all: tells an error of one call from one that stays.
  bool lost(cudaStream_t stream) const;

  // Nanoseconds by the device's clock at an event that has been reached and was recorded with timing. The event may be
  // kept, to measure later ones from: float milliseconds are exact to the microsecond over seconds only.
  Status clock(cudaEvent_t* event, int64_t* nanoseconds);

  const int ordinal;
  cudaDeviceProp properties{};
  Pool memory, pinned;

 private:
  explicit Device(int device);
  Status start_clock();

  std::mutex mutex_;  // guards what follows
  Status status_;
  cudaEvent_t base_ = nullptr;
  int64_t base_nanoseconds_ = 0;
};

// A message of CUDA as a status: ERR_OUT_OF_MEMORY or ERR_CUDA.
Status cuda_error(cudaError_t failure, const char* during);

// Puts a status into the table's form and returns its code.
int put(const Status& status, na_error* error);

}  // namespace na::cuda
