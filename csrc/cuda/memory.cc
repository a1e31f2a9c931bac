#include "cuda/memory.h"

#include "core/size_class.h"
#include "cuda/device.h"

namespace na::cuda {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

cudaError_t Pool::fresh(int64_t size, void** data) const {
  const cudaError_t made = pinned_ ? cudaHostAlloc(data, static_cast<size_t>(size), cudaHostAllocPortable)
                                   : cudaMalloc(data, static_cast<size_t>(size));
  if (made != cudaSuccess) cudaGetLastError();
  return made;
}

void Pool::give_back(void* data) const {
  if (pinned_) {
    cudaFreeHost(data);
  } else {
    cudaFree(data);
  }
}

Status Pool::allocate(int64_t bytes, void** data) {
  const int64_t size = size_class(bytes, kAlignment);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = free_.find(size);
    if (found != free_.end() && !found->second.empty()) {
      *data = found->second.back();
      found->second.pop_back();
      pooled_ -= size;
      return {};
    }
  }
  cudaError_t made = cudaSetDevice(ordinal_);
  if (made == cudaSuccess) made = fresh(size, data);
  if (made == cudaErrorMemoryAllocation) {
    clear();
    made = fresh(size, data);
  }
  if (made == cudaSuccess) return {};
  if (made != cudaErrorMemoryAllocation) return cuda_error(made, "allocating memory");
  if (pinned_) return error(NA_ERR_OUT_OF_MEMORY, "no more host memory can be pinned");
  size_t left = 0, total = 0;
  cudaMemGetInfo(&left, &total);
  return error(NA_ERR_OUT_OF_MEMORY, "the device has %s, of which %s are free",
               bytes_text(static_cast<int64_t>(total)).c_str(), bytes_text(static_cast<int64_t>(left)).c_str());
}

void Pool::release(void* data, int64_t bytes) {
  const int64_t size = size_class(bytes, kAlignment);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (pooled_ + size <= limit_) {
      free_[size].push_back(data);
      pooled_ += size;
      return;
    }
  }
  if (cudaSetDevice(ordinal_) == cudaSuccess) give_back(data);
}

int64_t Pool::pooled() {
  std::lock_guard<std::mutex> lock(mutex_);
  return pooled_;
}

void Pool::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [size, blocks] : free_) {
    for (void* block : blocks) give_back(block);
  }
  free_.clear();
  pooled_ = 0;
}

}  // namespace na::cuda
