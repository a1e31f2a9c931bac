// What comes before attention over a sparse plan: its rows are laid out for the kernels, and cut into tiles.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <numeric>

#include "attention/problem.h"
#include "core/backend.h"
#include "tile/exponent.h"

namespace na::cuda {

// Where it is noted of which pages the keys of listed blocks are: a byte for each of the first `count` pages.
struct TouchedPages {
  uint8_t* marks;  // [batch of the plan, count]; nullptr: nobody asks
  int64_t count;
  Divisor tokens;  // of a page
};

// What becomes of the words of a plan.
struct Unfolded {
  PlanRow* rows;      // [batch, pattern heads, tiles]
  PlanBlock* blocks;  // [words of the plan]
  int32_t batch;      // that of the plan; with pages, of the call
  int32_t level;      // of entries: blocks are those of means of 2^level keys. 0: of the keys themselves
  Pages pages;        // level > 0, with tables: batch entries have keys of their own number
  TouchedPages touched;
};

// Enqueues what makes it. Words are not trusted: what names a block or a bitmap that there is not is left out, as on
// the CPU, and so are entries with another level; whether a block is full follows from where it lies.
cudaError_t unfold_plan(const na_plan& plan, const Unfolded& to, cudaStream_t stream);

// What tells for which runs of queries, of so many tiles, it is better to walk such rows by blocks of keys.
struct Sights {
  RowSight* rows;                 // as Unfolded::rows
  uint32_t* marks;                // sight_marks() words: of each run a bit for each block that begins a chain
  int32_t run_tiles, mark_words;  // words of a run
};
inline int32_t mark_words(const na_plan& plan) {
  const int64_t blocks = (plan.keys + plan.key_block - 1) / plan.key_block;
  return static_cast<int32_t>((blocks + 31) / 32);
}
inline int64_t sight_marks(const na_plan& plan, int32_t run_tiles) {
  const int64_t tiles = (plan.queries + plan.query_tile - 1) / plan.query_tile;
  return plan.batch * plan.heads * ((tiles + run_tiles - 1) / run_tiles) * mark_words(plan);
}

// Enqueues what makes it, from rows that are of the plan's own batch.
cudaError_t see_plan(const na_plan& plan, const Unfolded& unfolded, const Sights& to, cudaStream_t stream);

// Enqueues attention for these runs, which attention_sm80() then leaves out.
cudaError_t attention_by_keys(const Problem& problem, Element element, cudaStream_t stream);

// attention_sm80() for the tiles of queries [first, end) of a plan alone.
cudaError_t attention_over_tiles(const Problem& problem, Element element, int32_t first, int32_t end,
                                 cudaStream_t stream);

// Enqueues what leaves of such rows and blocks only what neighborhoods show, of which `grid` says extents and settings:
// every block gets a bitmap of its own, in `bitmaps`, which are as many words as cut_words() says.
cudaError_t cut_plan(const na_plan& plan, const Grid& grid, PlanRow* rows, PlanBlock* blocks, uint32_t* bitmaps,
                     cudaStream_t stream);
inline int64_t cut_words(const na_plan& plan) {
  return plan.entries->shape[0] * plan.key_block * ((plan.query_tile + 31) / 32);
}

// How the queries of a plan become tiles of at most so many rows: each tile has queries of one row of the plan, and
// heads that share its pattern and a key head.
struct PlanTiling {
  int32_t shared;      // heads that follow each other with one pattern and one key head
  int32_t packed;      // of these in a tile
  int32_t head_tiles;  // for all of these
  int32_t queries;     // of a tile
  int32_t slots;       // tiles for all queries
};

inline PlanTiling plan_tiling(const Problem& problem, int32_t rows) {
  PlanTiling tiling;
  tiling.shared = std::gcd(problem.heads / problem.kv_heads, problem.heads / problem.plan.heads);
  const int32_t row_queries = std::min(1 << problem.plan.query_tile, std::max(problem.queries, 1));
  tiling.packed = std::clamp(rows / row_queries, 1, tiling.shared);
  tiling.head_tiles = (tiling.shared + tiling.packed - 1) / tiling.packed;
  // Both are powers of two where a row of the plan has more queries than fit: then the one divides the other.
  tiling.queries = std::min(1 << problem.plan.query_tile, rows / tiling.packed);
  tiling.slots = (problem.queries + tiling.queries - 1) / tiling.queries;
  return tiling;
}

// How runs of so many tiles of queries become items of work: each has queries of one run, and heads that share its
// pattern and a key head.
struct KeyMajorTiling {
  int32_t shared, packed, head_tiles;  // as of a PlanTiling; few queries of a run see a block, whatever the tile
  int32_t runs, items;                 // for all queries; for all heads and batch entries
};

inline KeyMajorTiling key_major_tiling(const Problem& problem, int32_t run_tiles) {
  constexpr int32_t kMostPacked = 16;  // the rows of the smallest tile
  KeyMajorTiling tiling;
  tiling.shared = std::gcd(problem.heads / problem.kv_heads, problem.heads / problem.plan.heads);
  tiling.packed = std::min(tiling.shared, kMostPacked);
  tiling.head_tiles = (tiling.shared + tiling.packed - 1) / tiling.packed;
  tiling.runs = (problem.plan.tiles + run_tiles - 1) / run_tiles;
  tiling.items = problem.batch * (problem.heads / tiling.shared) * tiling.head_tiles * tiling.runs;
  return tiling;
}

}  // namespace na::cuda
