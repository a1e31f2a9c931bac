// What a sparse plan does not list but estimates: a plan over the means of blocks, whose keys these are. It is made on
// the device, of what unfold_plan() has laid out, for some tiles of queries at a time.
#pragma once

#include <cuda_runtime_api.h>

#include "attention/problem.h"
#include "core/plan_entry.h"

namespace na::cuda {

// Kernels of plans take blocks of two keys and more, so the means are listed in pairs. Of a pair of which one counts, a
// bitmap hides the other.
constexpr int32_t kPairExponent = 1, kPairBitmaps = 2;

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
};

// Enqueues what makes bitmaps and log_counts.
cudaError_t count_keys(const Unlisted& unlisted, cudaStream_t stream);

// Enqueues what makes the rows of the tiles [first, end), and their pairs.
cudaError_t list_unlisted(const Unlisted& unlisted, int32_t first, int32_t end, cudaStream_t stream);

}  // namespace na::cuda
