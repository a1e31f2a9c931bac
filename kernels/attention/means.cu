#include <algorithm>

#include "arch/enqueue.h"
#include "attention/means.h"
#include "core/ceil_div.h"
#include "tile/pages.h"

namespace na::cuda {

constexpr int kDescribeThreads = 256, kUnlistedWarps = 4;
constexpr int64_t kMostDescribeGroups = 1 << 12, kMostUnlistedGroups = 1 << 14;  // of threads
constexpr int32_t kMarkedBlocks = 1 << 14;  // that a warp looks at together, a bit for each
constexpr uint32_t kWholeWarp = 0xffffffff;

__device__ inline int64_t address_of_page(const CachedMeans& means, int32_t batch, int32_t page) {
  const int64_t* const segments = means.segments.tables + batch * means.segments.pitch;
  return page < segments[0] ? segments[1 + page] : reinterpret_cast<int64_t>(means.rest + batch * means.rest_bytes);
}

__global__ void __launch_bounds__(kDescribeThreads) describe_means_kernel(const __grid_constant__ Means a) {
  const int64_t thread = int64_t{blockIdx.x} * kDescribeThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kDescribeThreads;
  for (int64_t n = thread; n < int64_t{a.batch} * a.count; n += step) {
    const auto batch = static_cast<int32_t>(n / a.count), mean = static_cast<int32_t>(n % a.count);
    const int32_t keys = a.pages.tables ? cached_keys(a.pages, batch) : a.keys, most = 1 << a.level;
    const int32_t count = min(keys - (mean << a.level), most);
    a.log_counts[n] = count > 0 ? logf(static_cast<float>(count)) : 0;
    const MeanPages& to = a.of_cache;
    const int32_t page = mean >> to.each;
    if (!to.tables || mean != page << to.each) continue;
    int64_t* const table = to.tables + batch * (1 + 2 * int64_t{to.room});
    if (page == 0) table[0] = (keys + most - 1) >> a.level;
    table[1 + page] = address_of_page(to.keys, batch, page);
    table[1 + to.room + page] = address_of_page(to.values, batch, page);
  }
}

// A bit for each block: whether a row lists it, and whether it shows it to some queries alone.
struct Marks {
  uint32_t listed[kMarkedBlocks / 32], partly[kMarkedBlocks / 32];
};

// Marks those of `count` blocks from `first` on that a row lists, and puts who sees none of so many keys in them into
// its bitmaps of pairs. A whole warp.
__device__ inline void mark_listed(Marks& marks, uint32_t* bitmaps, const Unlisted& a, int32_t batch, int32_t head,
                                   int32_t tile, int32_t first, int32_t count, int32_t all_keys, int lane) {
  __syncwarp();  // all have read what was there
  for (int32_t word = lane; word < (count + 63) / 64 * 2; word += 32) marks.listed[word] = marks.partly[word] = 0;
  __syncwarp();
  const SparseRows& of = a.listed[0];
#pragma unroll 1
  for (int32_t n = 0; n < a.listed_count; n++) {
    const SparseRows& plan = a.listed[n];
    const int32_t own = plan.batch == 1 ? 0 : batch;
    const PlanRow row = plan.rows[(int64_t{own} * of.heads + head) * of.tiles + tile];
    for (int32_t i = lane; i < row.count; i += 32) {
      const PlanBlock listed = plan.blocks[row.begin + i];
      const int32_t block = listed.key >> plan.key_block;
      const auto place = static_cast<uint32_t>(block - first);
      if (place >= static_cast<uint32_t>(count)) continue;
      atomicOr(&marks.listed[place / 32], 1u << place % 32);
      if (listed.bitmap < 0) continue;
      atomicOr(&marks.partly[place / 32], 1u << place % 32);
      const auto words = static_cast<int32_t>(a.shape.query_words());
      const int32_t keys = min(1 << plan.key_block, all_keys - (block << plan.key_block));
      const uint32_t* const seen = plan.bitmaps + (int64_t{listed.bitmap} << plan.key_block) * words;
      for (int32_t word = 0; word < words; word++) {
        uint32_t any = 0;
#pragma unroll 4
        for (int32_t key = 0; key < keys; key++) any |= seen[key * words + word];
        bitmaps[int64_t{block} * words + word] = ~any;
      }
    }
  }
  __syncwarp();
}

// A warp has a row at a time, and a lane two blocks that follow each other. It goes through the row twice: pairs of
// which both blocks are estimated come first, and so have to be counted. The block beside one that is alone is one that
// all queries of the row may see whole, since others are not to meet its values, which may not be numbers. Where there
// is none, it is the place before the first block, where nothing is. (ptxas would spill for one more block of threads
// on a multiprocessor.)
__global__ void __launch_bounds__(32 * kUnlistedWarps, 1)
    list_unlisted_kernel(const __grid_constant__ Unlisted a, int32_t first_tile, int32_t end_tile) {
  __shared__ Marks all_marks[kUnlistedWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t before = (1u << lane) - 1;
  Marks& marks = all_marks[warp];
  const SparseRows& plan = a.listed[0];
  const auto words = static_cast<int32_t>(a.shape.query_words()), own = static_cast<int32_t>(threadIdx.x);
  if (blockIdx.x == 0 && own < kPairBitmaps * 2 * words) {
    a.bitmaps[own] = own / (2 * words) == own / words % 2 ? ~0u : 0;
  }
  const int32_t tiles = end_tile - first_tile, heads = plan.heads;
  const int64_t rows = int64_t{a.batch} * heads * tiles;
  for (int64_t n = int64_t{blockIdx.x} * kUnlistedWarps + warp; n < rows; n += int64_t{gridDim.x} * kUnlistedWarps) {
    const int32_t tile = first_tile + static_cast<int32_t>(n % tiles), head = static_cast<int32_t>(n / tiles % heads);
    const auto batch = static_cast<int32_t>(n / tiles / heads);
    const PlanShape shape = a.pages.tables ? a.shape.with_keys(cached_keys(a.pages, batch)) : a.shape;
    const auto whole = static_cast<int32_t>(shape.whole_blocks(tile));
    const auto begin = static_cast<int32_t>(n * a.room);
    uint32_t* const bitmaps = a.bitmaps + (kPairBitmaps + int64_t{begin}) * 2 * words;  // of the row, by pair
    int32_t full = 0, fulls = 0, others = 0;  // full: of the row; the others so far
#pragma unroll 1
    for (int writes = 0; writes < 2; writes++) {
#pragma unroll 1
      for (int32_t first = 0; first < whole; first += kMarkedBlocks) {
        const int32_t count = min(whole - first, kMarkedBlocks);
        mark_listed(marks, bitmaps, a, batch, head, tile, first, count, static_cast<int32_t>(shape.keys), lane);
#pragma unroll 1
        for (int32_t at = 2 * lane; at - 2 * lane < count; at += 64) {
          const bool there = at < count;
          const uint32_t listed = there ? marks.listed[at / 32] >> at % 32 : 0;
          const uint32_t partly = there ? marks.partly[at / 32] >> at % 32 & 3 : 0;
          const bool even = there && !(listed & 1), odd = at + 1 < count && !(listed & 2), some = partly != 0;
          const uint32_t both = __ballot_sync(kWholeWarp, even && odd);
          const uint32_t one = __ballot_sync(kWholeWarp, even != odd || some);
          if (writes == 0) {
            full += __popc(both);
            continue;
          }
          const int32_t block = first + at;
          if (even && odd) a.pairs[begin + fulls + __popc(both & before)] = {block, -1};
          if (even != odd || some) {
            const bool last = block + 1 >= whole;
            const int32_t bitmap = some ? kPairBitmaps + begin + block / 2 : odd ? 1 : 0;
            a.pairs[begin + full + others + __popc(one & before)] = {last ? block - 1 : block, bitmap};
          }
          // Those of a pair that no bitmap of the plan tells of.
          for (int32_t i = 0; i < 2 * words && some; i++) {
            const int32_t side = i / words;
            if (!(partly >> side & 1)) bitmaps[int64_t{block} * words + i] = (side == 0 ? even : odd) ? ~0u : 0;
          }
          fulls += __popc(both);
          others += __popc(one);
        }
      }
    }
    if (lane == 0) a.rows[(int64_t{batch} * heads + head) * plan.tiles + tile] = {begin, full, full + others};
  }
}

cudaError_t describe_means(const Means& means, cudaStream_t stream) {
  const int64_t needed = ceil_div(int64_t{means.batch} * means.count, kDescribeThreads);
  return enqueue_kernel(describe_means_kernel, dim3(static_cast<unsigned>(std::min(needed, kMostDescribeGroups))),
                        kDescribeThreads, stream, means);
}

cudaError_t list_unlisted(const Unlisted& unlisted, int32_t first, int32_t end, cudaStream_t stream) {
  const int64_t needed = ceil_div(int64_t{unlisted.batch} * unlisted.listed[0].heads * (end - first), kUnlistedWarps);
  return enqueue_kernel(list_unlisted_kernel, dim3(static_cast<unsigned>(std::min(needed, kMostUnlistedGroups))),
                        32 * kUnlistedWarps, stream, unlisted, first, end);
}

}  // namespace na::cuda
