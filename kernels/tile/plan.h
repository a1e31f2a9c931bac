// The blocks that a row of a sparse plan lists, side by side, as key tiles: each tile is gathered from as many blocks
// as it holds, or is a piece of one. Tiles of full blocks come first.
#pragma once

#include "tile/score.h"

namespace na::cuda {

// What a column of a tile and the next one, which are neighbours in the sequence, stand for.
struct PlanSpot {
  int32_t key;  // from 0 on
  int32_t bitmap;
};

class PlanTiles {
 public:
  // Of the queries [first, last] of a row.
  __device__ PlanTiles(const Problem& problem, const PlanRow& row, const Sequence& sequence, int32_t first,
                       int32_t last, int32_t tile_keys)
      : blocks_(problem.plan.blocks + row.begin), block_count_(row.count), key_block_(problem.plan.key_block) {
    first_key_ = max(KeyTiles::from(problem, sequence.position(first)), 0);
    end_key_ = min(KeyTiles::to(problem, sequence.position(last)), sequence.keys);
    const auto tiles = [&](int64_t keys) { return static_cast<int32_t>(keys / tile_keys); };
    count_ = tiles((int64_t{row.count} << key_block_) + tile_keys - 1);
    // Which blocks are full was found out for the longest sequence of a batch.
    full_ = problem.plan.masked || sequence.keys < problem.keys ? 0 : tiles(int64_t{row.full} << key_block_);
  }

  // As for KeyTiles. No key outside of [first_key(), end_key()) is seen by any query of the tile.
  __device__ int32_t first_key() const { return first_key_; }
  __device__ int32_t end_key() const { return end_key_; }
  __device__ int32_t count() const { return count_; }
  __device__ int32_t full() const { return full_; }
  __device__ void share(int32_t part, int32_t parts, int32_t* first, int32_t* last) const {
    const int64_t n = count_;
    *first = static_cast<int32_t>(n * part / parts);
    *last = static_cast<int32_t>(n * (part + 1) / parts);
  }

  // Of the n-th key that is listed.
  __device__ PlanSpot spot(int64_t n) const {
    const int64_t index = n >> key_block_;
    if (index >= block_count_) return {-2, -1};  // there is no key next to it, either
    const PlanBlock block = blocks_[index];
    return {block.key + within(n), block.bitmap};
  }

 private:
  __device__ int32_t within(int64_t n) const { return static_cast<int32_t>(n) & ((1 << key_block_) - 1); }

  const PlanBlock* blocks_;
  int32_t block_count_, key_block_;
  int32_t first_key_, end_key_, count_, full_;
};

// The words of a key in a bitmap.
__device__ inline const uint32_t* bitmap_words(const SparseRows& plan, const PlanSpot& spot) {
  const int32_t words = ((1 << plan.query_tile) + 31) / 32;
  const int32_t within = spot.key & ((1 << plan.key_block) - 1);
  return plan.bitmaps + ((int64_t{spot.bitmap} << plan.key_block) + within) * words;
}

// As modify() and mask() of score.h, of keys that need not be neighbours: spots[i] is of column 8 * i + 2 * (lane % 4).
template <int kColumns>
__device__ inline void modify_spots(float (&scores)[kColumns][4], const Problem& problem, const Sequence& sequence,
                                    const Row (&rows)[2], const PlanSpot (&spots)[kColumns]) {
  scale_and_cap(scores, problem);
#pragma unroll 1
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const auto place = place_of<int32_t>(bias, rows[r].head);
      const int32_t keys = place < 0 ? 0 : sequence.keys;
      const float* from = bias.data + sequence.batch * bias.batch + place * bias.head + rows[r].query * bias.query;
#pragma unroll
      for (int i = 0; i < kColumns; i++) {
        const int32_t key = spots[i].key;
        if (key < -1) continue;  // to ask this of both takes more registers
        if (static_cast<uint32_t>(key) < static_cast<uint32_t>(keys)) scores[i][2 * r] += from[key * bias.key];
        if (key + 1 < keys) scores[i][2 * r + 1] += from[(key + 1) * bias.key];
      }
    }
  }
}

template <int kColumns>
__device__ inline void mask_spots(float (&scores)[kColumns][4], const Problem& problem, const Sequence& sequence,
                                  const Row (&rows)[2], const PlanSpot (&spots)[kColumns]) {
  const SparseRows& plan = problem.plan;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int32_t position = sequence.position(rows[r].query), bit = rows[r].query & ((1 << plan.query_tile) - 1);
    const int32_t from = max(KeyTiles::from(problem, position), 0);
    const int32_t to = min(KeyTiles::to(problem, position), sequence.keys);
#pragma unroll
    for (int i = 0; i < 2 * kColumns; i++) {
      const PlanSpot spot = {spots[i / 2].key + i % 2, spots[i / 2].bitmap};
      bool sees = spot.key >= from && spot.key < to;
      if (sees && spot.bitmap >= 0) sees = bitmap_words(plan, spot)[bit / 32] >> (bit % 32) & 1;
      if (!sees) scores[i / 2][2 * r + i % 2] = -kInfinity;
    }
  }
}

}  // namespace na::cuda
