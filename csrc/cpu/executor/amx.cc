// Attention on AMX: the tile of tile.h, with the inner products on the tile registers.
//   scores  S^T = K Q^T: Q with pairs of columns side by side, as B operands want it
//   output  O^T += V^T P^T: V transposed once per key tile, P written in pairs of keys by the softmax
// bfloat16 is multiplied as it is, the other types as sums of parts (split.h). Queries are not scaled, so that products
// are those of the inputs; scores are, in float32. Biases of low rank are further columns of q and k, divided by the
// scale: their factors are float32, so that each is three parts, whatever the type of q.
#define NA_WIDTH 16
#define NA_VECTORS 2
#include "cpu/executor/best_scores.h"
#include "cpu/executor/block.h"
#include "cpu/executor/cluster.h"
#include "cpu/executor/exp2_table.h"
#include "cpu/executor/retrieve.h"
#include "cpu/executor/rows.h"
#include "cpu/executor/split.h"

namespace na::cpu {
namespace {

// A chunk of keys is two tile registers of rows, and one tile register deep.
constexpr int kChunk = 32, kTileRows = 16, kDeep = 32;

// Rows of keys to come that are fetched with each chunk.
constexpr int kFetched = 8;

// Of both operands, 32 x 32 elements lie together, all parts of them one after the other. A operands are two tiles of
// rows, so that memory is read in order; B operands have their pairs side by side, [pair][lane].
constexpr int kSquare = 32 * 32;

// A maximum may be stale by a factor of 2^kSlack: weights then stay far from overflow, what they are divided by
// holds the same factor, and the output so far need hardly ever be rescaled.
constexpr float kSlack = 8.0f;

// Where a bias makes scores grow along the keys, a maximum that is raised is raised further by this: it takes fewer
// turns then, and weights are still far from underflow.
constexpr float kHeadroom = 32.0f;

// A scale from which on biases can be divided by it.
constexpr float kLeastScale = 0x1p-60f;

// Scores from here on are rounded by so much that powers of what that leaves might overflow.
constexpr float kFar = 0x1p20f;

// Which queries, keys and values, a bit each, hold elements without parts, and are multiplied as float32; and the
// blocks and chunks, a bit each, in which factors of biases do.
constexpr int kMostBlocks = 32, kMostChunks = 8;
struct Whole {
  uint32_t queries[kMostBlocks], keys[kMostChunks], values[kMostChunks];
  uint32_t factors_q, factors_k;
};

struct alignas(64) TileConfig {
  uint8_t palette, start, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

void configure_tiles() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.row_bytes[i] = 64;
    config.rows[i] = kTileRows;
  }
  // The intrinsic does not say that it reads the structure.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

// Tiles 0 to 3 are sums, 4 and 5 of operand A, 6 and 7 of operand B.
NA_INLINE void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

NA_INLINE void load_sums(const float* from) {
  _tile_loadd(0, from, 4 * kLanes);
  _tile_loadd(1, from + kWidth, 4 * kLanes);
  _tile_loadd(2, from + kTileRows * kLanes, 4 * kLanes);
  _tile_loadd(3, from + kTileRows * kLanes + kWidth, 4 * kLanes);
}

NA_INLINE void store_sums(float* to) {
  _tile_stored(0, to, 4 * kLanes);
  _tile_stored(1, to + kWidth, 4 * kLanes);
  _tile_stored(2, to + kTileRows * kLanes, 4 * kLanes);
  _tile_stored(3, to + kTileRows * kLanes + kWidth, 4 * kLanes);
}

NA_INLINE void load_a(const uint16_t* square) {
  _tile_loadd(4, square, 2 * kDeep);
  _tile_loadd(5, square + kTileRows * kDeep, 2 * kDeep);
}

NA_INLINE void load_b(const uint16_t* square) {
  _tile_loadd(6, square, 4 * kLanes);
  _tile_loadd(7, square + 2 * kWidth, 4 * kLanes);
}

NA_INLINE void multiply_tiles() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// The products of parts, by which the sums of a square of A and one of B grow: all but those too small for float32.
template <int kCount>
constexpr int kProducts = kCount * (kCount + 1) / 2 + (kCount == 2);

// The parts that each of them takes, in the order in which fewest tiles are loaded anew.
struct Product {
  int a, b;
};
constexpr Product kOrder[][6] = {
    {{0, 0}}, {{0, 0}, {0, 1}, {1, 1}, {1, 0}}, {{0, 2}, {0, 0}, {0, 1}, {1, 1}, {1, 0}, {2, 0}}};

// Adds a square of A times one of B, whose first tiles are loaded already; `more`: loads those of the next square,
// which follows in memory. Calls between(product) after each product.
template <int kCount, int kProduct = 0, typename Between>
NA_INLINE void multiply(const uint16_t* a, const uint16_t* b, bool more, const Between& between) {
  constexpr const Product* kProductOf = kOrder[kCount - 1];
  if constexpr (kProduct < kProducts<kCount>) {
    multiply_tiles();
    if constexpr (kProduct + 1 < kProducts<kCount>) {
      constexpr Product kNow = kProductOf[kProduct], kNext = kProductOf[kProduct + 1];
      if (kNext.a != kNow.a) load_a(a + kNext.a * kSquare);
      if (kNext.b != kNow.b) load_b(b + kNext.b * kSquare);
    } else if (more) {
      load_a(a + (kCount + kProductOf[0].a) * kSquare);
      load_b(b + (kCount + kProductOf[0].b) * kSquare);
    }
    between(kProduct);
    multiply<kCount, kProduct + 1>(a, b, more, between);
  }
}

template <int kCount>
NA_INLINE void load_first(const uint16_t* a, const uint16_t* b) {
  load_a(a + kOrder[kCount - 1][0].a * kSquare);
  load_b(b + kOrder[kCount - 1][0].b * kSquare);
}

// Adds squares of A times squares of B, which lie one after the other.
template <int kCount, typename Between>
NA_INLINE void multiply_squares(int squares, const uint16_t* a, const uint16_t* b, const Between& between) {
  if (squares > 0) load_first<kCount>(a, b);
  for (int square = 0; square < squares; square++) {
    multiply<kCount>(a + square * kCount * kSquare, b + square * kCount * kSquare, square + 1 < squares, between);
  }
}

// What tile registers multiply to scores of a chunk: squares of K and Q, and those of factors of biases.
struct Operands {
  int squares, factor_squares;
  const uint16_t *k, *q, *factors_k, *factors_q;
};

template <int kCount, typename Between>
NA_INLINE void multiply_scores(const Operands& of, float* scores, const Between& between) {
  zero_sums();
  multiply_squares<kCount>(of.squares, of.k, of.q, between);
  multiply_squares<1>(of.factor_squares, of.factors_k, of.factors_q, between);
  store_sums(scores);
}

float inner_product(const Problem& problem, const char* a, const char* b) {
  Vector sum = {};
  for (int d = 0; d < problem.head_dim; d += kWidth) {
    const int columns = problem.head_dim - d;
    sum = multiply_add(load_elements(problem.dtype, a, d, columns), load_elements(problem.dtype, b, d, columns), sum);
  }
  float all = 0;
  for (int i = 0; i < kWidth; i++) all += sum[i];
  return all;
}

// Scores of the queries and keys that have no parts.
void replace_scores(const Problem& problem, const Tile& tile, const Block& block, const Whole& whole, int first,
                    int keys, float* scores) {
  const float turn = problem.scale < 0 ? -1.0f : 1.0f;
  for (int key = 0; key < keys; key++) {
    const bool all = whole.keys[first / kChunk] >> key & 1;
    for (int lane = 0; lane < block.lanes; lane++) {
      if (!all && !(whole.queries[block.index] >> lane & 1)) continue;
      const char* q = tile.lane_q[block.index * kLanes + lane];
      scores[key * kLanes + lane] = turn * inner_product(problem, q, tile.k[first + key]);
    }
  }
}

// What the softmax wrote for a key, its parts summed.
template <int kCount>
NA_INLINE Vector weight_of(const uint16_t* weights, int key, int vector) {
  Vector sum = {};
  for (int part = 0; part < kCount; part++) {
    const uint16_t* pairs = weights + part * kSquare + key / 2 * 2 * kLanes + 2 * vector * kWidth;
    const Naturals words = (Naturals)load(reinterpret_cast<const int32_t*>(pairs));
    sum += (Vector)(key % 2 ? words & 0xffff0000 : words << 16);
  }
  return sum;
}

// Adds the elements of V that have no parts, those of one chunk.
template <int kCount>
void add_values(const Problem& problem, const Tile& tile, const Block& block, uint32_t which, int first,
                const uint16_t* weights) {
  for (int key = 0; key < kChunk; key++) {
    if (!(which >> key & 1)) continue;
    for (int value = 0; value < problem.value_dim; value++) {
      const Vector element = broadcast(load_elements(problem.dtype, tile.v[first + key], value, 1)[0]);
      if (!without_parts(element)) continue;
      for (int u = 0; u < kVectors; u++) {
        float* at = block.out + value * kLanes + u * kWidth;
        store(at, multiply_add(weight_of<kCount>(weights, key, u), element, load(at)));
      }
    }
  }
}

// Adds keys [from, to), whole chunks, to the output of a block.
template <int kCount>
void multiply_output(const Problem& problem, const Tile& tile, const Sums& sums, const Block& block, const Whole& whole,
                     int from, int to) {
  constexpr int kStep = kCount * kSquare;
  const uint16_t* v = reinterpret_cast<const uint16_t*>(sums.v);
  const int squares = problem.value_pitch / kDeep;
  for (int square = 0; square < squares; square++) {
    float* out = block.out + square * kDeep * kLanes;
    load_sums(out);
    for (int chunk = from / kChunk; chunk < to / kChunk; chunk++) {
      load_first<kCount>(v + (chunk * squares + square) * kStep, sums.weights + chunk * kStep);
      multiply<kCount>(v + (chunk * squares + square) * kStep, sums.weights + chunk * kStep, false, [](int) {});
    }
    store_sums(out);
  }
  if constexpr (kCount > 1) {
    for (int chunk = from / kChunk; chunk < to / kChunk; chunk++) {
      const uint32_t which = whole.values[chunk];
      if (which) add_values<kCount>(problem, tile, block, which, chunk * kChunk, sums.weights + chunk * kStep);
    }
  }
}

// Raises the maximum of a block to `top`, or `headroom` beyond it where that is a good part of it higher, and scales
// what was summed under the old one.
void raise_maximum(const Problem& problem, const Block& block, const Vector* top, float headroom) {
  Vector decay[kVectors];
  for (int u = 0; u < kVectors; u++) {
    const Vector before = load(block.maximum + u * kWidth);
    const Integers far = top[u] - before > broadcast(headroom / 4);
    const Vector now = select(far, top[u] + broadcast(headroom), larger(top[u], before));
    decay[u] = exp2(before - select(now == broadcast(-kInfinity), Vector{}, now));
    store(block.maximum + u * kWidth, now);
    store(block.total + u * kWidth, load(block.total + u * kWidth) * decay[u]);
  }
  for (int value = 0; value < problem.value_dim; value++) {
    for (int u = 0; u < kVectors; u++) {
      float* at = block.out + value * kLanes + u * kWidth;
      store(at, load(at) * decay[u]);
    }
  }
}

// The weights of an even and an odd key, side by side in each lane.
template <int kCount>
NA_INLINE void store_weights(uint16_t* to, Vector even, Vector odd) {
  if constexpr (kCount > 1) {
    split<kCount>(even, odd, [&](int part, __m512i halves) { _mm512_storeu_si512(to + part * kSquare, halves); });
  } else {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, halves));
  }
}

