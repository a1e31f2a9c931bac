// What the parts of the executor share: plain data, so that code compiled for different instruction sets
// has no inline function in common (the linker would keep one copy of it, for whichever set).
//
// One attention is cut into tiles: a tile is a set of query rows, the lanes, that share a stream of key
// tiles. plan.cc says which rows and which keys; tile.h, compiled once per instruction set, does the sums.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace na::cpu {

constexpr int kMaxAxes = 3;

// Keys whose codes are looked at together when it is decided who sees them.
constexpr int kStrip = 16;

// Sizes of an instruction set: a block is what the registers hold at once, a tile is one or more blocks.
struct Geometry {
  int width;                  // query rows in a vector
  int lanes;                  // query rows in a block
  int blocks;                 // at most, in a tile
  int keys;                   // at most, in a key tile
  int parts;                  // AMX: bfloat16 that make up an element of q, k or v; 0: they are float32
  int head_step, value_step;  // headDim is padded to a multiple of these
  int few;                    // query rows of a key head up to which a tile is done by rows.h
};

// Where the rows of a tensor are; strides in bytes.
struct Rows {
  char* data;
  int64_t batch, head;
  int64_t token[kMaxAxes];
};

struct Bias {
  const float* data;
  int64_t batch, head, query, key;  // strides in elements
};

// "The code of the key lies in the lane's interval", the form that every mask takes. On an axis with dilation the
// code of coordinate x is (x % dilation) * code_stride + x / dilation, so that a dilation group is contiguous. Along
// the constraint that bounds the walk it is where the walk stands.
struct Constraint {
  int axis;  // of the keys; -1: the flat position
  bool wrap;
  int64_t dilation;
};

// What one mask says on one axis; the terms of a constraint are intersected.
struct Term {
  int constraint;
  bool neighborhood;       // else a window on flat positions
  int64_t left, right;     // window
  int64_t window, stride;  // neighborhood
  bool causal;
};

// How the tokens of one setting of masks are cut into query tiles: boxes within dilation groups.
struct TilePlan {
  int axes;  // 1, queries counted flat, unless there is a neighborhood
  int64_t dilation[kMaxAxes];
  int64_t box[kMaxAxes];
  int64_t block[kMaxAxes];  // boxes in the box, whose tokens are lanes side by side
  int kv_heads;             // key heads in a tile; several: with all their query heads
  int heads;                // query heads in a tile for each of its key heads
  int primary[kMaxAxes];    // the constraint that bounds the keys visited along an axis; -1: none
  int primaries;            // constraints [0, primaries) are those
  int constraint_count, term_count;
  const Constraint* constraints;
  const Term* terms;
};

struct Problem {
  int dtype;
  int64_t batch, heads, kv_heads, group;
  int head_dim, value_dim;
  int query_axes, key_axes;
  int64_t query_extent[kMaxAxes], key_extent[kMaxAxes];
  int64_t queries, keys;
  Rows q, k, v, out, lse, extra_k, extra_v;
  int64_t extra;
  const float* sinks;
  int64_t sink_stride;
  const Bias* biases;
  int bias_count;
  float scale;
  float cap;  // 0: none
  Geometry geometry;
  int head_pitch, value_pitch;  // head_dim and value_dim, padded as the instruction set likes
  int element_bytes;            // of q, k and v in scratch memory
  int constraints;              // at most, in any plan
};

class Cancel;

// The keys of a tile in several tasks, each with its share of them. Whichever ends last merges what all have summed.
struct Split {
  int part, parts;
  float* sums;    // of each part and lane: a row of output, then the maxima, then the totals
  int64_t pitch;  // from part to part, lanes * (row_pitch() + 2) or more
  int32_t* left;  // parts that have not ended
};

