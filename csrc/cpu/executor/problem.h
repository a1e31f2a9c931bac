// What the parts of the executor share: plain data, so that code compiled for different instruction sets
// has no inline function in common (the linker would keep one copy of it, for whichever set).
//
// One attention is cut into tiles: a tile is a set of query rows, the lanes, that share a stream of key
// tiles. plan.cc says which rows and which keys; tile.h, compiled once per instruction set, does the sums.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct na_plan;
struct na_summaries;

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

// Keys and values in pages: see na_pages. Rows then say the strides within a page.
struct Pages {
  int64_t tokens, value_offset;
  void* const* const* tables;
  const int64_t* lengths;
  bool int8;
};

// Rows of float32 for each token; strides in elements.
struct Factors {
  const float* data;
  int64_t batch, head, token, column;
};

struct Bias {
  int kind;                         // na_bias_kind
  const float* data;                // dense: the values; else slopes, weights (either may be nullptr) or the table
  int64_t batch, head, query, key;  // its strides in elements
  const int32_t* places;            // dense: see na_bias
  Factors q, k;                     // low rank, distance
  int columns;                      // of them: the rank, or the number of coordinates
  int64_t heads;                    // of the problem
  // Relative positions: token axes, and for each its length, tokens to a step, and steps and stride of the table.
  int axes;
  int64_t extent[kMaxAxes], step[kMaxAxes], reach[kMaxAxes], stride[kMaxAxes];
  bool covered;      // no difference lies beyond the table
  int lane_columns;  // floats that are packed for a lane
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
  const Pages* pages;  // where k and v are, or nullptr
  int64_t extra;
  const float* sinks;
  int64_t sink_stride;
  const Bias* biases;
  int bias_count;
  int factor_pitch;  // AMX: columns of the parts of low rank biases, padded; 0: tile registers do not multiply them
  float scale;
  float cap;  // 0: none
  Geometry geometry;
  int head_pitch, value_pitch;                            // head_dim and value_dim, padded as the instruction set likes
  int element_bytes;                                      // of q, k and v in scratch memory
  int constraints;                                        // at most, in any plan
  const na_plan* sparse;                                  // a sparse plan among the masks, or null
  bool estimate;                                          // the plan's blocks that are not seen count as their means
  bool means;                                             // these do, or some that are listed, of levels
  const na_summaries *const *pooled_k, *const *pooled_v;  // by level

  // Of a query's row in q, out or lse, in bytes.
  int64_t offset(const Rows& rows, int64_t entry, int64_t head, int64_t query) const {
    int64_t bytes = entry * rows.batch + head * rows.head;
    for (int axis = query_axes - 1; axis >= 0; axis--) {
      bytes += query % query_extent[axis] * rows.token[axis];
      query /= query_extent[axis];
    }
    return bytes;
  }
};

class Cancel;

// The keys of a tile in several tasks, each with its share of them. Whichever ends last merges what all have summed.
struct Split {
  int part, parts;
  float* sums;    // of each part and lane: a row of output, then the maxima, then the totals
  int64_t pitch;  // from part to part, lanes * (row_pitch() + 2) or more
  int32_t* left;  // parts that have not ended
};

// One row of a sparse plan, or the full or the other part of one, while it is walked.
struct Stream {
  int64_t at, end;  // words
  int64_t block;    // that of the entry that comes next; beyond all when there is none
  const uint32_t* bitmap;
  int row;  // of those of the tile
};

// The walk of a tile through its rows of a sparse plan. A key has a bit for each query of the tile.
struct SparseWalk {
  Stream* streams;
  int stream_count;
  int64_t key, end;          // what is left of the block at hand
  int words;                 // of the bits of a key; 0: whatever is walked, all queries see
  uint32_t* full;            // [words]: who sees all of the block at hand
  const uint32_t** bitmaps;  // [row]: who sees some of it; null otherwise
  uint32_t *bits, *ahead;    // [key][words]
  uint32_t *some, *all;      // [strip][words]: seen by somebody, by everybody
  int32_t* lane_bit;         // [lane]
  int32_t* vector_word;      // [vector of lanes]: the word its lanes' bits are in; -1: several
  uint32_t* vector_bits;     // likewise: these bits
  // Of the tile's one row, where some count as means: blocks [pooled, pooled_end) may, but for those that the row
  // lists, the full ones, the others, and those of means; if with a bitmap, they do for who sees nothing of them.
  int64_t tile, pooled, pooled_end;
  Stream listed[3];
  // What is left of the entries of means, of which blocks from `whole` on are passed over: from mean `mean` of
  // `mean_end` of a block on, then words.
  int64_t whole, mean, mean_end, mean_at, mean_words_end;
  int mean_level;
};