// Weights of a chunk from its scores times `factor`. Meanwhile the tile registers multiply the scores of another chunk,
// `other`, if there is one: the processor looks ahead so far that vectors and tiles are busy at once.
template <int kCount>
NA_INLINE void soften(const Block& block, float factor, const float* scores, uint16_t* weights, const Operands& next,
                      float* other) {
  constexpr int kPairs = kChunk / 2;
  const Vector scale = broadcast(factor);
  Vector zero[kVectors], sum[kVectors][2] = {};
  for (int u = 0; u < kVectors; u++) {
    const Vector maximum = load(block.maximum + u * kWidth);
    zero[u] = select(maximum == broadcast(-kInfinity), Vector{}, maximum);
  }
  const auto weight = [&](int key, int u) {
    return exp2_by_table<(kCount > 1)>(multiply_add(load(scores + key * kLanes + u * kWidth), scale, -zero[u]));
  };
  const auto soften_pairs = [&](int from, int to) {
    for (int pair = from; pair < to; pair++) {
      for (int u = 0; u < kVectors; u++) {
        const Vector even = weight(2 * pair, u), odd = weight(2 * pair + 1, u);
        sum[u][0] += even;
        sum[u][1] += odd;
        store_weights<kCount>(weights + 2 * pair * kLanes + 2 * u * kWidth, even, odd);
      }
    }
  };
  if (next.squares > 0) {
    const int products = next.squares * kProducts<kCount> + next.factor_squares;
    const int each = ((kPairs << 16) + products - 1) / products;
    int done = 0, from = 0;
    multiply_scores<kCount>(next, other, [&](int) {
      const int to = ++done * each >> 16;
      soften_pairs(from, to);
      from = to;
    });
  } else {
    soften_pairs(0, kPairs);
  }
  for (int u = 0; u < kVectors; u++) {
    store(block.total + u * kWidth, load(block.total + u * kWidth) + (sum[u][0] + sum[u][1]));
  }
}

