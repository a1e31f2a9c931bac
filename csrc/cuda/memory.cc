#include "cuda/memory.h"

#include <algorithm>

#include "core/host_memory.h"

namespace na::cuda {
namespace {

// Above this, classes are steps of the granularity of device memory: a quarter would be too much to waste.
constexpr int64_t kLarge = int64_t{1} << 30, kLargeStep = int64_t{1} << 25;
constexpr int64_t kPinnedLimit = int64_t{1} << 28;  // what is kept of the host's memory beside a block that none fits

int64_t block_size(int64_t bytes) {
  return bytes <= kLarge ? size_class(bytes) : (bytes + kLargeStep - 1) / kLargeStep * kLargeStep;
}

Status refusal_of_pinned(int64_t size) {
  const HostMemory host = host_memory();
  const int64_t left = pinnable(host);
  if (size <= left) return error(NA_ERR_OUT_OF_MEMORY, "the system grants no more pinned memory");
  return error(NA_ERR_OUT_OF_MEMORY,
               "of the %s that the machine or the control group has, %s can be pinned now: ask for less, or end what "
               "uses the others",
               bytes_text(host.limit).c_str(), bytes_text(left).c_str());
}

// Those for pieces have a list of their own: what is pinned for others was weighed.
Pool& pool_of(Device& device, Use use) {
  switch (use) {
    case Use::kPinned: return device.pinned;
    case Use::kStaging: return device.staging;
    default: return device.memory;
  }
}

cudaError_t fresh(int64_t size, Use use, void** data) {
  static PinnedScale& scale = *new PinnedScale;  // threads outlive static destructors
  if (use == Use::kPinned && !scale.grants(size)) return cudaErrorMemoryAllocation;
  const cudaError_t result = use != Use::kDevice ? cudaHostAlloc(data, static_cast<size_t>(size), cudaHostAllocPortable)
                                                 : cudaMalloc(data, static_cast<size_t>(size));
  if (result == cudaErrorMemoryAllocation) cudaGetLastError();
  return result;
}

}  // namespace

Status allocate(Device& device, int64_t bytes, Use use, void** data) {
  NA_TRY(device.status());
  const bool pinned = use != Use::kDevice;
  Pool& pool = pool_of(device, use);
  const int64_t size = block_size(bytes);
  *data = pool.take(size);
  if (*data) return {};
  NA_TRY(device.check(device.use(), "choosing the device"));
  const auto empty = [&] {
    if (!pinned) return device.memory.empty([](void* block, int64_t) { cudaFree(block); });
    for (Pool* each : {&device.pinned, &device.staging}) each->empty([](void* block, int64_t) { cudaFreeHost(block); });
  };
  // Here and not in release(), which must not wait for the device, as freeing does.
  if (pinned && pool.bytes() > kPinnedLimit) empty();
  cudaError_t result = fresh(size, use, data);
  if (result == cudaErrorMemoryAllocation) {
    empty();
    result = fresh(size, use, data);
  }
  if (result == cudaErrorMemoryAllocation) {
    *data = nullptr;
    size_t free = 0, total = 0;
    if (pinned) return refusal_of_pinned(size);
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
      return error(NA_ERR_OUT_OF_MEMORY, "the system grants no more device memory");
    }
    return error(NA_ERR_OUT_OF_MEMORY, "it has %s free of %s", bytes_text(static_cast<int64_t>(free)).c_str(),
                 bytes_text(static_cast<int64_t>(total)).c_str());
  }
  return device.check(result, "allocating memory");
}

void release(Device& device, int64_t bytes, Use use, void* data) { pool_of(device, use).put(data, block_size(bytes)); }

Place place_of(const Device& device, const void* data) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
    cudaGetLastError();
    return Place::kPageable;
  }
  switch (attributes.type) {
    case cudaMemoryTypeDevice: return attributes.device == device.ordinal ? Place::kReachable : Place::kOtherDevice;
    case cudaMemoryTypeHost:
    case cudaMemoryTypeManaged: return Place::kReachable;
    default: return Place::kPageable;
  }
}

}  // namespace na::cuda