// Queries that see one block of a sparse plan, wherever they stand (key_major.h): the lanes of a tile, which adds to
// what they have summed so far. Of a head and a query of the run: a row of output, row_pitch() apart, a maximum and a
// total, as in Sums.
struct Gathered {
  const int32_t* queries;
  int count;
  int64_t block;       // -1: none, but sinks and extra keys
  int64_t first, run;  // queries that have sums; those of the tile's next head come behind them
  float *out, *maximum, *total;

  int64_t row(int64_t head, int64_t query) const { return head * run + query - first; }
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
  const Gathered* gathered;  // null: the queries of a box, which end with the tile
  bool begins;               // no other part or block of its queries has sinks and extra keys

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
  bool pooled;      // extra, but each stands for as many keys as 2^log_counts
  int constraints;  // on them: those of the plan, or none
  const char** k;   // of kv_head
  const char** v;
  int64_t k_head, v_head;           // bytes from one key head to the next
  char *wide_k, *wide_v;            // of int8 pages, in the dtype of the problem: [key][kv_heads], see widen.h
  int64_t* key;                     // flat index, for biases
  float* log_counts;                // of pooled keys
  int32_t** code;                   // [constraint][key],
  int32_t **code_low, **code_high;  // [constraint][strip]

  // The walk: extra keys, then the box of keys that any lane sees. On a wrapping axis it may begin below 0 or end
  // beyond the length.
  int64_t extra_done;
  int64_t residue[kMaxAxes], dilation[kMaxAxes], group_length[kMaxAxes];  // along the key axes
  int64_t begin[kMaxAxes], end[kMaxAxes];
  int64_t at[kMaxAxes];

  SparseWalk sparse;

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
  // Bits of the constraints that hide some of them from these lanes, kLastBit for all further ones, and kSparseBit for
  // bits of a sparse plan.
  uint32_t hiding;
};

constexpr int kLastBit = 30, kSparseBit = 31;

// Scratch memory of the sums. A block of a tile has its queries, and its output so far, with lanes innermost. AMX has
// its own order of q, k and v.
struct Sums {
  float* q;           // [block][head_pitch][lane]
  float* out;         // [block][value_pitch][lane]
  float* maximum;     // [block][lane], in units of log2
  float* total;       // [block][lane]
  float* scores;      // [key][lane], of one block
  float* bias;        // likewise
  float** lane_bias;  // [bias]: [block][column][lane], see bias.h; in rows.h a row of factors for each lane
  float* k;           // [key][head_pitch], where k is not float32
  float* v;           // [key][value_pitch]
  const float** k_row;
  float* rows;                      // rows of q and of out, row_pitch() apart
  uint16_t* weights;                // AMX: [key / 32][part][key / 2][lane][key % 2]
  uint16_t *factors_q, *factors_k;  // AMX: factors of biases of low rank, in parts, as q and k are kept
};

// Lanes of a tile of several key heads.
constexpr int kMostRows = 32;
int row_pitch(const Problem& problem);
int rank_pitch(const Bias& bias);  // of factors, likewise

// Products of bfloat16 parts that make one of two factors, see amx.cc, and the most of their columns for which there is
// room: those of all queries of a tile are to stay in the second-level cache.
constexpr int kFactorProducts = 6, kMostFactorPitch = 384;
size_t scratch_bytes(const Problem& problem);

// Fills the lanes; `tile` and `sums` point into scratch from then on.
void begin_tile(const Problem& problem, Tile& tile, Sums& sums, void* scratch);
bool next_keys(const Problem& problem, Tile& tile);  // false: no more, or cancelled
// The rows of kv_head of keys u ... u + count - 1, which lie in pages.
void find_pages(const Problem& problem, const Tile& tile, int64_t u, int count, const char** k, const char** v);
// Of the keys at hand, `count` from `first`, a multiple of kStrip.
Sight sight(const Problem& problem, const Tile& tile, int block, int first, int count);
int64_t tile_count(const TilePlan& plan, const int64_t* extent);
// What a query sees under a constraint: one at `position` among all, or at `index` of a dilation group of the given
// length. [begin, end), on a wrapping axis perhaps below 0 or beyond the length.
void lane_range(const TilePlan& plan, int c, int64_t index, int64_t position, int64_t length, int64_t* begin,
                int64_t* end);

// sparse.cc, for tiles of a problem with a sparse plan: rows of queries side by side.
void set_sparse_lanes(const Problem& problem, Tile& tile);      // once the lanes and their heads are known
void set_sparse_intervals(const Problem& problem, Tile& tile);  // of all constraints
void walk_sparse(const Problem& problem, Tile& tile);
bool add_pooled(const Problem& problem, Tile& tile);        // puts pooled keys at hand; false: no more of them
void note_sparse_bits(const Problem& problem, Tile& tile);  // of the keys at hand
// Of vectors of a block, those that see any of the strips' keys, and those that see all.
void sparse_sight(const Tile& tile, int first_vector, int vectors, int strip, int strips, unsigned* some,
                  unsigned* all);