// One block against the keys at hand.
template <int kCount>
void step(const Problem& problem, Tile& tile, const Sums& sums, const Block& block, const Whole& whole, Sight seen) {
  constexpr int kStep = kCount * kSquare;
  const float scale = problem.scale < 0 ? -problem.scale : problem.scale;
  const int squares = problem.head_pitch / kDeep, factor_squares = problem.factor_pitch / kDeep;
  int stored = 0;  // biases that tile registers never multiply
  for (int b = 0; b < problem.bias_count; b++) stored += problem.biases[b].kind != NA_BIAS_LOW_RANK;
  const uint16_t* k = reinterpret_cast<const uint16_t*>(sums.k);
  const uint16_t* q = reinterpret_cast<const uint16_t*>(block.q);
  // Whether the scores of a chunk hold its biases of low rank from the start.
  const auto is_ranked = [&](int chunk) {
    if (factor_squares == 0 || tile.extra) return false;
    return (whole.factors_q >> block.index & 1) == 0 && (whole.factors_k >> chunk & 1) == 0 &&
           (kCount == 1 || (whole.keys[chunk] | whole.queries[block.index]) == 0);
  };
  const auto operands = [&](int chunk) {
    return Operands{squares,
                    is_ranked(chunk) ? factor_squares : 0,
                    k + chunk * squares * kStep,
                    q,
                    sums.factors_k + chunk * factor_squares * kSquare,
                    sums.factors_q + block.index * factor_squares * kSquare};
  };
  const int vectors = (block.lanes + kWidth - 1) / kWidth;
  const auto keys_of = [&](int first) { return tile.count - first < kChunk ? tile.count - first : kChunk; };

  // The first chunk from `first` on of which the block sees some keys.
  Sight sight_of_chunk = seen;
  const auto next_chunk = [&](int first) {
    for (; first < tile.count; first += kChunk) {
      if (seen.hiding != 0) sight_of_chunk = sight(problem, tile, block.index, first, keys_of(first));
      if (sight_of_chunk.from < sight_of_chunk.to) break;
    }
    return first;
  };

  int first = next_chunk(0), done = first;  // keys before `done` are in the output, or unseen
  float *scores = sums.scores, *others = sums.scores + kChunk * kLanes;
  if (first < tile.count) multiply_scores<kCount>(operands(first / kChunk), scores, [](int) {});
  while (first < tile.count) {
    const int keys = keys_of(first), chunk = first / kChunk;
    const bool ranked = is_ranked(chunk), biased = ranked ? stored > 0 : has_biases(problem, tile);
    // All vectors of the block are multiplied, also one that sees none of these keys: every constraint masks it.
    const uint32_t hiding = sight_of_chunk.to - sight_of_chunk.from < vectors ? ~0u : sight_of_chunk.hiding;
    for (int i = 0; i < kFetched; i++) fetch_ahead(problem, tile);
    if (kCount > 1 && (whole.keys[chunk] | whole.queries[block.index])) {
      replace_scores(problem, tile, block, whole, first, keys, scores);
    }
    float factor = score_factor(problem);
    if (problem.cap != 0 || scale < kLeastScale) {
      scale_scores<kVectors>(problem.cap != 0 ? scale / problem.cap : factor, keys, scores);
      if (problem.cap != 0) cap_scores<kVectors>(problem.cap, keys, scores);
      factor = 1;
    }
    if (biased) factor = add_biases<kVectors>(problem, tile, sums, block, ranked, first, keys, factor, scores);
    // Scaled before they are compared, a lone score is its own maximum exactly, and its weight 1. bfloat16 rounds
    // anyway.
    if (kCount > 1 && factor != 1 && (hiding != 0 || keys < kChunk)) {
      scale_scores<kVectors>(factor, keys, scores);
      factor = 1;
    }
    for (int i = keys * kLanes; i < kChunk * kLanes; i++) scores[i] = -kInfinity;
    Vector top[kVectors];
    Integers higher = {};
    for (int u = 0; u < kVectors; u++) top[u] = broadcast(-kInfinity);
    if (hiding != 0) apply_mask<kVectors>(tile, block, hiding, first, keys, scores);
    largest_scores<kVectors>(keys, scores, top);
    // Elements of V without parts may be so large that nothing may be left for slack.
    const float slack = kCount > 1 && whole.values[chunk] ? 0.0f : kSlack;
    Integers far = {};
    for (int u = 0; u < kVectors; u++) {
      top[u] *= broadcast(factor);
      // A lane without a maximum has summed nothing that a new one would scale.
      const Vector before = load(block.maximum + u * kWidth);
      const Vector maximum = select(before == broadcast(-kInfinity), top[u], before);
      store(block.maximum + u * kWidth, maximum);
      higher |= top[u] > maximum + broadcast(slack);
      far |= (top[u] > broadcast(kFar)) | ((top[u] < broadcast(-kFar)) & (top[u] != broadcast(-kInfinity)));
    }
    // The softmax scales and subtracts in one step, but the largest score has been rounded in between.
    if (factor != 1 && any(far)) {
      scale_scores<kVectors>(factor, keys, scores);
      factor = 1;
    }
    if (any(higher)) {
      if (done < first) multiply_output<kCount>(problem, tile, sums, block, whole, done, first);
      done = first;
      raise_maximum(problem, block, top, biased ? kHeadroom : 0.0f);
    }
    const int next = next_chunk(first + kChunk);
    const bool more = next < tile.count;
    soften<kCount>(block, factor, scores, sums.weights + chunk * kStep, more ? operands(next / kChunk) : Operands{},
                   others);
    float* const softened = scores;
    scores = others;
    others = softened;
    // Chunks that are passed over have no weights.
    const int end = first + kChunk;
    if (next > end || !more) {
      multiply_output<kCount>(problem, tile, sums, block, whole, done, end);
      done = next;
    }
    first = next;
  }
}

