// Which tokens a query tile belongs to: a batch entry, or one of the packed sequences of a ragged batch.
#pragma once

#include "attention/problem.h"

namespace na::cuda {

struct Sequence {
  int32_t batch;
  int32_t first_query, queries;  // tokens [first_query, first_query + queries) of the query tensor
  int32_t first_key, keys;
  int32_t tile;  // of this sequence

  // Position of a query of this sequence, counted from its own first one.
  __device__ int32_t position(int32_t query) const { return query + keys - queries; }
};

// Offsets are not checked at call time: they are bent to be ascending and within the tensors. Sequence -1 has the
// tokens before the first one, sequence `sequences` those after the last; neither has keys.
__device__ inline int32_t offset(const int32_t* offsets, int64_t stride, int32_t count, int32_t index, int32_t most) {
  if (index < 0) return 0;
  if (index > count) return most;
  return min(max(offsets[index * stride], 0), most);
}

// An upper bound of the query tiles of all sequences of a batch entry, known without reading the offsets.
__host__ __device__ inline int32_t tile_slots(const Problem& problem, int32_t queries_per_tile) {
  if (!problem.cu_q) return (problem.queries + queries_per_tile - 1) / queries_per_tile;
  return problem.queries / queries_per_tile + problem.sequences + 2;
}

// The sequence and the tile of a slot. Sequence s owns the slots from floor(start / tile) + s + 1 on, which leaves room
// for all of its tiles and needs no sum over the lengths. False: the slot is not used.
__device__ inline bool find_sequence(const Problem& problem, int32_t slot, int32_t batch, int32_t queries_per_tile,
                                     Sequence* sequence) {
  if (!problem.cu_q) {
    *sequence = {batch, 0, problem.queries, 0, problem.keys, slot};
    return true;
  }
  const int32_t count = problem.sequences;
  const auto query_at = [&](int32_t s) { return offset(problem.cu_q, problem.cu_q_stride, count, s, problem.queries); };
  const auto slot_at = [&](int32_t s) { return query_at(s) / queries_per_tile + s + 1; };
  int32_t low = -1, high = count;  // the last sequence whose first slot is not beyond this one
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (slot_at(middle) <= slot) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const auto key_at = [&](int32_t s) { return offset(problem.cu_k, problem.cu_k_stride, count, s, problem.keys); };
  const bool inside = low >= 0 && low < count;
  const int32_t first_key = inside ? key_at(low) : 0;
  *sequence = {0,
               query_at(low),
               query_at(low + 1) - query_at(low),
               first_key,
               inside ? key_at(low + 1) - first_key : 0,
               slot - slot_at(low)};
  sequence->queries = max(sequence->queries, 0);
  sequence->keys = max(sequence->keys, 0);
  return sequence->tile * queries_per_tile < sequence->queries;
}

}  // namespace na::cuda