// For each of some rows of keys its largest product with any of some rows of queries, all of one dtype. Queries are
// packed once, by pack_best, for all keys that follow.
struct BestScores {
  int dtype, head_dim;
  const char* const* queries;
  int query_count;
  float* packed;  // packed_floats(query_count, head_dim), 64-byte aligned
  const char* const* keys;
  int key_count;  // a multiple of kStrip
  float* best;    // [key_count]
};
constexpr int packed_pitch(int head_dim) { return (head_dim + 31) / 32 * 32; }
// Queries, rounded up to whole blocks of lanes, and room for some keys.
constexpr int64_t packed_floats(int query_count, int head_dim) {
  return int64_t{(query_count + 31) / 32 * 32 + 2 * kStrip} * packed_pitch(head_dim);
}

void pack_best_generic(const BestScores& wanted);
void pack_best_avx2(const BestScores& wanted);
void pack_best_avx512(const BestScores& wanted);
void pack_best_amx(const BestScores& wanted);
void best_scores_generic(const BestScores& wanted);
void best_scores_avx2(const BestScores& wanted);
void best_scores_avx512(const BestScores& wanted);
void best_scores_amx(const BestScores& wanted);

// A row of a mirror whose score may be among the best: it lies between these.
struct Hit {
  int32_t row;
  float low, high;
};

// A query of a scan: columns, and the whole numbers of steps that they are about.
struct ScanQuery {
  const float* columns;             // [quads * 4], zeros beyond those of a row
  const int16_t* steps;             // [quads * 4], up to 127 * 128 in magnitude
  const int32_t *high, *low;        // [quads]: four bytes each, of which steps are 128 * high + low
  int32_t high_excess, low_excess;  // 128 times their sums
  float unit;                       // of steps
  float relative, absolute;         // a score is off by at most relative * unit of the row + absolute * reach
  float slack;                      // what is added to steps * unit, so that no rounding hides a row that matters
  float threshold;                  // rows whose score is surely less do not matter
  Hit* hits;                        // those that may, `count` of them
  int64_t count;
};

// Rows [from, to) of a segment of a mirror, of one key head; the first row of it is number `first`.
struct Scan {
  const float* centre;
  const float* units;
  const uint8_t* codes;
  const uint8_t *next, *next_head;  // codes that are scanned after these, and what lies before them: fetched, not read
  float reach;
  int quads, from, to;
  int32_t first;
  ScanQuery* queries;
  int query_count;
};

void scan_rows_generic(const Scan& scan);
void scan_rows_avx2(const Scan& scan);
void scan_rows_vnni(const Scan& scan);  // AVX-512, with products of bytes

// Rows of keys or values: of a dtype, or of int8 with a unit behind each.
struct RowList {
  int dtype;
  bool int8;
  int columns;
  int64_t count;
  const char* const* rows;
};

// Products with a query, and sums of weighted rows. Queries and sums are zero up to a multiple of kStrip columns.
void score_list_generic(const RowList& list, const float* query, float* scores);
void score_list_avx2(const RowList& list, const float* query, float* scores);
void score_list_avx512(const RowList& list, const float* query, float* scores);
void score_list_amx(const RowList& list, const float* query, float* scores);
void add_list_generic(const RowList& list, const float* weights, float* sums);
void add_list_avx2(const RowList& list, const float* weights, float* sums);
void add_list_avx512(const RowList& list, const float* weights, float* sums);
void add_list_amx(const RowList& list, const float* weights, float* sums);

// The largest value that `wanted` of the values reach. None of these is NaN, and there are as many or more.
float reached_by_generic(const float* values, int64_t count, int64_t wanted);
float reached_by_avx2(const float* values, int64_t count, int64_t wanted);
float reached_by_avx512(const float* values, int64_t count, int64_t wanted);
float reached_by_amx(const float* values, int64_t count, int64_t wanted);

// Of each of some keys the centroid of the largest product, the first of several. Columns of 16 centroids lie side by
// side: [centroid / 16][column][16].
struct Assign {
  const float *keys, *centroids;
  int columns, key_count, centroid_count;  // centroids: a multiple of kStrip
  int32_t* labels;
};

void assign_keys_generic(const Assign& assign);
void assign_keys_avx2(const Assign& assign);
void assign_keys_avx512(const Assign& assign);
void assign_keys_amx(const Assign& assign);

// The sums of one tile, on each instruction set.
void run_generic(const Problem& problem, Tile& tile, Sums& sums);
void run_avx2(const Problem& problem, Tile& tile, Sums& sums);
void run_avx512(const Problem& problem, Tile& tile, Sums& sums);
void run_amx(const Problem& problem, Tile& tile, Sums& sums);

}  // namespace na::cpu