NA_INLINE __mmask32 first_columns(int count) {
  return count >= 32 ? 0xffffffff : count <= 0 ? 0 : (static_cast<__mmask32>(1) << count) - 1;
}

// kWidth columns of a row as float32, with zeros after the last of them.
template <int kType>
NA_INLINE Vector load_columns(const char* row, int at, int columns) {
  const __mmask16 mask = static_cast<__mmask16>(first_columns(columns - at));
  if constexpr (kType == NA_FLOAT32) {
    return (Vector)_mm512_maskz_loadu_ps(mask, row + 4 * at);
  } else {
    return (Vector)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * at));
  }
}

// Columns that have parts, and `whole` set if there are others.
template <int kType>
NA_INLINE Vector load_parts(const char* row, int at, int columns, bool& whole) {
  const Vector x = load_columns<kType>(row, at, columns);
  const __mmask16 mask = without_parts(x);
  whole |= mask != 0;
  return (Vector)_mm512_maskz_mov_ps(static_cast<__mmask16>(~mask), (__m512)x);
}

// Q of a block in pairs of columns; with a negative scale its sign is turned, so that a larger product is a larger
// score. Lanes without a query, and columns up to the pitch, are zero.
template <int kType>
uint32_t pack_queries(const Problem& problem, const Tile& tile, const Block& block, uint32_t* q) {
  constexpr int kCount = kParts<kType>;
  uint32_t whole = 0;
  for (int first = 0; first < kLanes; first += kWidth) {
    char* const* rows = tile.lane_q + block.index * kLanes + first;
    const int lanes = block.lanes - first;
    for (int d = 0; d < problem.head_dim; d += kDeep) {
      uint32_t* square = q + d / kDeep * kCount * kSquare / 2 + first;
      if constexpr (kCount > 1) {
        const Vector turn = broadcast(problem.scale < 0 ? -1.0f : 1.0f);
        Vector columns[2][kWidth];
        for (int i = 0; i < kWidth; i++) {
          bool is_whole = false;
          for (int half = 0; half < 2; half++) {
            columns[half][i] =
                i < lanes ? load_parts<kType>(rows[i], d + half * kWidth, problem.head_dim, is_whole) * turn : Vector{};
          }
          whole |= static_cast<uint32_t>(is_whole) << (first + i);
        }
        transpose(columns[0]);
        transpose(columns[1]);
        for (int i = 0; i < kWidth; i++) {
          const Vector* pair = &columns[i / 8][i % 8 * 2];
          split<kCount>(pair[0], pair[1], [&](int part, __m512i halves) {
            _mm512_storeu_si512(square + part * kSquare / 2 + i * kLanes, halves);
          });
        }
      } else {
        const __m512i turn = _mm512_set1_epi16(problem.scale < 0 ? INT16_MIN : 0);
        const __mmask32 columns = first_columns(problem.head_dim - d);
        Vector pairs[kWidth];
        for (int i = 0; i < kWidth; i++) {
          pairs[i] =
              i < lanes ? (Vector)_mm512_xor_si512(_mm512_maskz_loadu_epi16(columns, rows[i] + 2 * d), turn) : Vector{};
        }
        transpose(pairs);
        for (int i = 0; i < kWidth; i++) store(reinterpret_cast<float*>(square + i * kLanes), pairs[i]);
      }
    }
  }
  return whole;
}

