// Rows whose queries select for themselves. Scores are those of a row's tile, whose queries share the keys that a warp
// has loaded; then each query marks what it has chosen, and a block of threads lists what any of a row has.
#pragma once

#include "select/score.h"

namespace na::cuda {

// The first query of a row of the plan, among those of all rows.
__host__ __device__ inline int64_t first_query_of(const PlanShape& plan, int64_t row) {
  return row / plan.tiles() * plan.queries + plan.first_query(row % plan.tiles());
}

// A warp has two blocks, and a lane the scores of one of 32 queries with them. ptxas would spill for one more block of
// threads on a multiprocessor.
__global__ void __launch_bounds__(32 * kScoreWarps, 1) own_scores_kernel(const __grid_constant__ Selection a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto local = static_cast<int64_t>(blockIdx.x / static_cast<uint32_t>(a.groups));
  const auto group = static_cast<int32_t>(blockIdx.x % static_cast<uint32_t>(a.groups));
  const int64_t block = 2 * (group * kScoreWarps + static_cast<int32_t>(threadIdx.x) / 32);
  const WantedRow row(a, local);
  const int64_t blocks = row.shape.visible_blocks(row.tile);
  if (!row.searched || block >= blocks) return;
  const bool two = block + 1 < blocks;
  const PlanShape single = single_queries(row.shape);
  const int32_t first = row.first_query(a), count = row.query_count(a);
  const int64_t first_score = first_query_of(a.plan, row.index) - first_query_of(a.plan, a.first_plan_row);
#pragma unroll 1
  for (int32_t some = 0; some < count; some += 32) {
    const int32_t own = some + lane, end = min(some + 32, count);
    Pair best{kNoScore, kNoScore};
    const auto raise = [&](const float* queries, const KeyColumns& left, const KeyColumns& right) {
#pragma unroll 1
      for (int32_t n = some; n < end; n++) {
        const Pair products = best_products(queries + int64_t{n} * a.pitch, 1, a.pitch, left, right, lane);
        if (n == own) best.raise(products);
      }
    };
    each_head(a, row, block, two ? block + 1 : block, a.queries + local * a.heads * a.queries_room * a.pitch, lane,
              raise);
    if (own >= count) continue;
    const SelectedRow here(single, first + own, a.sink, a.window);
    uint32_t* const scores = a.scores + (first_score + own) * a.scores_room + block;
    scores[0] = here.any_open(block, block + 1) ? key_of(best.left) : kAbsent;
    if (two) scores[1] = here.any_open(block + 1, block + 2) ? key_of(best.right) : kAbsent;
  }
}

// Where a query marks the blocks that it has chosen.
struct QueryMarks {
  uint32_t* of_row;  // nullptr: queries do not select for themselves
  uint32_t bit;
  int32_t words;

  __device__ QueryMarks(const Selection& a, const WantedRow& row) : of_row(nullptr), bit(0), words(a.words) {
    if (!a.seen) return;
    const auto tile = static_cast<int32_t>(a.plan.query_tile);
    const int64_t plan_row = row.index / a.tiles * a.plan.tiles() + row.tile / tile;
    of_row = a.seen + (plan_row - a.first_plan_row) * a.plan.blocks() * words + row.tile % tile / 32;
    bit = uint32_t{1} << row.tile % tile % 32;
  }
  __device__ void mark(int64_t block) const { atomicOr(of_row + block * words, bit); }
};

// Lists what is marked, with a bitmap where it is not all who may see the block; the same queries see every key of it.
// Kinds of entries are those of the plan, also where a sequence of a cache has fewer keys. ptxas would spill for one
// more block of threads on a multiprocessor.
__global__ void __launch_bounds__(kChooseThreads, 1)
    own_queries_kernel(const __grid_constant__ Selection a, uint32_t* bitmaps) {
  __shared__ Sum warps[kMostWarps];
  const auto thread = static_cast<int32_t>(threadIdx.x), lane = thread % 32;
  const int64_t row = a.first_plan_row + blockIdx.x, tile = row % a.plan.tiles(), words = a.words;
  const PlanShape shape = a.own_shape(a.plan, static_cast<int32_t>(row / a.plan.tiles() / a.patterns));
  const int64_t blocks = shape.visible_blocks(tile), bitmap_words = a.plan.key_block * words;
  const uint32_t* const seen = a.seen + blockIdx.x * a.plan.blocks() * words;
  uint32_t* const to = a.entries + a.places[row];
  int64_t count = 0, bitmap = a.places[row] / kWordsOfBitmap;
#pragma unroll 1
  for (int full = 1; full >= 0; full--) {
    for (int64_t first = 0; first < blocks; first += kChooseThreads) {
      const int64_t block = first + thread;
      const uint32_t* const queries = seen + block * words;
      uint32_t any = 0;
      for (int64_t word = 0; block < blocks && word < words; word++) any |= queries[word];
      na_entry_kind kind = NA_ENTRY_BITMAP;
      if (any && all_see(shape, tile, block, queries)) kind = a.plan.kind_of(tile, block);
      const bool listed = any && (kind == NA_ENTRY_FULL) == (full != 0),
                 with_bitmap = listed && kind == NA_ENTRY_BITMAP;
      // Words and bitmaps are counted at once.
      Sum all;
      const Sum before = sum_before(Sum{listed} + Sum{with_bitmap} + (Sum{with_bitmap} << 32), warps, &all);
      const int64_t place = count + static_cast<int64_t>(before & 0xffffffff);
      const int64_t own = bitmap + static_cast<int64_t>(before >> 32);
      if (listed) to[place] = plan_entry(block, kind);
      if (with_bitmap) to[place + 1] = static_cast<uint32_t>(own);
      // A warp writes the bitmaps of its lanes one after the other.
      for (uint32_t left = __ballot_sync(kAllLanes, with_bitmap); left; left &= left - 1) {
        const int from = __ffs(static_cast<int>(left)) - 1;
        uint32_t* const rows = bitmaps + __shfl_sync(kAllLanes, own, from) * bitmap_words;
        const uint32_t* const these = seen + __shfl_sync(kAllLanes, block, from) * words;
        for (int64_t i = lane; i < bitmap_words; i += 32) rows[i] = these[i % words];
      }
      count += static_cast<int64_t>(all & 0xffffffff);
      bitmap += static_cast<int64_t>(all >> 32);
    }
  }
  if (thread == 0) a.counts[row] = static_cast<int32_t>(count);
}

}  // namespace na::cuda
