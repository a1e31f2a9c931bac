// Means of keys that follow each other, which attention over a plan takes for keys: of blocks with a level, and of
// those that a plan estimates, since it does not list them. Rows of the former unfold_plan() makes; those of the latter
// are made of what it has laid out, for some tiles of queries at a time.
#pragma once

#include <cuda_runtime_api.h>

#include "attention/problem.h"
#include "core/backend.h"
#include "core/plan_entry.h"
#include "tile/segments.h"

namespace na::cuda {

// The means of a cache's keys, or of its values (na_summaries).
struct CachedMeans {
  Segments segments;
  const char* rest;  // [batch, rest_bytes]: what is behind them
  int64_t rest_bytes;
};

// The same as pages for attention: a segment is one, and what is behind them.
struct MeanPages {
  CachedMeans keys, values;
  int64_t* tables;  // [batch, 1 + 2 * room], see Pages. nullptr: means are tensors
  int32_t room;     // pages of keys, and of values
  int32_t each;     // means in a page, as an exponent
};

// Of 2^level keys each, or of fewer where these end.
struct Means {
  int32_t level, keys;  // keys: of the longest sequence
  Pages pages;          // of keys, with tables: batch entries have keys of their own number
  int32_t batch;        // 1 where all entries are alike
  int32_t count;        // of the longest sequence
  float* log_counts;    // [batch, count]: the logarithm of how many keys a mean has
  MeanPages of_cache;
};

// Enqueues what makes log_counts and the tables of means.
cudaError_t describe_means(const Means& means, cudaStream_t stream);

// Kernels of plans take blocks of two keys and more, so the means of blocks are listed in pairs. Of a pair of which one
// counts, a bitmap hides the other. A pair with a block that the plan shows to some queries of the row has a bitmap of
// its own, behind these two: the mean counts for the others.
constexpr int32_t kPairExponent = 1, kPairBitmaps = 2;

struct Unlisted {
  PlanShape shape;
  SparseRows listed[NA_LEVELS];  // laid out: of keys, and of the levels that there are
  int32_t listed_count;
  Pages pages;  // with tables: batch entries have keys of their own number

  int32_t batch;      // of the rows below: 1 where all entries are alike
  int32_t room;       // of a row, for pairs
  PlanRow* rows;      // [batch, heads, tiles]
  PlanBlock* pairs;   // [batch, heads, tiles at a time, room]
  uint32_t* bitmaps;  // [n, 2, words of a bit for each query]: who sees the even mean alone, and the odd one. Where the
                      // plan has bitmaps, then those of each place that `pairs` has
};

// Enqueues what makes bitmaps, the rows of the tiles [first, end), and their pairs.
cudaError_t list_unlisted(const Unlisted& unlisted, int32_t first, int32_t end, cudaStream_t stream);

}  // namespace na::cuda
