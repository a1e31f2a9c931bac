#include "cuda/device.h"

#include <cstdio>
#include <cstring>

namespace na::cuda {
namespace {

// A measurement further from its base than this renews the base: a float then still has 60 nanoseconds.
constexpr float kFarMilliseconds = 1000;

}  // namespace

const std::vector<Device*>& Device::all() {
  static const auto* const devices = [] {
    auto* found = new std::vector<Device*>;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    for (int i = 0; i < count; i++) {
      cudaDeviceProp properties;
      if (cudaGetDeviceProperties(&properties, i) != cudaSuccess || properties.major < 8) continue;
      found->push_back(new Device(i));
    }
    return found;
  }();
  return *devices;
}

Device* Device::of_ordinal(int ordinal) {
  for (Device* device : all()) {
    if (device->ordinal == ordinal) return device;
  }
  return nullptr;
}

Device::Device(int device) : ordinal(device), memory(device, false), pinned(device, true) {
  cudaGetDeviceProperties(&properties, device);
  memory.limit(static_cast<int64_t>(properties.totalGlobalMem) / 4);
}

Status Device::status() {
  std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

Status Device::fail(cudaError_t failure, const char* during) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (status_.ok()) {
    status_ = error(NA_ERR_CUDA, "%s (%s), noticed after %s; the device can do nothing more in this process",
                    cudaGetErrorString(failure), cudaGetErrorName(failure), during);
  }
  return status_;
}

bool Device::lost(cudaStream_t stream) const {
  cudaGetLastError();
  const cudaError_t now = cudaStreamQuery(stream);
  return now != cudaSuccess && now != cudaErrorNotReady;
}

Status Device::start_clock() {
  cudaStream_t stream;
  cudaError_t made = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (made != cudaSuccess) return cuda_error(made, "a stream");
  made = cudaEventCreate(&base_);
  if (made == cudaSuccess) made = cudaEventRecord(base_, stream);
  if (made == cudaSuccess) made = cudaEventSynchronize(base_);  // on a stream of its own, which holds nothing else
  cudaStreamDestroy(stream);
  return made == cudaSuccess ? Status{} : cuda_error(made, "an event");
}

Status Device::clock(cudaEvent_t* event, int64_t* nanoseconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!base_) NA_TRY(start_clock());
  float milliseconds = 0;
  const cudaError_t measured = cudaEventElapsedTime(&milliseconds, base_, *event);
  if (measured != cudaSuccess) return cuda_error(measured, "an event");
  *nanoseconds = base_nanoseconds_ + static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6);
  if (milliseconds > kFarMilliseconds) {
    std::swap(base_, *event);
    base_nanoseconds_ = *nanoseconds;
  }
  return {};
}

Status cuda_error(cudaError_t failure, const char* during) {
  const na_code code = failure == cudaErrorMemoryAllocation ? NA_ERR_OUT_OF_MEMORY : NA_ERR_CUDA;
  return error(code, "%s: %s (%s)", during, cudaGetErrorString(failure), cudaGetErrorName(failure));
}

int put(const Status& status, na_error* error) {
  if (status.ok()) return NA_OK;
  error->code = status.code;
  snprintf(error->message, sizeof(error->message), "%s", status.message.c_str());
  return status.code;
}

}  // namespace na::cuda
