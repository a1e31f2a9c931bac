// One attention problem as its kernels see it: plain data, passed to them by value.
#pragma once

#include <stdint.h>

namespace na::cuda {

enum class Element : int32_t { kFloat32, kFloat16, kBfloat16 };

// Elements between neighbours. The last axis of every tensor has stride 1.
struct Strides {
  int64_t batch, token, head;
};

// float32, added to the scaled and capped score. Strides in elements, 0 where it is broadcast.
struct Bias {
  const float* data;
  int64_t batch, head, query, key;
};

// One token axis of a neighborhood, see tile/grid.h.
struct Axis {
  int32_t window, stride, dilation;
  bool causal, wrap;
};

constexpr int kMostAxes = 3, kMostNeighborhoods = 4;

struct Neighborhood {
  Axis axes[kMostAxes];
};

// Tokens on a grid: queries and keys are both the product of the extents, in row-major order. Axes that a call does not
// have come first, with extent and window 1.
struct Grid {
  int32_t extent[kMostAxes];

  // Intersected. Tiles are chosen for the first one, and are boxes of its dilation groups; their sides are powers of
  // two, given by their exponents, with as many queries and keys in all as a tile of the kernel has.
  Neighborhood neighborhoods[kMostNeighborhoods];
  int32_t neighborhood_count;  // 0: there is no grid
  int32_t query_box[kMostAxes], key_box[kMostAxes];

  // Elements between neighbours on each axis, in place of the strides between tokens.
  int64_t q[kMostAxes], k[kMostAxes], v[kMostAxes], out[kMostAxes];

  // The heads [first_head, first_head + heads) alone are computed, which share the neighborhoods.
  int32_t first_head, heads;
};

// A block of keys that a row of a sparse plan lists: its first key, and the index of its bitmap, or -1.
struct PlanBlock {
  int32_t key, bitmap;
};

// The blocks of a row: [begin, begin + count). Of the first `full`, every query of the row sees all keys.
struct PlanRow {
  int32_t begin, full, count;
};

// A sparse plan, see core/backend.h, as unfold_plan() lays it out.
struct SparseRows {
  const PlanRow* rows;  // [batch, heads, tiles]
  const PlanBlock* blocks;
  const uint32_t* bitmaps;        // [count, keys of a block, words]: a bit for each query of a row
  int32_t batch, heads, tiles;    // of patterns; tiles of queries. heads is 0: there is no plan
  int32_t query_tile, key_block;  // exponents of two
  bool masked;                    // a window hides keys of full blocks, too
};

// Division of what is below 2^31 by a number known to the host: multiplied by `factor`, divided by 2^shift.
struct Divisor {
  int32_t value;
  uint32_t factor;
  int32_t shift;
};

// Keys and values in pages of memory. A page holds the keys of its tokens, with the strides of a problem's k, and
// value_offset bytes from its beginning their values. Tokens of a batch entry fill its pages in turn.
struct Pages {
  const int64_t* tables;  // [batch, pitch]: of each entry how many tokens it has, then the addresses of its pages
  int64_t pitch, value_offset;
  Divisor tokens;  // in a page
};

constexpr int kMostBiases = 4;
constexpr int32_t kUnlimited = INT32_MAX;

// out = softmax(mask(softcap(scale * q k^T) + biases)) v and the natural logarithm of the sum of exponentials, in
// float32. q is [batch, queries, heads, head_dim], k [batch, keys, kv_heads, head_dim], v and out likewise with
// value_dim; heads is a multiple of kv_heads. A row that sees no key gives 0 and -infinity.
struct Problem {
  const void *q, *k, *v;
  void* out;
  float* lse;  // [batch, queries, heads], contiguous
  Strides q_strides, k_strides, v_strides, out_strides;
  int32_t batch, heads, kv_heads, queries, keys, head_dim, value_dim;

  // The query at position p = i + keys - queries sees keys p - left ... p + right.
  int32_t left, right;

  float scale;
  float softcap;        // 0: none
  const float* sinks;   // [heads], or nullptr
  int64_t sink_stride;  // elements
  Bias biases[kMostBiases];
  int32_t bias_count;

  // Packed sequences: batch is 1, queries and keys count all packed tokens, and sequence s has those from cu_q[s] up
  // to cu_q[s + 1] and cu_k[s] up to cu_k[s + 1]. The values are clamped, see tile/sequence.h. nullptr: none.
  const int32_t *cu_q, *cu_k;
  int64_t cu_q_stride, cu_k_stride;
  int32_t sequences;

  // Parts of the keys whose results are to be combined, see combine(). Without parts (0), kernels write out
  // and lse and take the sinks into account. Otherwise the key tiles of each query tile are shared out among `parts`
  // blocks, and part n writes the normalised float32 result of its share to slot first_slot + n, leaving out the sinks:
  //   part_out [slots, batch, queries, heads, value_dim], part_lse [slots, batch, queries, heads].
  int32_t parts, first_slot;
  float *part_out, *part_lse;

  Grid grid;  // never with packed sequences

  SparseRows plan;  // never with packed sequences or a grid; its causality is among left and right
  // Where keys and values are instead of k and v; `keys` is the longest length. Without tables: nowhere else. Never on
  // a grid, and never with packed sequences.
  Pages pages;
};

inline bool is_sparse(const Problem& problem) { return problem.plan.heads > 0; }

}  // namespace na::cuda