// A chunk of K, in rows.
template <int kType>
uint32_t load_k(const Problem& problem, const Tile& tile, int first, uint16_t* to) {
  constexpr int kCount = kParts<kType>;
  const __m512i in_order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24,
                                            22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  uint32_t whole = 0;
  for (int key = 0; key < kChunk; key++) {
    const bool exists = first + key < tile.count;
    const char* row = exists ? tile.k[first + key] : nullptr;
    const int columns = exists ? problem.head_dim : 0;
    bool is_whole = false;
    for (int d = 0; d < problem.head_pitch; d += kDeep) {
      uint16_t* square = to + d / kDeep * kCount * kSquare + key * kDeep;
      if constexpr (kCount > 1) {
        split<kCount>(load_parts<kType>(row, d, columns, is_whole),
                      load_parts<kType>(row, d + kWidth, columns, is_whole), [&](int part, __m512i halves) {
                        _mm512_storeu_si512(square + part * kSquare, _mm512_permutexvar_epi16(in_order, halves));
                      });
      } else {
        _mm512_storeu_si512(square, _mm512_maskz_loadu_epi16(first_columns(columns - d), row + 2 * d));
      }
    }
    whole |= static_cast<uint32_t>(is_whole) << key;
  }
  return whole;
}

// A chunk of V, transposed.
template <int kType>
uint32_t load_v(const Problem& problem, const Tile& tile, int first, uint16_t* to) {
  constexpr int kCount = kParts<kType>;
  uint32_t whole = 0;
  for (int value = 0; value < problem.value_pitch; value += kWidth) {
    uint16_t* rows = to + value / kDeep * kCount * kSquare + value % kDeep * kDeep;
    const auto columns_of = [&](int key) { return first + key < tile.count ? problem.value_dim : 0; };
    const auto row_of = [&](int key) { return first + key < tile.count ? tile.v[first + key] : nullptr; };
    if constexpr (kCount > 1) {
      Vector keys[2][kWidth];
      for (int i = 0; i < kChunk; i++) {
        bool is_whole = false;
        keys[i % 2][i / 2] = load_parts<kType>(row_of(i), value, columns_of(i), is_whole);
        whole |= static_cast<uint32_t>(is_whole) << i;
      }
      transpose(keys[0]);
      transpose(keys[1]);
      for (int i = 0; i < kWidth; i++) {
        split<kCount>(keys[0][i], keys[1][i], [&](int part, __m512i halves) {
          _mm512_storeu_si512(rows + part * kSquare + i * kDeep, halves);
        });
      }
    } else {
      const auto words = [&](int key) {
        const __mmask16 mask = static_cast<__mmask16>(first_columns(columns_of(key) - value));
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row_of(key) + 2 * value));
      };
      Vector pairs[kWidth];
      for (int i = 0; i < kWidth; i++) {
        pairs[i] = (Vector)_mm512_or_si512(words(2 * i), _mm512_slli_epi32(words(2 * i + 1), 16));
      }
      transpose(pairs);
      for (int i = 0; i < kWidth; i++) store(reinterpret_cast<float*>(rows + i * kDeep), pairs[i]);
    }
  }
  return whole;
}

