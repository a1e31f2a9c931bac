#include "cuda/device.h"

#include <cmath>
#include <memory>

namespace na::cuda {
namespace {

// The oldest architecture that kernels are built for.
constexpr int kOldestMajor = 8;

// From here on times are counted from a newer event: single precision keeps a tenth of a microsecond of a second.
constexpr float kFarMilliseconds = 1000;

const std::vector<std::unique_ptr<Device>>& devices() {
  static const auto* const all = [] {
    auto* found = new std::vector<std::unique_ptr<Device>>;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    for (int i = 0; i < count; i++) {
      cudaDeviceProp properties;
      if (cudaGetDeviceProperties(&properties, i) != cudaSuccess || properties.major < kOldestMajor) continue;
      found->push_back(std::make_unique<Device>(i, properties));
    }
    cudaGetLastError();
    return found;
  }();
  return *all;
}

}  // namespace

Device::Device(int ordinal, const cudaDeviceProp& properties)
    : ordinal(ordinal),
      name(properties.name),
      major(properties.major),
      minor(properties.minor),
      multiprocessors(properties.multiProcessorCount),
      memory_bytes(static_cast<int64_t>(properties.totalGlobalMem)) {}

int32_t Device::count() { return static_cast<int32_t>(devices().size()); }
Device& Device::at(int32_t index) { return *devices()[static_cast<size_t>(index)]; }

Status Device::status() const {
  if (!failed_.load(std::memory_order_acquire)) return {};
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

// There is no list of the errors that end a context, and some of them are told by any call that comes next. So another
// call is asked, one that cannot fail by itself and waits for nothing.
Status Device::check(cudaError_t result, const std::string& doing) {
  if (result == cudaSuccess) return {};
  cudaGetLastError();
  if (const Status before = status(); !before.ok()) return before;
  size_t free = 0, total = 0;
  const bool lost = cudaMemGetInfo(&free, &total) != cudaSuccess;
  cudaGetLastError();
  std::lock_guard<std::mutex> lock(mutex_);
  if (!failure_.ok()) return failure_;
  if (!lost) return error(NA_ERR_CUDA, "%s on cuda:%d: %s", doing.c_str(), ordinal, error_text(result).c_str());
  failure_ =
      error(NA_ERR_CUDA,
            "%s, reported after %s on cuda:%d; this device can do nothing more in this process, others and the CPU can",
            error_text(result).c_str(), doing.c_str(), ordinal);
  failed_.store(true, std::memory_order_release);
  return failure_;
}

cudaError_t Device::take_event(bool timed, cudaEvent_t* event) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<cudaEvent_t>& free = events_[timed];
    if (!free.empty()) {
      *event = free.back();
      free.pop_back();
      return cudaSuccess;
    }
  }
  return cudaEventCreateWithFlags(event, cudaEventBlockingSync | (timed ? 0u : unsigned{cudaEventDisableTiming}));
}

void Device::give_event(bool timed, cudaEvent_t event) {
  std::lock_guard<std::mutex> lock(mutex_);
  events_[timed].push_back(event);
}

// Times are told as the single-precision milliseconds between two events. The first event is the origin; one that is
// far from the current base becomes the new base, so that what lies close together is told exactly, for days.
cudaError_t Device::time_of(cudaEvent_t* event, int64_t* nanoseconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  float milliseconds = 0;
  const cudaError_t result = base_ ? cudaEventElapsedTime(&milliseconds, base_, *event) : cudaSuccess;
  if (result != cudaSuccess) return result;
  *nanoseconds = base_nanoseconds_ + std::llround(double{milliseconds} * 1e6);
  if (!base_ || milliseconds > kFarMilliseconds) {
    std::swap(base_, *event);
    base_nanoseconds_ = *nanoseconds;
  }
  return cudaSuccess;
}

std::string error_text(cudaError_t result) {
  return std::string(cudaGetErrorString(result)) + " (" + cudaGetErrorName(result) + ")";
}

}  // namespace na::cuda
