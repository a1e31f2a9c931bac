// bfloat16 on AMX: the tile of tile.h, with the inner products on the tile registers.
//   scores  S^T = K Q^T: K as it lies in memory, Q with pairs of columns side by side, as B operands want it
//   output  O^T += V^T P^T: V transposed once per key tile, P written in pairs of keys by the softmax
// Queries are not scaled, so that products are those of the inputs; scores are, in float32.
#define NA_WIDTH 16
#define NA_VECTORS 2
#include "cpu/executor/block.h"
#include "cpu/executor/rows.h"

namespace na::cpu {
namespace {

// A chunk of keys is two tile registers of rows, and one tile register deep.
constexpr int kChunk = 32, kTileRows = 16, kDeep = 32;

// Rows of keys to come that are fetched with each chunk.
constexpr int kFetched = 8;

// A maximum may be stale by a factor of 2^kSlack: weights then stay far from overflow, what they are divided by
// holds the same factor, and the output so far need hardly ever be rescaled.
constexpr float kSlack = 8.0f;

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

// Scores of a chunk of keys.
NA_INLINE void multiply_scores(const uint16_t* k, int pitch, const uint16_t* q, float* scores) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int d = 0; d < pitch; d += kDeep) {
    const uint16_t* lanes = q + static_cast<int64_t>(d) * kLanes;
    _tile_loadd(4, k + d, 2 * pitch);
    _tile_loadd(5, k + static_cast<int64_t>(kTileRows) * pitch + d, 2 * pitch);
    _tile_loadd(6, lanes, 4 * kLanes);
    _tile_loadd(7, lanes + 2 * kWidth, 4 * kLanes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, scores, 4 * kLanes);
  _tile_stored(1, scores + kWidth, 4 * kLanes);
  _tile_stored(2, scores + kTileRows * kLanes, 4 * kLanes);
  _tile_stored(3, scores + kTileRows * kLanes + kWidth, 4 * kLanes);
}

// Adds keys [from, to), whole chunks, to the output of a block.
void multiply_output(const Problem& problem, const Sums& sums, const Block& block, int from, int to) {
  const uint16_t* v = reinterpret_cast<const uint16_t*>(sums.v);
  const int pitch = problem.geometry.keys;
  for (int value = 0; value < problem.value_pitch; value += 2 * kTileRows) {
    const bool two = value + kTileRows < problem.value_pitch;
    float* out = block.out + value * kLanes;
    float* below = out + kTileRows * kLanes;
    _tile_loadd(0, out, 4 * kLanes);
    _tile_loadd(1, out + kWidth, 4 * kLanes);
    if (two) {
      _tile_loadd(2, below, 4 * kLanes);
      _tile_loadd(3, below + kWidth, 4 * kLanes);
    }
    for (int key = from; key < to; key += kDeep) {
      const uint16_t* weights = sums.weights + key * kLanes;
      const uint16_t* rows = v + static_cast<int64_t>(value) * pitch + key;
      _tile_loadd(4, rows, 2 * pitch);
      _tile_loadd(6, weights, 4 * kLanes);
      _tile_loadd(7, weights + 2 * kWidth, 4 * kLanes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (two) {
        _tile_loadd(5, rows + static_cast<int64_t>(kTileRows) * pitch, 2 * pitch);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, out, 4 * kLanes);
    _tile_stored(1, out + kWidth, 4 * kLanes);
    if (two) {
      _tile_stored(2, below, 4 * kLanes);
      _tile_stored(3, below + kWidth, 4 * kLanes);
    }
  }
}

// Raises the maximum of a block to `top` and scales what was summed under the old one.
void raise_maximum(const Problem& problem, const Block& block, const Vector* top) {
  Vector decay[kVectors];
  for (int u = 0; u < kVectors; u++) {
    const Vector before = load(block.maximum + u * kWidth), now = larger(top[u], before);
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

// The bfloat16 of an even and an odd key, side by side in each lane.
NA_INLINE void store_weights(uint16_t* to, Vector even, Vector odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, halves));
}

// Weights of a chunk from its scores times `factor`; of its keys only the first `keys` exist.
NA_INLINE void soften(const Block& block, int keys, float factor, const float* scores, uint16_t* weights) {
  for (int u = 0; u < kVectors; u++) {
    const Vector maximum = load(block.maximum + u * kWidth), scale = broadcast(factor);
    const Vector zero = select(maximum == broadcast(-kInfinity), Vector{}, maximum);
    Vector sum[2] = {};
    const auto weight = [&](int key) {
      return exp2(multiply_add(load(scores + key * kLanes + u * kWidth), scale, -zero));
    };
    int key = 0;
    for (; key + 2 <= keys; key += 2) {
      const Vector even = weight(key), odd = weight(key + 1);
      sum[0] += even;
      sum[1] += odd;
      store_weights(weights + key * kLanes + 2 * u * kWidth, even, odd);
    }
    if (key < keys) {
      const Vector even = weight(key);
      sum[0] += even;
      store_weights(weights + key * kLanes + 2 * u * kWidth, even, Vector{});
      key += 2;
    }
    for (; key < kChunk; key += 2) store_weights(weights + key * kLanes + 2 * u * kWidth, Vector{}, Vector{});
    store(block.total + u * kWidth, load(block.total + u * kWidth) + (sum[0] + sum[1]));
  }
}

// One block against the keys at hand.
void step(const Problem& problem, Tile& tile, const Sums& sums, const Block& block, Sight seen) {
  const bool biased = problem.bias_count > 0 && !tile.extra, plain = problem.cap == 0 && !biased && problem.scale != 0;
  const float scale = problem.scale < 0 ? -problem.scale : problem.scale;
  const uint16_t* k = reinterpret_cast<const uint16_t*>(sums.k);
  const uint16_t* q = reinterpret_cast<const uint16_t*>(block.q);
  const int vectors = (block.lanes + kWidth - 1) / kWidth;
  int done = 0;  // keys whose weights are in the output already
  int ready = 0;
  for (int first = 0; first < tile.count; first += kChunk, ready += kChunk) {
    const int keys = tile.count - first < kChunk ? tile.count - first : kChunk;
    float* scores = sums.scores;
    uint16_t* weights = sums.weights + first * kLanes;
    const Sight chunk = seen.hiding == 0 ? seen : sight(problem, tile, block.index, first, keys);
    if (chunk.from == chunk.to) {
      if (done == ready) {
        done += kChunk;
      } else {
        __builtin_memset(weights, 0, sizeof(uint16_t) * kChunk * kLanes);
      }
      continue;
    }
    // All vectors of the block are multiplied, also one that sees none of these keys: every constraint masks it.
    const uint32_t hiding = chunk.to - chunk.from < vectors ? ~0u : chunk.hiding;
    for (int i = 0; i < kFetched; i++) fetch_ahead(problem, tile);
    multiply_scores(k + static_cast<int64_t>(first) * problem.head_pitch, problem.head_pitch, q, scores);
    float factor = scale * kLog2E;
    if (!plain) {
      scale_scores<kVectors>(problem.cap != 0 ? scale / problem.cap : factor, keys, scores);
      factor = 1;
      if (problem.cap != 0) cap_scores<kVectors>(problem.cap, keys, scores);
      for (int b = 0; b < problem.bias_count && biased; b++) {
        add_bias<kVectors>(problem.biases[b], tile, block, first, keys, sums.bias, scores);
      }
    }
    Vector top[kVectors];
    Integers higher = {};
    for (int u = 0; u < kVectors; u++) top[u] = broadcast(-kInfinity);
    if (hiding != 0) apply_mask<kVectors>(tile, block, hiding, first, keys, scores);
    largest_scores<kVectors>(keys, scores, top);
    for (int u = 0; u < kVectors; u++) {
      top[u] *= broadcast(factor);
      // A lane without a maximum has summed nothing that a new one would scale.
      const Vector before = load(block.maximum + u * kWidth);
      const Vector maximum = select(before == broadcast(-kInfinity), top[u], before);
      store(block.maximum + u * kWidth, maximum);
      higher |= top[u] > maximum + broadcast(kSlack);
    }
    if (any(higher)) {
      if (done < ready) multiply_output(problem, sums, block, done, ready);
      done = ready;
      raise_maximum(problem, block, top);
    }
    soften(block, keys, factor, scores, weights);
  }
  if (done < ready) multiply_output(problem, sums, block, done, ready);
}

// Q of a block in pairs of columns; with a negative scale its sign is turned, so that a larger product is a larger
// score. Lanes without a query, and columns up to the pitch, are zero.
void pack_queries(const Problem& problem, const Tile& tile, const Block& block, uint16_t* rows, uint32_t* q) {
  const int pitch = problem.head_pitch;
  const uint16_t turn = problem.scale < 0 ? 0x8000 : 0;
  for (int first = 0; first < kLanes; first += kWidth) {
    __builtin_memset(rows, 0, sizeof(uint16_t) * kWidth * static_cast<size_t>(pitch));
    for (int i = 0; i < kWidth && first + i < block.lanes; i++) {
      const uint16_t* from = reinterpret_cast<const uint16_t*>(tile.lane_q[block.index * kLanes + first + i]);
      for (int d = 0; d < problem.head_dim; d++) rows[i * pitch + d] = from[d] ^ turn;
    }
    for (int d = 0; d < pitch; d += 2 * kWidth) {
      Vector square[kWidth];
      for (int i = 0; i < kWidth; i++) square[i] = load(reinterpret_cast<const float*>(rows + i * pitch + d));
      transpose(square);
      for (int i = 0; i < kWidth; i++) store(reinterpret_cast<float*>(q + (d / 2 + i) * kLanes + first), square[i]);
    }
  }
}

__mmask16 first_columns(int count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1 << count) - 1); }

// K in rows of the pitch, V transposed, both with zeros up to the next whole chunk.
void load_keys(const Problem& problem, const Tile& tile, const Sums& sums) {
  uint16_t* k = reinterpret_cast<uint16_t*>(sums.k);
  uint16_t* v = reinterpret_cast<uint16_t*>(sums.v);
  const int head_pitch = problem.head_pitch, keys = (tile.count + kChunk - 1) / kChunk * kChunk;
  for (int key = 0; key < keys; key++) {
    uint16_t* to = k + static_cast<int64_t>(key) * head_pitch;
    if (key < tile.count) {
      const size_t bytes = sizeof(uint16_t) * static_cast<size_t>(problem.head_dim);
      __builtin_memcpy(to, tile.k[key], bytes);
      __builtin_memset(to + problem.head_dim, 0, sizeof(uint16_t) * static_cast<size_t>(head_pitch) - bytes);
    } else {
      __builtin_memset(to, 0, sizeof(uint16_t) * static_cast<size_t>(head_pitch));
    }
  }
  for (int key = 0; key < keys; key += kChunk) {
    for (int value = 0; value < problem.value_dim; value += kWidth) {
      const __mmask16 columns = first_columns(problem.value_dim - value);
      const auto row = [&](int at) {
        if (at >= tile.count) return _mm512_setzero_si512();
        const char* from = tile.v[at] + 2 * value;
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, from));
      };
      Vector square[kWidth];
      for (int i = 0; i < kWidth; i++) {
        const __m512i even = row(key + 2 * i), odd = row(key + 2 * i + 1);
        square[i] = (Vector)_mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
      }
      transpose(square);
      for (int i = 0; i < kWidth; i++) {
        store(reinterpret_cast<float*>(v + static_cast<int64_t>(value + i) * problem.geometry.keys + key), square[i]);
      }
    }
  }
}

}  // namespace

void run_amx(const Problem& problem, Tile& tile, Sums& sums) {
  if (tile.lanes <= kFewQueries / 2) return run_rows<NA_BFLOAT16>(problem, tile, sums);
  configure_tiles();
  run_blocks(
      problem, tile, sums,
      [&](const Block& block) {
        pack_queries(problem, tile, block, reinterpret_cast<uint16_t*>(sums.rows),
                     reinterpret_cast<uint32_t*>(const_cast<float*>(block.q)));
      },
      [&] { load_keys(problem, tile, sums); },
      [&](const Block& block, Sight seen) { step(problem, tile, sums, block, seen); });
  _tile_release();
}

}  // namespace na::cpu