// The parts of which products of factors are made, one after the other along the columns: all but those too small for
// float32.
constexpr Product kFactorOrder[kFactorProducts] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 2}, {2, 0}};

// Factors beyond this might have products that overflow once they are divided by the scale.
constexpr float kMostFactor = 0x1p40f;

// Writes the parts of a row of factors, those of queries divided by `unit`, behind the first `column` columns, of which
// 32 lie together and `pitch` elements from the next. Returns which of them have no parts.
template <bool kKeys>
NA_INLINE __mmask16 put_factors(const float* row, int rank, float unit, int column, int64_t pitch, uint16_t* to) {
  __mmask16 bad = 0;
  for (int r = 0; r < rank; r += kWidth) {
    const int count = rank - r < kWidth ? rank - r : kWidth;
    Vector x = load_elements<NA_FLOAT32>(reinterpret_cast<const char*>(row), r, count);
    if constexpr (!kKeys) x /= broadcast(unit);
    bad = static_cast<__mmask16>(bad | without_parts(x, kMostFactor));
    const Vector first = nearest_part(x), rest = x - first, second = nearest_part(rest), third = rest - second;
    const __m256i parts[] = {_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)first, 16)),
                             _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)second, 16)),
                             _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)third, 16))};
    for (int p = 0; p < kFactorProducts; p++) {
      const __m256i part = parts[kKeys ? kFactorOrder[p].a : kFactorOrder[p].b];
      const int at = column + p * rank + r, within = at % kDeep;
      uint16_t* const square = to + at / kDeep * pitch;
      if (count == kWidth && within <= kDeep - kWidth) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(square + within), part);
        continue;
      }
      const int here = kDeep - within < count ? kDeep - within : count;
      const __mmask16 all = static_cast<__mmask16>(first_columns(count));
      const __mmask16 before = static_cast<__mmask16>(first_columns(here));
      _mm256_mask_storeu_epi16(square + within, before, part);
      if (here < count) {
        _mm256_mask_storeu_epi16(square + pitch - here, static_cast<__mmask16>(all & ~before), part);
      }
    }
  }
  return bad;
}

