// Puts partial results together: out = sum of w_n out_n / (sum of w_n + the sink's), w_n = exp(lse_n - maximum).
//
// Few slots: a warp has a row, and a block eight rows. Many slots, as in decoding, where rows are few and every load
// waits for memory: the block's warps share one row, slots among themselves, and their sums are added in the order of
// the warps. Lanes have columns lane, lane + 32 ... of the row.
#include "arch/enqueue.h"
#include "arch/sm80.h"
#include "attention/attention.h"
#include "tile/softmax.h"

namespace na::cuda {

constexpr int kCombineWarps = 8, kCombineColumns = 8;  // 256 columns at most

// The weighted sum of slots first, first + step ... < slots of a row, and of their weights, relative to a maximum.
struct Combined {
  float maximum, sum, out[kCombineColumns];
};

__device__ inline Combined combine_slots(const Problem& problem, int64_t row, int64_t rows, int32_t first, int32_t step,
                                         int32_t slots, int lane) {
  Combined of = {-kInfinity, 0, {}};
  for (int32_t slot = first + lane * step; slot < slots; slot += 32 * step) {
    of.maximum = fmaxf(of.maximum, problem.part_lse[slot * rows + row]);
  }
#pragma unroll
  for (int i = 16; i > 0; i /= 2) of.maximum = fmaxf(of.maximum, __shfl_xor_sync(0xffffffff, of.maximum, i));
  if (of.maximum == -kInfinity) of.maximum = 0;  // all weights are 0
#pragma unroll 4
  for (int32_t slot = first; slot < slots; slot += step) {
    const float weight = exp2f((problem.part_lse[slot * rows + row] - of.maximum) * kLog2E);
    const float* from = problem.part_out + (slot * rows + row) * problem.value_dim;
    of.sum += weight;
#pragma unroll
    for (int i = 0; i < kCombineColumns; i++) {
      const int32_t column = lane + 32 * i;
      if (column < problem.value_dim) of.out[i] = fmaf(weight, from[column], of.out[i]);
    }
  }
  return of;
}

template <Element kElement>
__device__ inline void store_element(void* to, float x) {
  if constexpr (kElement == Element::kFloat32) {
    *static_cast<float*>(to) = x;
  } else {
    *static_cast<uint16_t*>(to) = static_cast<uint16_t>(pack<kElement>(x, 0));
  }
}

template <Element kElement>
__device__ inline void store_row(const Problem& problem, int64_t row, const Combined& of, int lane) {
  const int64_t head = row % problem.heads, query = row / problem.heads % problem.queries,
                batch = row / problem.heads / problem.queries;
  const float sink = problem.sinks ? problem.sinks[head * problem.sink_stride] : -kInfinity;
  float lse;
  const float share = normalize(of.sum == 0 ? -kInfinity : of.maximum, of.sum, sink, &lse);
  if (lane == 0) problem.lse[row] = lse;
  constexpr int kBytes = kElement == Element::kFloat32 ? 4 : 2;
  char* const to =
      static_cast<char*>(problem.out) +
      (batch * problem.out_strides.batch + query * problem.out_strides.token + head * problem.out_strides.head) *
          kBytes;
#pragma unroll
  for (int i = 0; i < kCombineColumns; i++) {
    const int32_t column = lane + 32 * i;
    if (column < problem.value_dim) store_element<kElement>(to + column * kBytes, share == 0 ? 0 : of.out[i] * share);
  }
}

template <Element kElement, bool kShared>
__global__ void __launch_bounds__(32 * kCombineWarps)
    combine_kernel(const __grid_constant__ Problem problem, int32_t slots) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t rows = int64_t{problem.batch} * problem.queries * problem.heads;
  if constexpr (kShared) {
    __shared__ Combined sums[kCombineWarps][32];
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
      __syncthreads();  // the row before is done with
      sums[warp][lane] = combine_slots(problem, row, rows, warp, kCombineWarps, slots, lane);
      __syncthreads();
      if (warp > 0) continue;
      Combined total = {-kInfinity, 0, {}};
#pragma unroll
      for (int w = 0; w < kCombineWarps; w++) {
        if (sums[w][lane].sum != 0) total.maximum = fmaxf(total.maximum, sums[w][lane].maximum);
      }
#pragma unroll
      for (int w = 0; w < kCombineWarps; w++) {
        const Combined& own = sums[w][lane];
        if (own.sum == 0) continue;
        const float weight = exp2f((own.maximum - total.maximum) * kLog2E);
        total.sum = fmaf(weight, own.sum, total.sum);
#pragma unroll
        for (int i = 0; i < kCombineColumns; i++) total.out[i] = fmaf(weight, own.out[i], total.out[i]);
      }
      store_row<kElement>(problem, row, total, lane);
    }
  } else {
    for (int64_t row = int64_t{blockIdx.x} * kCombineWarps + warp; row < rows; row += gridDim.x * kCombineWarps) {
      store_row<kElement>(problem, row, combine_slots(problem, row, rows, 0, 1, slots, lane), lane);
    }
  }
}

template <Element kElement>
cudaError_t launch_combine(const Problem& problem, int32_t slots, cudaStream_t stream) {
  const bool shared = slots > kCombineWarps;
  const int64_t rows = int64_t{problem.batch} * problem.queries * problem.heads;
  if (rows == 0) return cudaSuccess;
  const int64_t blocks = shared ? rows : (rows + kCombineWarps - 1) / kCombineWarps;
  constexpr int64_t kMostBlocks = 1 << 16;
  const dim3 grid(static_cast<uint32_t>(blocks < kMostBlocks ? blocks : kMostBlocks));
  const auto kernel = shared ? &combine_kernel<kElement, true> : &combine_kernel<kElement, false>;
  return enqueue_kernel(kernel, grid, 32 * kCombineWarps, stream, problem, slots);
}

cudaError_t combine(const Problem& problem, Element element, int32_t slots, cudaStream_t stream) {
  switch (element) {
    case Element::kFloat16: return launch_combine<Element::kFloat16>(problem, slots, stream);
    case Element::kBfloat16: return launch_combine<Element::kBfloat16>(problem, slots, stream);
    default: return launch_combine<Element::kFloat32>(problem, slots, stream);
  }
}

}  // namespace na::cuda
