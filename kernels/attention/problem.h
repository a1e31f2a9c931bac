// One attention problem as its kernels see it: plain data, passed to them by value.
#pragma once

#include <stdint.h>

namespace na::cuda {

enum class Element : int32_t { kFloat32, kFloat16, kBfloat16 };

// Elements between neighbours. The last axis of every tensor has stride 1.
struct Strides {
  int64_t batch, token, head;
};

enum class BiasKind : int32_t { kDense, kLowRank, kAlibi, kDistance, kRelative };

constexpr int kMostAxes = 3, kMostCoordinates = 4;

// A row for each token. Strides in elements, of columns 1 where they are factors.
struct BiasRows {
  const float* data;
  int64_t batch, head, token, column;
};

// To divide numbers from 0 up to 2^31 by one that is known beforehand: n / number is, without the bits that it loses,
// (n * multiplier / 2^32 + n) / 2^shift (Granlund and Montgomery 1994).
struct Divisor {
  int32_t number;
  uint32_t multiplier;
  int32_t shift;
};

// float32, added to the scaled and capped score; what the kinds mean is said at na_bias_kind.
struct Bias {
  BiasKind kind;
  const float* data;                // dense: the values; else slopes or weights (either may be nullptr) or the table
  int64_t batch, head, query, key;  // its strides in elements, 0 where it is broadcast
  const int64_t* places;            // dense: where a head's values are in place of its own number; -1: it has none.
                                    // nullptr: each head has its own

  // Low rank and distance: what queries and keys have, and how many columns; whether these may be read in pairs.
  BiasRows q, k;
  int32_t columns;
  bool aligned;

  // Relative positions on each axis: its tokens, tokens to a step, and steps and stride of the table. Axes that a call
  // does not have come last, with extent and step 1, reach and stride 0.
  Divisor extent[kMostAxes], step[kMostAxes];
  int32_t reach[kMostAxes], stride[kMostAxes];
};

// One token axis of a neighborhood, see tile/grid.h.
struct Axis {
  int32_t window, stride, dilation;
  bool causal, wrap;
};

constexpr int kMostNeighborhoods = 4;

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

// A block of keys that a row of a sparse plan lists: its first key, and the index of its bitmap, or -1. Keys below 0
// are none.
struct PlanBlock {
  int32_t key, bitmap;
};

// The blocks of a row: [begin, begin + count). Of the first `full`, every query of the row sees all keys.
struct PlanRow {
  int32_t begin, full, count;
};

// What a row of a plan lists, as walks by blocks of keys see it: pairs of a query and a block, and chains of blocks
// that follow each other and that the same queries see.
struct alignas(16) RowSight {
  float listed;  // pairs
  float seen;    // those where the query sees the block; infinity if a bitmap shows a query some of its keys alone
  float begun;   // those of these whose block begins a chain
  float chains;  // that begin or end here, and in no row of the run that was looked at before
};

// How a plan is walked by blocks of keys, see sm80/key_major.h: runs of tiles of queries, so many at a time.
struct KeyMajor {
  const RowSight* sights;  // as SparseRows::rows. nullptr: no run is
  int32_t* taken;          // [batch, heads, runs] of patterns: whether a run is, as the kernel that walks so has found
  int32_t runs, run_tiles, places;  // run_tiles is kMostRunTiles at most
  int32_t tile_rows, tile_keys;     // of a tile of the kernels
  int32_t packed;                   // heads that are in a tile with each query
  float odds;                       // what time a row of a tile takes, over that of a query that is walked by rows
  // Of each place, what its run sums up: for each query and head that is packed with others.
  float2* sums;  // the largest score, and the sum of exponentials relative to it
  float* out;    // value_dim columns, rounded up to a multiple of eight
};

// A sparse plan, see core/backend.h, as unfold_plan() lays it out.
struct SparseRows {
  const PlanRow* rows;  // [batch, heads, tiles]
  const PlanBlock* blocks;
  const uint32_t* bitmaps;        // [count, keys of a block, words]: a bit for each query of a row
  int32_t batch, heads, tiles;    // of patterns; tiles of queries. heads is 0: there is no plan
  int32_t query_tile, key_block;  // exponents of two
  bool masked;                    // a window hides keys of full blocks, too
  KeyMajor by_keys;
};

// Keys and values in pages of memory. A page holds the keys of its tokens, with the strides of a problem's k, and
// value_offset bytes from its beginning their values. Tokens of a batch entry fill its pages in turn. These strides
// count bytes, since a row of int8 need not be a multiple of any element.
struct Pages {
  const int64_t* tables;  // [batch, pitch]: of each entry how many tokens it has, then the addresses of its pages
  int64_t pitch, value_offset;
  Divisor tokens;       // in a page
  int64_t value_pages;  // of plans alone: places in a table from that of a page to that of the page with its values
  bool int8;  // rows are of int8, with the unit that they count behind them (na_pages), not of the problem's element
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

constexpr int kMostRunTiles = 32;   // a lane of a warp has one
constexpr int kMostQueryWords = 4;  // of a key in a bitmap

inline bool is_sparse(const Problem& problem) { return problem.plan.heads > 0; }

// Whether biases are computed, not only read.
inline bool computes_biases(const Problem& problem) {
  for (int32_t b = 0; b < problem.bias_count; b++) {
    if (problem.biases[b].kind != BiasKind::kDense) return true;
  }
  return false;
}

// Kernels of which dimensions compute biases. Few, since that takes long to compile: narrower problems are padded.
constexpr bool may_compute_biases(int head_dim, int value_dim) {
  return head_dim == value_dim && (head_dim == 64 || head_dim == 128 || head_dim == 256);
}

// On a grid that of one dimension: others would have no registers for it.
constexpr int biased_columns_on_grid(Element element) { return element == Element::kFloat32 ? 64 : 128; }

// Whether heads have factors of keys of their own, so that they cannot share a tile.
inline bool heads_apart(const Problem& problem) {
  for (int32_t b = 0; b < problem.bias_count; b++) {
    if (problem.biases[b].kind == BiasKind::kLowRank && problem.biases[b].k.head != 0) return true;
  }
  return false;
}

}  // namespace na::cuda
