#include <algorithm>

#include "arch/enqueue.h"
#include "core/ceil_div.h"
#include "core/narrow.h"
#include "core/strided.h"
#include "merge/merge.h"

namespace na::cuda {

constexpr int kMergeWarps = 4;
constexpr int kMergeColumns = 4;  // of a lane at a time
constexpr int kMostParts = 16;    // of a launch: the arguments of a kernel have 4 KiB
constexpr int64_t kMostMergeBlocks = 1 << 16;

// The result so far of further parts: float32, contiguous.
struct SoFar {
  float *out, *lse;
};

struct MergeArguments {
  struct Part {
    const void* out;
    const float* lse;
    int64_t out_stride[NA_MAX_RANK], lse_stride[NA_MAX_RANK - 1];
  };
  Part parts[kMostParts];
  int32_t count, rank;  // rank of lse
  int64_t rows, columns;
  int64_t shape[NA_MAX_RANK - 1];
  Part to;       // the result; not used when there are further parts
  SoFar so_far;  // null pointers: none
  bool first, last;
};

constexpr float kNoLse = -__builtin_huge_valf();

// Where a row begins, whose index is row-major over all axes of lse.
__device__ inline int64_t merge_row_offset(const MergeArguments& a, const int64_t* stride, int64_t row) {
  int64_t offset = 0;
  for (int axis = a.rank - 1; axis > 0; axis--) {
    offset += row % a.shape[axis] * stride[axis];
    row /= a.shape[axis];
  }
  return a.rank > 0 ? offset + row * stride[0] : 0;
}

// A warp has a row at a time. lse = max + log(sum of exp(lse_i - max)), out = sum of exp(lse_i - lse) out_i, in the
// order of the parts. What was made of the parts before these counts as the first of them.
template <class T>
__global__ void __launch_bounds__(32 * kMergeWarps) merge_kernel(const __grid_constant__ MergeArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kMergeWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kMergeWarps + threadIdx.x / 32; row < a.rows; row += warps) {
    float largest = kNoLse;
    bool nan = false;
    const auto look_at = [&](float lse) {
      nan |= lse != lse;
      if (lse > largest) largest = lse;
    };
    const auto lse_of = [&](int part) { return a.parts[part].lse[merge_row_offset(a, a.parts[part].lse_stride, row)]; };
    const float before = a.first ? kNoLse : a.so_far.lse[row];
    look_at(before);
    for (int part = 0; part < a.count; part++) look_at(lse_of(part));
    const bool empty = largest == kNoLse && !nan;
    float sum = 0;
    if (!empty) {
      if (before != kNoLse) sum += expf(before - largest);
      for (int part = 0; part < a.count; part++) sum += expf(lse_of(part) - largest);
    }
    for (int64_t column = lane; column < a.columns; column += 32 * kMergeColumns) {
      float total[kMergeColumns] = {};
      const auto add = [&](float lse, const auto* out, int64_t stride) {
        if (lse == kNoLse) return;  // an empty part counts for nothing, whatever it holds
        const float share = expf(lse - largest) / sum;
#pragma unroll
        for (int n = 0; n < kMergeColumns; n++) {
          const int64_t at = column + 32 * n;
          if (at < a.columns) total[n] += share * widen(out[at * stride]);
        }
      };
      if (!a.first) add(before, a.so_far.out + row * a.columns, 1);
      for (int part = 0; part < a.count; part++) {
        const MergeArguments::Part& from = a.parts[part];
        add(lse_of(part), static_cast<const T*>(from.out) + merge_row_offset(a, from.out_stride, row),
            from.out_stride[a.rank]);
      }
      T* const out = static_cast<T*>(const_cast<void*>(a.to.out)) + merge_row_offset(a, a.to.out_stride, row);
#pragma unroll
      for (int n = 0; n < kMergeColumns; n++) {
        const int64_t at = column + 32 * n;
        if (at >= a.columns) continue;
        if (a.last) {
          out[at * a.to.out_stride[a.rank]] = narrow<T>(total[n]);
        } else {
          a.so_far.out[row * a.columns + at] = total[n];
        }
      }
    }
    __syncwarp();  // all lanes have read what was so far
    if (lane == 0) {
      const float lse = empty ? kNoLse : largest + logf(sum);
      if (a.last) {
        const_cast<float*>(a.to.lse)[merge_row_offset(a, a.to.lse_stride, row)] = lse;
      } else {
        a.so_far.lse[row] = lse;
      }
    }
  }
}

MergeArguments::Part part_of(const na_tensor& out, const na_tensor& lse) {
  MergeArguments::Part part{out.data, static_cast<const float*>(lse.data), {}, {}};
  std::copy(out.stride, out.stride + out.rank, part.out_stride);
  std::copy(lse.stride, lse.stride + lse.rank, part.lse_stride);
  return part;
}

template <class T>
cudaError_t launch_merge(const MergeArguments& arguments, cudaStream_t stream) {
  const int64_t blocks = std::min((arguments.rows + kMergeWarps - 1) / kMergeWarps, kMostMergeBlocks);
  return enqueue_kernel(merge_kernel<T>, dim3(static_cast<unsigned>(blocks)), 32 * kMergeWarps, stream, arguments);
}

int64_t merge_workspace(const na_merge& merge) {
  if (merge.count <= kMostParts) return 0;
  return (element_count(*merge.out) + element_count(*merge.lse)) * static_cast<int64_t>(sizeof(float));
}

cudaError_t merge(const na_merge& merge, cudaStream_t stream) {
  const int32_t rank = merge.lse->rank;
  MergeArguments arguments{};
  arguments.rank = rank;
  arguments.rows = element_count(*merge.lse);
  arguments.columns = merge.out->shape[rank];
  std::copy(merge.lse->shape, merge.lse->shape + rank, arguments.shape);
  arguments.to = part_of(*merge.out, *merge.lse);
  if (merge.count > kMostParts) {
    auto* memory = static_cast<float*>(merge.workspace);
    arguments.so_far = {memory, memory + element_count(*merge.out)};
  }
  if (arguments.rows == 0) return cudaSuccess;
  for (int32_t first = 0; first < merge.count; first += kMostParts) {
    arguments.count = std::min(merge.count - first, kMostParts);
    arguments.first = first == 0;
    arguments.last = first + arguments.count == merge.count;
    for (int32_t i = 0; i < arguments.count; i++) {
      arguments.parts[i] = part_of(*merge.outs[first + i], *merge.lses[first + i]);
    }
    cudaError_t status = cudaErrorInvalidValue;
    switch (merge.out->dtype) {
      case NA_FLOAT32: status = launch_merge<float>(arguments, stream); break;
      case NA_FLOAT16: status = launch_merge<Half>(arguments, stream); break;
      case NA_BFLOAT16: status = launch_merge<Brain>(arguments, stream); break;
    }
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int64_t merge_launches(const na_merge& merge) { return ceil_div(merge.count, kMostParts); }

}  // namespace na::cuda
