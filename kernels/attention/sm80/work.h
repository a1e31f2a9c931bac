// What a block works at: a tile of rows of one sequence and the heads that they belong to, and a share of its keys; on
// a grid, a box of queries of one head.
#pragma once

#include "attention/sm80/tiles.h"
#include "tile/pages.h"
#include "tile/score.h"

namespace na::cuda {

template <typename T>
__device__ inline const char* element_at(const void* tensor, int64_t index) {
  return static_cast<const char*>(tensor) + index * T::kBytes;
}

// Takes a digit off a number.
__device__ inline int32_t next_digit(uint32_t& rest, int32_t base) {
  const auto digit = static_cast<int32_t>(rest % static_cast<uint32_t>(base));
  rest /= static_cast<uint32_t>(base);
  return digit;
}

template <typename T>
struct Work {
  Sequence sequence;
  int32_t first_query, queries;  // of the sequence; queries in this tile
  int32_t kv_head, first_head, heads;
  int32_t packed;
  int32_t part;

  // False: nothing to do.
  __device__ bool find(const Problem& problem, const Launch& launch, uint8_t*) {
    // Heads come first in the order of blocks, since those of a group share keys, then parts, batch entries and tiles.
    // Later queries see more keys when there is causality: the last tile comes first.
    uint32_t rest = blockIdx.x;
    const int32_t head_tile = next_digit(rest, launch.head_tiles);
    kv_head = next_digit(rest, problem.kv_heads);
    part = next_digit(rest, max(problem.parts, 1));
    const int32_t batch = next_digit(rest, problem.batch);
    const int32_t slot = launch.query_slots - 1 - static_cast<int32_t>(rest);
    const int32_t queries_per_tile = T::kRows / launch.packed, group = problem.heads / problem.kv_heads;
    if (!find_sequence(problem, slot, batch, queries_per_tile, &sequence)) return false;
    if constexpr (T::kPaged) sequence.keys = cached_keys(problem.pages, batch);
    packed = launch.packed;
    first_head = kv_head * group + head_tile * packed;
    heads = min(packed, group - head_tile * packed);
    first_query = sequence.tile * queries_per_tile;
    queries = min(queries_per_tile, sequence.queries - first_query);
    return true;
  }

  // The key tiles that this tile visits.
  __device__ KeyTiles tiles(const Problem& problem) const {
    return KeyTiles(problem, sequence, first_query, first_query + queries - 1, T::kKeys);
  }
  __device__ int32_t batch() const { return sequence.batch; }

  // Rows are queries times packed heads. Those that do not exist have the last query or head instead.
  __device__ int32_t rows() const { return queries * packed; }
  __device__ bool any_from(int32_t row) const { return row < rows(); }
  __device__ bool exists(int32_t row) const { return row < rows() && row % packed < heads; }
  __device__ Row row(int32_t row) const {
    return {first_query + min(row / packed, queries - 1), first_head + min(row % packed, heads - 1)};
  }

  // The row's query among all of its batch entry.
  __device__ int64_t query(const Problem&, const Row& of) const { return sequence.first_query + of.query; }
  // Elements to a row of queries, and of outputs.
  __device__ int64_t query_offset(const Problem& problem, const Row& of) const {
    return sequence.batch * problem.q_strides.batch + of.head * problem.q_strides.head +
           int64_t{sequence.first_query + of.query} * problem.q_strides.token;
  }
  __device__ int64_t out_offset(const Problem& problem, const Row& of, int64_t query) const {
    const Strides& strides = problem.out_strides;
    return int64_t{sequence.batch} * strides.batch + query * strides.token + of.head * strides.head;
  }
};

// The query of a row of a grid, in coordinates of the block's groups.
struct GridRow {
  Place at;
  int32_t head;
};

template <typename T>
struct GridWork {
  const Grid* grid;
  GridBlock<T::kRows>* block;  // in shared memory
  int32_t own_batch, own_head, kv_head, part;

  // All threads of the block together; `memory` is for what they share.
  __device__ bool find(const Problem& problem, const Launch&, uint8_t* memory) {
    grid = &problem.grid;
    block = reinterpret_cast<GridBlock<T::kRows>*>(memory);
    uint32_t rest = blockIdx.x;
    own_head = grid->first_head + next_digit(rest, grid->heads);
    kv_head = own_head / (problem.heads / problem.kv_heads);
    part = next_digit(rest, max(problem.parts, 1));
    own_batch = next_digit(rest, problem.batch);
    if (threadIdx.x == 0) block->start(problem, static_cast<int32_t>(rest));
    __syncthreads();
    block->set_begins(*grid, static_cast<int32_t>(threadIdx.x), T::kThreads);
    __syncthreads();
    return true;
  }

  __device__ const GridTiles& tiles(const Problem&) const { return block->tiles; }
  __device__ int32_t batch() const { return own_batch; }

  // Whether some row of the warp whose first one this is exists. A whole warp.
  __device__ bool any_from(int32_t row) const {
    const bool own = exists(row + static_cast<int32_t>(threadIdx.x) % T::kWarpRows);
    return __any_sync(0xffffffff, own);
  }
  __device__ bool exists(int32_t row) const { return block->exists(*grid, row); }
  __device__ GridRow row(int32_t row) const { return {block->query(*grid, row), own_head}; }

  __device__ int64_t query(const Problem&, const GridRow& of) const { return block->token(*grid, of.at); }
  __device__ int64_t query_offset(const Problem& problem, const GridRow& of) const {
    return offset(problem.q_strides, grid->q, of);
  }
  __device__ int64_t out_offset(const Problem& problem, const GridRow& of, int64_t) const {
    return offset(problem.out_strides, grid->out, of);
  }

 private:
  __device__ int64_t offset(const Strides& strides, const int64_t (&axes)[kMostAxes], const GridRow& of) const {
    return own_batch * strides.batch + of.head * strides.head + block->offset(*grid, axes, of.at);
  }
};

}  // namespace na::cuda