// One task. The job says which, begin_tile() fills the lanes, next_keys() one key tile after the other. The arrays
// are in scratch memory.
struct Tile {
  const TilePlan* plan;
  const Cancel* cancel;
  int64_t index;  // of the tile among those of its plan
  int64_t batch, kv_head, head;
  int kv_heads, heads;                              // from kv_head and from head on
  int64_t query_origin, queries, key_origin, keys;  // of the sequence; origins are 0 unless ragged
  Split split;

  int lanes, blocks;  // in use
  int32_t* lane_head;
  int64_t* lane_query;
  char** lane_q;
  char** lane_out;
  float** lane_lse;
  int32_t** low;                // [constraint][lane]
  int32_t** length;             // [constraint][lane]
  int32_t* wrap;                // [constraint]; 0: none
  int32_t *low_at, *length_at;  // of one constraint, by the coordinate in the box
  int64_t* code_stride;

  // [constraint][vector of lanes]: what any lane of it sees, what all see.
  int32_t **any_low, **any_high, **all_low, **all_high;

  // The keys at hand.
  int count;
  bool extra;       // neither masked nor biased
  int constraints;  // on them: those of the plan, or none
  const char** k;   // of kv_head
  const char** v;
  int64_t k_head, v_head;           // bytes from one key head to the next
  int64_t* key;                     // flat index, for biases
  int32_t** code;                   // [constraint][key],
  int32_t **code_low, **code_high;  // [constraint][strip]

  // The walk: extra keys, then the box of keys that any lane sees. On a wrapping axis it may begin below 0 or end
  // beyond the length.
  int64_t extra_done;
  int64_t residue[kMaxAxes], dilation[kMaxAxes], group_length[kMaxAxes];  // along the key axes
  int64_t begin[kMaxAxes], end[kMaxAxes];
  int64_t at[kMaxAxes];

  // The keys after those at hand, so that their rows can be fetched while sums are made.
  int ahead, fetched;
  const char** ahead_k;
  const char** ahead_v;
  int64_t* ahead_key;
  int32_t** ahead_code;
};

// How keys at hand lie to a block: vectors of its lanes [from, to) see some of them, the others none.
struct Sight {
  int from, to;
  uint32_t hiding;  // bits of the constraints that hide some of them from these lanes, the last for all further ones
};

constexpr int kLastBit = 31;

// Scratch memory of the sums. A block of a tile has its queries, and its output so far, with lanes innermost. AMX has
// its own order of q, k and v.
struct Sums {
  float* q;        // [block][head_pitch][lane]
  float* out;      // [block][value_pitch][lane]
  float* maximum;  // [block][lane], in units of log2
  float* total;    // [block][lane]
  float* scores;   // [key][lane], of one block
  float* bias;     // likewise
  float* k;        // [key][head_pitch], where k is not float32
  float* v;        // [key][value_pitch]
  const float** k_row;
  float* rows;        // rows of q and of out, row_pitch() apart
  uint16_t* weights;  // AMX: [key / 32][part][key / 2][lane][key % 2]
};

// Lanes of a tile of several key heads.
constexpr int kMostRows = 32;
int row_pitch(const Problem& problem);
size_t scratch_bytes(const Problem& problem);

// Fills the lanes; `tile` and `sums` point into scratch from then on.
void begin_tile(const Problem& problem, Tile& tile, Sums& sums, void* scratch);
bool next_keys(const Problem& problem, Tile& tile);  // false: no more, or cancelled
// Of the keys at hand, `count` from `first`, a multiple of kStrip.
Sight sight(const Problem& problem, const Tile& tile, int block, int first, int count);
int64_t tile_count(const TilePlan& plan, const int64_t* extent);

// The sums of one tile, on each instruction set.
void run_generic(const Problem& problem, Tile& tile, Sums& sums);
void run_avx2(const Problem& problem, Tile& tile, Sums& sums);
void run_avx512(const Problem& problem, Tile& tile, Sums& sums);
void run_amx(const Problem& problem, Tile& tile, Sums& sums);

}  // namespace na::cpu