// The factors of one token, of all biases of low rank, likewise; zeros where there is no token.
template <bool kKeys>
NA_INLINE __mmask16 put_token(const Problem& problem, const Tile& tile, bool exists, int lane_or_key, int64_t pitch,
                              uint16_t* to) {
  __mmask16 bad = 0;
  int column = 0;
  for (int b = 0; b < problem.bias_count && exists; b++) {
    const Bias& bias = problem.biases[b];
    if (bias.kind != NA_BIAS_LOW_RANK) continue;
    const float* row = kKeys ? key_rows(bias, tile, tile.head) + tile.key[lane_or_key] * bias.k.token
                             : query_row(bias, tile, lane_or_key);
    const float scale = problem.scale < 0 ? -problem.scale : problem.scale;
    bad = static_cast<__mmask16>(bad | put_factors<kKeys>(row, bias.columns, scale, column, pitch, to));
    column += kFactorProducts * bias.columns;
  }
  for (; column < problem.factor_pitch; column += kDeep - column % kDeep) {
    const __mmask32 rest = ~first_columns(column % kDeep);
    _mm512_mask_storeu_epi16(to + column / kDeep * pitch, rest, _mm512_setzero_si512());
  }
  return bad;
}

// The factors of a block's queries, in pairs of columns. Returns which of them have no parts.
__mmask16 pack_factors(const Problem& problem, const Tile& tile, const Block& block, uint16_t* to) {
  __mmask16 bad = 0;
  for (int first = 0; first < kLanes; first += kWidth) {
    uint16_t rows[kWidth][kMostFactorPitch];
    for (int i = 0; i < kWidth; i++) {
      const int lane = first + i;
      bad |= put_token<false>(problem, tile, lane < block.lanes, block.first + lane, kDeep, rows[i]);
    }
    for (int column = 0; column < problem.factor_pitch; column += kDeep) {
      Vector pairs[kWidth];
      for (int i = 0; i < kWidth; i++) pairs[i] = load(reinterpret_cast<const float*>(rows[i] + column));
      transpose(pairs);
      float* square = reinterpret_cast<float*>(to + column / kDeep * kSquare) + first;
      for (int i = 0; i < kWidth; i++) store(square + i * kLanes, pairs[i]);
    }
  }
  return bad;
}

// Those of a chunk of keys, in rows.
__mmask16 load_factors(const Problem& problem, const Tile& tile, int first, uint16_t* to) {
  __mmask16 bad = 0;
  for (int key = 0; key < kChunk; key++) {
    bad |= put_token<true>(problem, tile, first + key < tile.count, first + key, kSquare, to + key * kDeep);
  }
  return bad;
}

// K and V with zeros up to the next whole chunk.
template <int kType>
void load_keys(const Problem& problem, const Tile& tile, const Sums& sums, Whole& whole) {
  uint16_t* k = reinterpret_cast<uint16_t*>(sums.k);
  uint16_t* v = reinterpret_cast<uint16_t*>(sums.v);
  whole.factors_k = 0;
  for (int first = 0; first < tile.count; first += kChunk) {
    const int chunk = first / kChunk;
    if (problem.factor_pitch > 0 && !tile.extra) {
      const bool bad = load_factors(problem, tile, first, sums.factors_k + first * problem.factor_pitch) != 0;
      whole.factors_k |= static_cast<uint32_t>(bad) << chunk;
    }
    whole.keys[chunk] = load_k<kType>(problem, tile, first, k + first * problem.head_pitch * kParts<kType>);
    whole.values[chunk] = load_v<kType>(problem, tile, first, v + first * problem.value_pitch * kParts<kType>);
  }
}

// Queries of best_scores() in pairs of columns, [block of lanes][columns / 32] squares.
void pack_best_pairs(const BestScores& wanted) {
  uint32_t* to = reinterpret_cast<uint32_t*>(wanted.packed);
  for (int first = 0; first < wanted.query_count; first += kLanes) {
    for (int d = 0; d < wanted.head_dim; d += kDeep, to += kSquare / 2) {
      const __mmask32 columns = first_columns(wanted.head_dim - d);
      for (int half = 0; half < kLanes; half += kWidth) {
        Vector pairs[kWidth];
        for (int i = 0; i < kWidth; i++) {
          pairs[i] = (Vector)_mm512_maskz_loadu_epi16(columns, query_of(wanted, first + half + i) + 2 * d);
        }
        transpose(pairs);
        for (int i = 0; i < kWidth; i++) store(reinterpret_cast<float*>(to + half + i * kLanes), pairs[i]);
      }
    }
  }
}

