// What a block works at: a tile of rows of one sequence and the heads that they belong to, and a share of its keys.
#pragma once

#include "attention/sm80/tiles.h"
#include "tile/score.h"

namespace na::cuda {

template <typename T>
struct Work {
  Sequence sequence;
  int32_t first_query, queries;  // of the sequence; queries in this tile
  int32_t kv_head, first_head, heads;
  int32_t packed;
  int32_t part;

  // False: nothing to do.
  __device__ bool find(const Problem& problem, const Launch& launch) {
    // Heads come first in the order of blocks, since those of a group share keys, then parts, batch entries and tiles.
    // Later queries see more keys when there is causality: the last tile comes first.
    const auto next = [](uint32_t& rest, int32_t count) {
      const auto n = static_cast<int32_t>(rest % static_cast<uint32_t>(count));
      rest /= static_cast<uint32_t>(count);
      return n;
    };
    uint32_t rest = blockIdx.x;
    const int32_t head_tile = next(rest, launch.head_tiles);
    kv_head = next(rest, problem.kv_heads);
    part = next(rest, max(problem.parts, 1));
    const int32_t batch = next(rest, problem.batch);
    const int32_t slot = launch.query_slots - 1 - static_cast<int32_t>(rest);
    const int32_t queries_per_tile = T::kRows / launch.packed, group = problem.heads / problem.kv_heads;
    if (!find_sequence(problem, slot, batch, queries_per_tile, &sequence)) return false;
    packed = launch.packed;
    first_head = kv_head * group + head_tile * packed;
    heads = min(packed, group - head_tile * packed);
    first_query = sequence.tile * queries_per_tile;
    queries = min(queries_per_tile, sequence.queries - first_query);
    return true;
  }

  // Rows are queries times packed heads. Those that do not exist have the last query or head instead.
  __device__ int32_t rows() const { return queries * packed; }
  __device__ bool exists(int32_t row) const { return row < rows() && row % packed < heads; }
  __device__ Row row(int32_t row) const {
    return {first_query + min(row / packed, queries - 1), first_head + min(row % packed, heads - 1)};
  }
};

}  // namespace na::cuda
