// The host side of the kernels of one tile.
#pragma once

#include <atomic>

#include "attention/sm90/dispatch.h"
#include "attention/sm90/executor.h"
#include "attention/sm90/tensor_map.h"

namespace na::cuda::sm90 {

// Bytes of keys and values that heads of a section have together: the second-level cache of an H100 has 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;

template <typename T>
cudaError_t describe(const Problem& problem, Launch* launch) {
  const int64_t parts = problem.parts > 0 ? problem.parts : 1, group = problem.heads / problem.kv_heads;
  const int64_t units = int64_t{problem.batch} * problem.heads * parts, slots = tile_slots(problem, T::kRows);
  if (units > (1 << 30) / slots) return cudaErrorInvalidConfiguration;
  const int64_t head_bytes = int64_t{problem.keys} * (problem.head_dim + problem.value_dim) * 2;
  const int64_t section = (kSectionBytes / head_bytes > 1 ? kSectionBytes / head_bytes : 1) * group * parts;
  launch->units = static_cast<int32_t>(units);
  launch->section = static_cast<int32_t>(section < units ? section : units);
  launch->slots = static_cast<int32_t>(slots);
  launch->items = static_cast<int32_t>(units * slots);
  launch->group = static_cast<int32_t>(group);
  launch->cleans = problem.cu_q || problem.left != kUnlimited || problem.right != kUnlimited;
  return cudaSuccess;
}

template <typename T>
cudaError_t describe(const Problem& problem, Maps* maps) {
  const auto encode = [&](CUtensorMap* map, const void* data, const Strides& strides, int32_t columns, int32_t heads,
                          int32_t tokens, int box_tokens) {
    const TensorView view = {data, strides, columns, heads, tokens, problem.batch};
    return encode_tensor_map(map, view, T::kElement, T::kBoxColumns, box_tokens);
  };
  cudaError_t status =
      encode(&maps->q, problem.q, problem.q_strides, problem.head_dim, problem.heads, problem.queries, T::kOwnRows);
  if (status == cudaSuccess) {
    status = encode(&maps->k, problem.k, problem.k_strides, problem.head_dim, problem.kv_heads, problem.keys, T::kKeys);
  }
  if (status == cudaSuccess) {
    status =
        encode(&maps->v, problem.v, problem.v_strides, problem.value_dim, problem.kv_heads, problem.keys, T::kKeys);
  }
  if (status == cudaSuccess) {
    status = encode(&maps->out, problem.out, problem.out_strides, problem.value_dim, problem.heads, problem.queries,
                    T::kOwnRows);
  }
  return status;
}

// The multiprocessors of the current device, after the kernel was allowed its shared memory there.
template <typename T>
cudaError_t prepare(int* multiprocessors) {
  static std::atomic<int> prepared[64];  // multiprocessors of each device, 0: not prepared. Doing it twice does no harm
  int device;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  std::atomic<int>* const known = device < 64 ? &prepared[device] : nullptr;
  *multiprocessors = known ? known->load(std::memory_order_relaxed) : 0;
  if (*multiprocessors > 0) return cudaSuccess;
  cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(&attention_sm90_kernel<T>),
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (status == cudaSuccess && known) known->store(*multiprocessors, std::memory_order_relaxed);
  return status;
}

template <typename T>
cudaError_t launch_tile(Problem problem, cudaStream_t stream) {
  Launch launch;
  Maps maps;
  int multiprocessors;
  cudaError_t status = describe<T>(problem, &launch);
  if (status == cudaSuccess) status = describe<T>(problem, &maps);
  if (status == cudaSuccess) status = prepare<T>(&multiprocessors);
  if (status != cudaSuccess) return status;
  launch.blocks = launch.items < multiprocessors ? launch.items : multiprocessors;
  void* arguments[] = {&problem, &launch, &maps};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&attention_sm90_kernel<T>),
                          dim3(static_cast<uint32_t>(launch.blocks)), dim3(T::kThreads), arguments, T::kSharedBytes,
                          stream);
}

template <Element kElement, int kHeadDim, int kValueDim>
cudaError_t run_sm90(const Problem& problem, cudaStream_t stream) {
  return modifies_scores(problem) ? launch_tile<Tile<kElement, kHeadDim, kValueDim, true>>(problem, stream)
                                  : launch_tile<Tile<kElement, kHeadDim, kValueDim, false>>(problem, stream);
}

}  // namespace na::cuda::sm90
