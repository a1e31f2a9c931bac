// Rows of pages, side by side in a tensor of bytes or from there: what is saved of a cache crosses to the host at once,
// however its pages lie. The pages are named by arguments of kernels, many for each launch.
#include <algorithm>

#include "arch/enqueue.h"
#include "core/ceil_div.h"
#include "kv/kv.h"

namespace na::cuda {

constexpr int kRowThreads = 256, kMostRowRuns = 253;  // arguments have 4 KiB
constexpr int64_t kMostRowBlocks = 64;                // of a run; threads go on with further vectors

// All in vectors.
struct RowArguments {
  void* bytes;
  int64_t row, pitch;
  int32_t write;
  void* data[kMostRowRuns];          // of each run
  int64_t firsts[kMostRowRuns + 1];  // where each run begins in `bytes`, and the last one ends
};
static_assert(sizeof(RowArguments) <= 4096);

template <class Vector>
__global__ void __launch_bounds__(kRowThreads) copy_rows_kernel(const __grid_constant__ RowArguments a) {
  const int64_t first = a.firsts[blockIdx.y], count = a.firsts[blockIdx.y + 1] - first;
  auto* const run = static_cast<Vector*>(a.data[blockIdx.y]);
  auto* const bytes = static_cast<Vector*>(a.bytes) + first;
  const int64_t step = int64_t{gridDim.x} * kRowThreads;
  for (int64_t i = int64_t{blockIdx.x} * kRowThreads + threadIdx.x; i < count; i += step) {
    Vector* const at = run + (a.row == a.pitch ? i : i / a.row * a.pitch + i % a.row);
    if (a.write) {
      *at = bytes[i];
    } else {
      bytes[i] = *at;
    }
  }
}

template <class Vector>
cudaError_t launch_copy_rows(const na_copy_rows& copy, cudaStream_t stream) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Vector));
  RowArguments arguments{};
  arguments.bytes = copy.bytes->data;
  if (copy.pitch != copy.row_bytes) {  // else runs are taken whole
    arguments.row = copy.row_bytes / kBytes;
    arguments.pitch = copy.pitch / kBytes;
  }
  arguments.write = copy.write;
  int64_t end = 0;
  for (int64_t first = 0; first < copy.run_count; first += kMostRowRuns) {
    const int64_t runs = std::min<int64_t>(copy.run_count - first, kMostRowRuns);
    int64_t most = 0;
    arguments.firsts[0] = end;
    for (int64_t i = 0; i < runs; i++) {
      const int64_t count = copy.runs[first + i].rows * copy.row_bytes / kBytes;
      arguments.data[i] = copy.runs[first + i].data;
      arguments.firsts[i + 1] = end += count;
      most = std::max(most, count);
    }
    const int64_t blocks = std::min((most + kRowThreads - 1) / kRowThreads, kMostRowBlocks);
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(runs));
    const cudaError_t status = enqueue_kernel(copy_rows_kernel<Vector>, grid, kRowThreads, stream, arguments);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

cudaError_t copy_rows(const na_copy_rows& copy, cudaStream_t stream) {
  int64_t bits = reinterpret_cast<intptr_t>(copy.bytes->data);
  if (copy.pitch != copy.row_bytes) bits |= copy.row_bytes | copy.pitch;
  for (int64_t i = 0; i < copy.run_count; i++) {
    bits |= reinterpret_cast<intptr_t>(copy.runs[i].data) | (copy.runs[i].rows * copy.row_bytes);
  }
  return bits % 16 == 0  ? launch_copy_rows<uint4>(copy, stream)
         : bits % 4 == 0 ? launch_copy_rows<uint32_t>(copy, stream)
                         : launch_copy_rows<uint8_t>(copy, stream);
}

int64_t copy_rows_launches(const na_copy_rows& copy) { return ceil_div(copy.run_count, kMostRowRuns); }

}  // namespace na::cuda