// Raises the maxima of a chunk of keys by the products with kUsed vectors of lanes.
template <int kUsed>
NA_INLINE void raise_by_tiles(const uint16_t* k, const uint16_t* lanes, int squares, float* scores, Vector* top) {
  zero_sums();
  for (int square = 0; square < squares; square++) {
    load_a(k + square * kSquare);
    _tile_loadd(6, lanes + square * kSquare, 4 * kLanes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kUsed > 1) {
      _tile_loadd(7, lanes + square * kSquare + 2 * kWidth, 4 * kLanes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, scores, 4 * kLanes);
  _tile_stored(2, scores + kTileRows * kLanes, 4 * kLanes);
  if constexpr (kUsed > 1) {
    _tile_stored(1, scores + kWidth, 4 * kLanes);
    _tile_stored(3, scores + kTileRows * kLanes + kWidth, 4 * kLanes);
  }
  for (int key = 0; key < kChunk; key++) {
    for (int u = 0; u < kUsed; u++) top[key] = larger(load(scores + key * kLanes + u * kWidth), top[key]);
  }
}

// best_scores() of bfloat16: a chunk of keys against one block of lanes after the other.
void best_of_tiles(const BestScores& wanted) {
  const int squares = packed_pitch(wanted.head_dim) / kDeep, blocks = (wanted.query_count + kLanes - 1) / kLanes;
  const uint16_t* q = reinterpret_cast<const uint16_t*>(wanted.packed);
  uint16_t* k = reinterpret_cast<uint16_t*>(wanted.packed) + static_cast<int64_t>(blocks) * squares * kSquare;
  alignas(64) float scores[2][kChunk * kLanes];
  configure_tiles();
  for (int first = 0; first < wanted.key_count; first += kChunk) {
    fetch_keys(wanted, first + kKeysAhead, kChunk);
    for (int key = 0; key < kChunk; key++) {
      const char* row = wanted.keys[smaller(first + key, wanted.key_count - 1)];
      for (int d = 0; d < wanted.head_dim; d += kDeep) {
        _mm512_storeu_si512(k + d * kChunk + key * kDeep,
                            _mm512_maskz_loadu_epi16(first_columns(wanted.head_dim - d), row + 2 * d));
      }
    }
    alignas(64) Vector top[kChunk];
    for (Vector& vector : top) vector = broadcast(-kInfinity);
    for (int block = 0; block < blocks; block++) {
      const uint16_t* lanes = q + block * squares * kSquare;
      float* own = scores[block % 2];  // the other one is still being read
      if (wanted.query_count - block * kLanes > kWidth) {
        raise_by_tiles<kVectors>(k, lanes, squares, own, top);
      } else {
        raise_by_tiles<1>(k, lanes, squares, own, top);
      }
    }
    for (int strip = 0; strip < kChunk && first + strip < wanted.key_count; strip += kStrip) {
      Vector some[kWidth];
      for (int i = 0; i < kWidth; i++) some[i] = top[strip + i];
      store(wanted.best + first + strip, maxima_of(some));
    }
  }
  _tile_release();
}

template <int kType>
void run_type(const Problem& problem, Tile& tile, Sums& sums) {
  if (tile.lanes <= tile.kv_heads * problem.geometry.few) return run_rows<kType>(problem, tile, sums);
  Whole whole;
  whole.factors_q = 0;
  configure_tiles();
  run_blocks(
      problem, tile, sums,
      [&](const Block& block) {
        uint32_t* q = reinterpret_cast<uint32_t*>(const_cast<float*>(block.q));
        whole.queries[block.index] = pack_queries<kType>(problem, tile, block, q);
        if (problem.factor_pitch == 0) return;
        const bool bad =
            pack_factors(problem, tile, block, sums.factors_q + block.first * int64_t{problem.factor_pitch}) != 0;
        whole.factors_q |= static_cast<uint32_t>(bad) << block.index;
      },
      [&] { load_keys<kType>(problem, tile, sums, whole); },
      [&](const Block& block, Sight seen) { step<kParts<kType>>(problem, tile, sums, block, whole, seen); });
  _tile_release();
}

}  // namespace

void run_amx(const Problem& problem, Tile& tile, Sums& sums) {
  if (problem.dtype == NA_FLOAT32) return run_type<NA_FLOAT32>(problem, tile, sums);
  if (problem.dtype == NA_FLOAT16) return run_type<NA_FLOAT16>(problem, tile, sums);
  run_type<NA_BFLOAT16>(problem, tile, sums);
}

void pack_best_amx(const BestScores& wanted) {
  if (wanted.dtype == NA_BFLOAT16 && wanted.query_count > kFewQueries) return pack_best_pairs(wanted);
  pack_best(wanted);
}

void best_scores_amx(const BestScores& wanted) {
  if (wanted.dtype == NA_BFLOAT16 && wanted.query_count > kFewQueries) return best_of_tiles(wanted);
  best_scores(wanted);
}

void score_list_amx(const RowList& list, const float* query, float* scores) { score_list(list, query, scores); }

void add_list_amx(const RowList& list, const float* weights, float* sums) { add_list(list, weights, sums); }

float reached_by_amx(const float* values, int64_t count, int64_t wanted) { return reached_by(values, count, wanted); }

void assign_keys_amx(const Assign& assign) { assign_keys(assign); }

}  // namespace na::cpu
