#include <atomic>

#include "attention/sm90/tensor_map.h"

namespace na::cuda::sm90 {
namespace {

constexpr int64_t kBytes = 2, kAlignment = 16;

using Encode = decltype(&cuTensorMapEncodeTiled);

// Found through the runtime, so that nothing links the driver.
cudaError_t find_encode(Encode* encode) {
  static std::atomic<Encode> found{nullptr};
  *encode = found.load(std::memory_order_relaxed);
  if (*encode) return cudaSuccess;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
  if (status != cudaSuccess) return status;
  if (result != cudaDriverEntryPointSuccess) return cudaErrorSymbolNotFound;
  *encode = reinterpret_cast<Encode>(function);
  found.store(*encode, std::memory_order_relaxed);
  return cudaSuccess;
}

bool has_stride(int64_t elements, int64_t count) {
  if (count == 1) return true;
  constexpr int64_t kMost = int64_t{1} << 40;
  return elements > 0 && elements < kMost / kBytes && elements * kBytes % kAlignment == 0;
}

}  // namespace

TensorView view_of_tokens(const Problem& problem, const void* data, const Strides& strides, int32_t columns,
                          int32_t heads, int32_t tokens) {
  return {data, 4, {columns, heads, tokens, problem.batch}, {1, strides.head, strides.token, strides.batch}};
}

TensorView view_of_grid(const Problem& problem, const void* data, const Strides& strides,
                        const int64_t (&axes)[kMostAxes], int32_t columns, int32_t heads) {
  const int32_t(&extent)[kMostAxes] = problem.grid.extent;
  if (extent[0] > 1 && problem.batch > 1 && strides.batch != extent[0] * axes[0]) return {};
  return {data,
          5,
          {columns, heads, extent[2], extent[1], int64_t{extent[0]} * problem.batch},
          {1, strides.head, axes[2], axes[1], extent[0] > 1 ? axes[0] : strides.batch}};
}

bool has_tensor_map(const TensorView& view) {
  if (view.rank == 0 || reinterpret_cast<uintptr_t>(view.data) % kAlignment != 0) return false;
  for (int i = 0; i < view.rank; i++) {
    if (view.extent[i] < 1 || (i > 0 && !has_stride(view.stride[i], view.extent[i]))) return false;
  }
  return true;
}

cudaError_t encode_tensor_map(CUtensorMap* map, const TensorView& view, Element element, const Box& box) {
  Encode encode;
  if (const cudaError_t status = find_encode(&encode); status != cudaSuccess) return status;
  cuuint64_t extent[kMostRank], strides[kMostRank];
  cuuint32_t size[kMostRank], step[kMostRank];
  for (int i = 0; i < view.rank; i++) {
    extent[i] = static_cast<cuuint64_t>(view.extent[i]);
    // The stride of an axis with one element may be anything, but not for the driver.
    strides[i] = static_cast<cuuint64_t>(view.extent[i] == 1 ? kAlignment : view.stride[i] * kBytes);
    // It takes the span of a box for its size.
    size[i] = static_cast<cuuint32_t>(box.size[i] * box.step[i]);
    step[i] = static_cast<cuuint32_t>(box.step[i]);
  }
  const auto type = element == Element::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto swizzle = box.size[0] * kBytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  const CUresult result = encode(map, type, static_cast<cuuint32_t>(view.rank), const_cast<void*>(view.data), extent,
                                 strides + 1, size, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace na::cuda::sm90
