// The host side of the kernels of one tile.
#pragma once

#include <atomic>
#include <type_traits>

#include "attention/sm80/dispatch.h"
#include "attention/sm80/executor.h"

namespace na::cuda {

// Shared memory beyond 48 KiB has to be allowed once for each kernel and device. Allowing it twice does no harm.
template <typename T>
cudaError_t allow_shared_memory() {
  static std::atomic<uint64_t> allowed{0};  // devices
  int device;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (allowed.load(std::memory_order_relaxed) & bit) return cudaSuccess;
  const cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(&attention_sm80_kernel<T>),
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (status == cudaSuccess) allowed.fetch_or(bit, std::memory_order_relaxed);
  return status;
}

template <typename T>
cudaError_t launch_kernel(Problem problem, Launch launch, uint32_t blocks, cudaStream_t stream) {
  if (const cudaError_t status = allow_shared_memory<T>(); status != cudaSuccess) return status;
  void* arguments[] = {&problem, &launch};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&attention_sm80_kernel<T>), dim3(blocks), dim3(T::kThreads),
                          arguments, T::kSharedBytes, stream);
}

template <Element kElement, int kProducts, int kHeadDim, int kValueDim>
cudaError_t run_sm80(const Problem& problem, const Launch& launch, bool few, bool modified, uint32_t blocks,
                     cudaStream_t stream) {
  const auto run = [&](auto is_few, auto is_modified) {
    using T =
        Tile<kElement, kProducts, kHeadDim, kValueDim, decltype(is_few)::value, decltype(is_modified)::value, false>;
    return launch_kernel<T>(problem, launch, blocks, stream);
  };
  using Yes = std::true_type;
  using No = std::false_type;
  if (few) return modified ? run(Yes(), Yes()) : run(Yes(), No());
  return modified ? run(No(), Yes()) : run(No(), No());
}

template <Element kElement, int kHeadDim>
cudaError_t run_sm80_plan(const Problem& problem, const Launch& launch, bool, bool, uint32_t blocks,
                          cudaStream_t stream) {
  constexpr int kProducts = kElement == Element::kFloat32 ? 3 : 1;
  return launch_kernel<PlanTile<kElement, kProducts, kHeadDim>>(problem, launch, blocks, stream);
}

template <Element kElement, int kHeadDim>
cudaError_t run_sm80_key_major(const Problem& problem, const Launch& launch, bool, bool, uint32_t blocks,
                               cudaStream_t stream) {
  constexpr int kProducts = kElement == Element::kFloat32 ? 3 : 1;
  return launch_kernel<KeyMajorTile<kElement, kProducts, kHeadDim>>(problem, launch, blocks, stream);
}

template <Element kElement, int kHeadDim>
cudaError_t run_sm80_grid(const Problem& problem, const Launch& launch, bool, bool, uint32_t blocks,
                          cudaStream_t stream) {
  constexpr int kProducts = kElement == Element::kFloat32 ? 3 : 1;
  return launch_kernel<Tile<kElement, kProducts, kHeadDim, kHeadDim, false, true, true>>(problem, launch, blocks,
                                                                                         stream);
}

template <Element kElement, int kHeadDim>
cudaError_t run_sm80_paged(const Problem& problem, const Launch& launch, bool few, bool, uint32_t blocks,
                           cudaStream_t stream) {
  constexpr int kProducts = kElement == Element::kFloat32 ? 3 : 1;
  if (few)
    return launch_kernel<PagedTile<kElement, kProducts, kHeadDim, kHeadDim, true>>(problem, launch, blocks, stream);
  return launch_kernel<PagedTile<kElement, kProducts, kHeadDim, kHeadDim, false>>(problem, launch, blocks, stream);
}

}  // namespace na::cuda
