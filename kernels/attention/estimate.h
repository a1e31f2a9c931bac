// What a sparse plan does not list but estimates: a plan over the means of blocks, whose keys these are. It is made on
// the device, of what unfold_plan() has laid out, for some tiles of queries at a time.
#pragma once

#include <cuda_runtime_api.h>

#include "attention/problem.h"
#include "core/plan_entry.h"
#include "tile/segments.h"

namespace na::cuda {

// Kernels of plans take blocks of two keys and more, so the means are listed in pairs. Of a pair of which one counts, a
// bitmap hides the other.
constexpr int32_t kPairExponent = 1, kPairBitmaps = 2;

// The means of a cache's keys, or of its values (na_summaries).
struct CachedMeans {
  Segments segments;
  const char* rest;  // [batch, rest_bytes]: what is behind them
  int64_t rest_bytes;
};

// The same as pages for attention: a segment is one, and what is behind them. Only means that are there are listed, so
// that all entries of the batch may have as many as the longest.
struct MeanPages {
  CachedMeans keys, values;
  int64_t* tables;  // [batch, 1 + 2 * room], see Pages. nullptr: means are tensors
  int32_t room;     // pages of keys, and of values
  int32_t each;     // means in a page, as an exponent
};

struct Unlisted {
  PlanShape shape;
  SparseRows plan;  // laid out
  Pages pages;      // with tables: batch entries have keys of their own number

  int32_t batch;         // of the rows below: 1 where all entries are alike
  int32_t blocks, room;  // of the longest sequence; of a row, for pairs
  PlanRow* rows;         // [batch, heads, tiles]
  PlanBlock* pairs;      // [batch, heads, tiles at a time, room]
  uint32_t* bitmaps;  // [kPairBitmaps, 2, words of a bit for each query]: who sees the even key alone, and the odd one
  float* log_counts;  // [batch, blocks]: the logarithm of how many keys a block has
  MeanPages means;
};

// Enqueues what makes bitmaps, log_counts and the tables of means.
cudaError_t describe_means(const Unlisted& unlisted, cudaStream_t stream);

// Enqueues what makes the rows of the tiles [first, end), and their pairs.
cudaError_t list_unlisted(const Unlisted& unlisted, int32_t first, int32_t end, cudaStream_t stream);

}  // namespace na::cuda
