// The host side that the test kernels share: arguments, errors, launches, tensor maps.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <tuple>
#include <utility>

namespace test_kernels {

// nullptr, or a sentence that lives for ever.
using Problem = const char*;

struct Shape {
  int batch, heads, queries, keys, head_dim, causal;
  float scale;
};

inline Problem problem_of(cudaError_t status) { return status == cudaSuccess ? nullptr : cudaGetErrorString(status); }

template <typename... Parameters, typename... Arguments>
Problem launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream,
               Arguments... arguments) {
  const auto status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (status != cudaSuccess) return problem_of(status);
  std::tuple<Parameters...> exact(arguments...);
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return std::apply(
      [&](auto&... each) {
        void* pointers[] = {&each...};
        return problem_of(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers));
      },
      exact);
}

// cuTensorMapEncodeTiled, found through the runtime so that nothing links the driver.
inline Problem encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, int rank, void* data,
                                 const cuuint64_t* extent, const cuuint64_t* strides, const cuuint32_t* box,
                                 const cuuint32_t* steps, CUtensorMapSwizzle swizzle) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const auto status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) return "the driver has no cuTensorMapEncodeTiled";
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  const CUresult result =
      encode(map, type, static_cast<cuuint32_t>(rank), data, extent, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? nullptr : "cuTensorMapEncodeTiled refused the tensor";
}

}  // namespace test_kernels
