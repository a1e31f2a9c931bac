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

bool has_stride(int64_t elements, int32_t count) {
  if (count == 1) return true;
  constexpr int64_t kMost = int64_t{1} << 40;
  return elements > 0 && elements < kMost / kBytes && elements * kBytes % kAlignment == 0;
}

}  // namespace

bool has_tensor_map(const TensorView& view) {
  return view.columns > 0 && view.heads > 0 && view.tokens > 0 && view.batch > 0 &&
         reinterpret_cast<uintptr_t>(view.data) % kAlignment == 0 && has_stride(view.strides.head, view.heads) &&
         has_stride(view.strides.token, view.tokens) && has_stride(view.strides.batch, view.batch);
}

cudaError_t encode_tensor_map(CUtensorMap* map, const TensorView& view, Element element, int box_columns,
                              int box_tokens) {
  Encode encode;
  if (const cudaError_t status = find_encode(&encode); status != cudaSuccess) return status;
  // The stride of an axis with one element may be anything, but not for the driver.
  const auto bytes = [](int64_t stride, int32_t count) {
    return static_cast<cuuint64_t>(count == 1 ? kAlignment : stride * kBytes);
  };
  const cuuint64_t extent[] = {static_cast<cuuint64_t>(view.columns), static_cast<cuuint64_t>(view.heads),
                               static_cast<cuuint64_t>(view.tokens), static_cast<cuuint64_t>(view.batch)};
  const cuuint64_t strides[] = {bytes(view.strides.head, view.heads), bytes(view.strides.token, view.tokens),
                                bytes(view.strides.batch, view.batch)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns), 1, static_cast<cuuint32_t>(box_tokens), 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const auto type = element == Element::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto swizzle = box_columns * kBytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  const CUresult result =
      encode(map, type, 4, const_cast<void*>(view.data), extent, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace na::cuda::sm90
