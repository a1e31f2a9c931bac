// Which runs of queries of a sparse plan are walked by blocks of keys, not by rows of the plan.
#pragma once

#include "attention/problem.h"

namespace na::cuda {

// To gather queries for a chain of blocks, and to add what they sum up over it to what they have, takes about as long
// as so many keys do. A calculation for an H200 at head dimension 128, where a multiprocessor multiplies 64 queries by
// a key in 12 ns (350 Tflop/s in all): the chain, its queries and the sums are waited for some 3 us, half of that
// behind the products of the other block of threads; and the sums of 64 queries, 1 KiB to read and to write each, take
// 2 us of a memory of 4.8 TB/s that all multiprocessors share, or half that where the second-level cache has them. Not
// measured yet.
constexpr float kGatheringKeys = 200;

// And to look for the next block of a run, and who sees it: a load or two behind another, for which all wait. A guess.
constexpr float kSearchingKeys = 20;

// Of the `tiles` rows from `row` on, which are a run. By all threads of a warp; for all of them alike.
//
// Walked by rows, each pair that is listed takes the keys of a block. Walked by keys, each chain takes as many tiles as
// hold the queries that see it, and the last of them need not be full.
__device__ inline bool walked_by_keys(const SparseRows& plan, int64_t row, int32_t tiles) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  RowSight sum = {0, 0, 0, 0};
  if (lane < tiles) sum = plan.by_keys.sights[row + lane];
#pragma unroll
  for (int i = 16; i > 0; i /= 2) {
    sum.listed += __shfl_xor_sync(0xffffffff, sum.listed, i);
    sum.seen += __shfl_xor_sync(0xffffffff, sum.seen, i);
    sum.begun += __shfl_xor_sync(0xffffffff, sum.begun, i);
    sum.chains += __shfl_xor_sync(0xffffffff, sum.chains, i);
  }
  const KeyMajor& by_keys = plan.by_keys;
  const auto block = static_cast<float>(1 << plan.key_block), blocks = sum.seen / fmaxf(sum.begun, 1);  // of a chain
  const float chain =
      fmaxf(blocks * block, static_cast<float>(by_keys.tile_keys)) + kGatheringKeys + blocks * kSearchingKeys;
  const float rows =
      sum.begun * static_cast<float>(by_keys.packed) + sum.chains * static_cast<float>(by_keys.tile_rows);
  return rows * chain * by_keys.odds < sum.listed * block;
}

}  // namespace na::cuda
