#include <algorithm>

#include "arch/enqueue.h"
#include "attention/estimate.h"
#include "core/ceil_div.h"
#include "tile/pages.h"

namespace na::cuda {

constexpr int kDescribeThreads = 256, kUnlistedWarps = 4;
constexpr int64_t kMostDescribeGroups = 1 << 12, kMostUnlistedGroups = 1 << 14;  // of threads
constexpr int32_t kMarkedBlocks = 1 << 14;  // that a warp looks at together, a bit for each
constexpr uint32_t kWholeWarp = 0xffffffff;

// As if the plan were for the keys of this batch entry alone.
__device__ inline PlanShape shape_of(const Unlisted& a, int32_t batch) {
  return a.pages.tables ? a.shape.with_keys(cached_keys(a.pages, batch)) : a.shape;
}

__device__ inline int64_t address_of_page(const CachedMeans& means, int32_t batch, int32_t page) {
  const int64_t* const segments = means.segments.tables + batch * means.segments.pitch;
  return page < segments[0] ? segments[1 + page] : reinterpret_cast<int64_t>(means.rest + batch * means.rest_bytes);
}

__global__ void __launch_bounds__(kDescribeThreads) describe_means_kernel(const __grid_constant__ Unlisted a) {
  const int64_t thread = int64_t{blockIdx.x} * kDescribeThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kDescribeThreads;
  for (int64_t n = thread; n < int64_t{a.batch} * a.blocks; n += step) {
    const auto batch = static_cast<int32_t>(n / a.blocks), block = static_cast<int32_t>(n % a.blocks);
    const PlanShape shape = shape_of(a, batch);
    const int64_t count = shape.end_key(block) - block * shape.key_block;
    a.log_counts[n] = count > 0 ? logf(static_cast<float>(count)) : 0;
    const int32_t page = block >> a.means.each;
    if (!a.means.tables || block != page << a.means.each) continue;
    int64_t* const table = a.means.tables + batch * (1 + 2 * int64_t{a.means.room});
    if (page == 0) table[0] = a.blocks;
    table[1 + page] = address_of_page(a.means.keys, batch, page);
    table[1 + a.means.room + page] = address_of_page(a.means.values, batch, page);
  }
  const int32_t words = ((1 << a.plan.query_tile) + 31) / 32;
  if (thread < kPairBitmaps * 2 * words) a.bitmaps[thread] = thread / (2 * words) == thread / words % 2 ? ~0u : 0;
}

// Sets the bits of those of `count` blocks from `first` on that the row lists. A whole warp.
__device__ inline void mark_listed(uint32_t* bits, const SparseRows& plan, const PlanRow& row, int32_t first,
                                   int32_t count, int lane) {
  __syncwarp();  // all have read what was there
  for (int32_t word = lane; word < (count + 63) / 64 * 2; word += 32) bits[word] = 0;
  __syncwarp();
  for (int32_t i = lane; i < row.count; i += 32) {
    const auto block = static_cast<uint32_t>((plan.blocks[row.begin + i].key >> plan.key_block) - first);
    if (block < static_cast<uint32_t>(count)) atomicOr(&bits[block / 32], 1u << block % 32);
  }
  __syncwarp();
}

// A warp has a row at a time, and a lane two blocks that follow each other. It goes through the row twice: pairs of
// which both blocks are estimated come first, and so have to be counted. The block beside one that is alone is one that
// all queries of the row may see whole, since others are not to meet its values, which may not be numbers. Where there
// is none, it is the place before the first block, where nothing is.
__global__ void __launch_bounds__(32 * kUnlistedWarps)
    list_unlisted_kernel(const __grid_constant__ Unlisted a, int32_t first_tile, int32_t end_tile) {
  __shared__ uint32_t marks[kUnlistedWarps][kMarkedBlocks / 32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t before = (1u << lane) - 1;
  uint32_t* const listed = marks[warp];
  const int32_t tiles = end_tile - first_tile, heads = a.plan.heads;
  const int64_t rows = int64_t{a.batch} * heads * tiles;
  for (int64_t n = int64_t{blockIdx.x} * kUnlistedWarps + warp; n < rows; n += int64_t{gridDim.x} * kUnlistedWarps) {
    const int32_t tile = first_tile + static_cast<int32_t>(n % tiles), head = static_cast<int32_t>(n / tiles % heads);
    const auto batch = static_cast<int32_t>(n / tiles / heads);
    const int32_t plan_batch = a.plan.batch == 1 ? 0 : batch;
    const PlanRow row = a.plan.rows[(int64_t{plan_batch} * heads + head) * a.plan.tiles + tile];
    const auto whole = static_cast<int32_t>(shape_of(a, batch).whole_blocks(tile));
    const auto begin = static_cast<int32_t>(n * a.room);
    int32_t full = 0, fulls = 0, others = 0;  // full: of the row; the others so far
#pragma unroll 1
    for (int writes = 0; writes < 2; writes++) {
#pragma unroll 1
      for (int32_t first = 0; first < whole; first += kMarkedBlocks) {
        const int32_t count = min(whole - first, kMarkedBlocks);
        mark_listed(listed, a.plan, row, first, count, lane);
#pragma unroll 1
        for (int32_t at = 2 * lane; at - 2 * lane < count; at += 64) {
          const uint32_t bits = listed[at / 32] >> at % 32;
          const bool even = at < count && !(bits & 1), odd = at + 1 < count && !(bits & 2);
          const uint32_t both = __ballot_sync(kWholeWarp, even && odd), one = __ballot_sync(kWholeWarp, even != odd);
          if (writes == 0) {
            full += __popc(both);
            continue;
          }
          const int32_t block = first + at;
          if (even && odd) a.pairs[begin + fulls + __popc(both & before)] = {block, -1};
          if (even != odd) {
            const bool last = even && block + 1 >= whole;
            a.pairs[begin + full + others + __popc(one & before)] = {last ? block - 1 : block, odd ? 1 : 0};
          }
          fulls += __popc(both);
          others += __popc(one);
        }
      }
    }
    if (lane == 0) a.rows[(int64_t{batch} * heads + head) * a.plan.tiles + tile] = {begin, full, full + others};
  }
}

cudaError_t describe_means(const Unlisted& unlisted, cudaStream_t stream) {
  const int64_t needed = ceil_div(int64_t{unlisted.batch} * unlisted.blocks, kDescribeThreads);
  return enqueue_kernel(describe_means_kernel, dim3(static_cast<unsigned>(std::min(needed, kMostDescribeGroups))),
                        kDescribeThreads, stream, unlisted);
}

cudaError_t list_unlisted(const Unlisted& unlisted, int32_t first, int32_t end, cudaStream_t stream) {
  const int64_t needed = ceil_div(int64_t{unlisted.batch} * unlisted.plan.heads * (end - first), kUnlistedWarps);
  return enqueue_kernel(list_unlisted_kernel, dim3(static_cast<unsigned>(std::min(needed, kMostUnlistedGroups))),
                        32 * kUnlistedWarps, stream, unlisted, first, end);
}

}  // namespace na::cuda
