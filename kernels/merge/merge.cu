// A warp has a row: its lanes share out the columns. Where the parts lie is written into the workspace by a kernel of
// its own, a few at a time as kernel arguments are small, so that nothing is read from the host's memory later on.

#include "arch/element.h"
#include "merge/merge.h"

namespace na::cuda {

// A tensor of the problem. Of lse, the last axis counts as one of the rows.
struct MergeView {
  void* data;
  int64_t stride[NA_MAX_RANK];
};
struct MergePart {
  MergeView out, lse;
};

constexpr int kPartsAtOnce = 16;
struct MergeParts {
  MergePart part[kPartsAtOnce];
};

struct MergeShape {
  MergePart result;
  const MergePart* parts;
  int32_t count, axes;  // of the rows
  int64_t rows, columns;
  int64_t length[NA_MAX_RANK];
};

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int64_t kMostBlocks = 1 << 20;

__device__ int64_t row_offset(const MergeShape& shape, const MergeView& view, int64_t row) {
  int64_t offset = 0;
  for (int axis = shape.axes - 1; axis >= 0; axis--) {
    offset += row % shape.length[axis] * view.stride[axis];
    row /= shape.length[axis];
  }
  return offset;
}

}  // namespace

__global__ void merge_parts_kernel(__grid_constant__ const MergeParts parts, MergePart* to, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) to[i] = parts.part[i];
}

template <typename T>
__global__ void __launch_bounds__(kThreads) merge_kernel(__grid_constant__ const MergeShape shape) {
  constexpr float kNone = -__builtin_huge_valf();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  for (; row < shape.rows; row += step) {
    const auto lse_of = [&](int32_t part) {
      const MergeView& lse = shape.parts[part].lse;
      return static_cast<const float*>(lse.data)[row_offset(shape, lse, row)];
    };
    float largest = kNone;
    bool unknown = false;
    for (int32_t i = 0; i < shape.count; i++) {
      const float lse = lse_of(i);
      unknown |= isnan(lse);
      largest = fmaxf(largest, lse);
    }
    const bool empty = largest == kNone && !unknown;
    float sum = 0;
    for (int32_t i = 0; i < shape.count && !empty; i++) sum += expf(lse_of(i) - largest);
    if (lane == 0) {
      const MergeView& lse = shape.result.lse;
      static_cast<float*>(lse.data)[row_offset(shape, lse, row)] = empty ? kNone : largest + logf(sum);
    }
    const MergeView& out = shape.result.out;
    T* to = static_cast<T*>(out.data) + row_offset(shape, out, row);
    for (int64_t column = lane; column < shape.columns; column += 32) {
      float total = 0;
      for (int32_t i = 0; i < shape.count; i++) {
        const float lse = lse_of(i);
        if (lse == kNone) continue;  // an empty part counts for nothing, whatever it holds
        const MergeView& part = shape.parts[i].out;
        const T* from = static_cast<const T*>(part.data) + row_offset(shape, part, row);
        total += expf(lse - largest) / sum * widen(from[column * part.stride[shape.axes]]);
      }
      to[column * out.stride[shape.axes]] = narrow<T>(total);
    }
  }
}

namespace {

MergeView view_of(const na_tensor& tensor) {
  MergeView view = {tensor.data, {}};
  for (int i = 0; i < tensor.rank; i++) view.stride[i] = tensor.stride[i];
  return view;
}

template <typename T>
cudaError_t launch(MergeShape& shape, cudaStream_t stream) {
  const int64_t blocks = (shape.rows + kWarps - 1) / kWarps;
  const dim3 grid(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
  void* arguments[] = {&shape};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&merge_kernel<T>), grid, dim3(kThreads), arguments, 0, stream);
}

}  // namespace

int64_t merge_workspace_bytes(const na_merge& merge) { return merge.count * static_cast<int64_t>(sizeof(MergePart)); }

cudaError_t merge(const na_merge& merge, cudaStream_t stream) {
  const na_tensor &out = *merge.out, &lse = *merge.lse;
  MergeShape shape = {{view_of(out), view_of(lse)},
                      static_cast<const MergePart*>(merge.workspace),
                      merge.count,
                      lse.rank,
                      1,
                      out.shape[out.rank - 1],
                      {}};
  for (int i = 0; i < lse.rank; i++) shape.rows *= shape.length[i] = lse.shape[i];
  if (shape.rows == 0) return cudaSuccess;
  for (int32_t first = 0; first < merge.count; first += kPartsAtOnce) {
    MergeParts some = {};
    int count = merge.count - first < kPartsAtOnce ? merge.count - first : kPartsAtOnce;
    for (int i = 0; i < count; i++) some.part[i] = {view_of(*merge.outs[first + i]), view_of(*merge.lses[first + i])};
    MergePart* to = static_cast<MergePart*>(merge.workspace) + first;
    void* arguments[] = {&some, &to, &count};
    const cudaError_t status = cudaLaunchKernel(reinterpret_cast<const void*>(&merge_parts_kernel), dim3(1),
                                                dim3(kPartsAtOnce), arguments, 0, stream);
    if (status != cudaSuccess) return status;
  }
  switch (out.dtype) {
    case NA_FLOAT32: return launch<float>(shape, stream);
    case NA_FLOAT16: return launch<__half>(shape, stream);
    default: return launch<__nv_bfloat16>(shape, stream);
  }
}

}  // namespace na::cuda
