// The sums of one tile of queries: scores, online softmax and output, one key tile after the other. Compiled once
// for each instruction set, which defines NA_WIDTH, NA_VECTORS and NA_ROWS.
//
// Lanes are queries: a vector holds the same thing for several queries, so that softmax and masks are vertical, and a
// row of K or V need not be packed: each of its elements is broadcast against a vector of Q^T or P^T.
//   scores  S^T[key][lane]   = sum over d of K[key][d]   * Q^T[d][lane]
//   output  O^T[value][lane] += sum over keys of V[key][value] * P^T[key][lane]
#pragma once

#include "cpu/executor/block.h"
#include "cpu/executor/convert.h"
#include "cpu/executor/rows.h"

namespace na::cpu {
namespace {

// Registers hold kVectors x kRows sums: kVectors vectors of lanes for kRows keys or value columns. One vector alone
// would leave multipliers waiting for sums that have just begun: twice as many rows then, of keys as many as there are
// registers for their addresses.
constexpr int kRows = NA_ROWS;
template <int kUsed>
constexpr int kKeyRows = kUsed > 1 ? kRows : 8;
template <int kUsed>
constexpr int kValueRows = kUsed > 1 ? kRows : 2 * kRows;

// kCount scores per lane, and their maximum with `top`.
template <int kUsed, int kCount>
NA_INLINE void score_rows(const float* const* k, const float* q, int head_dim, float* scores, Vector* top) {
  Vector sum[kCount][kUsed] = {};
  const float* row[kCount];
  for (int r = 0; r < kCount; r++) row[r] = k[r];
  for (int d = 0; d < head_dim; d++) {
    Vector lanes[kUsed];
    for (int v = 0; v < kUsed; v++) lanes[v] = load(q + d * kLanes + v * kWidth);
    for (int r = 0; r < kCount; r++) {
      const Vector element = broadcast(row[r][d]);
      for (int v = 0; v < kUsed; v++) sum[r][v] = multiply_add(element, lanes[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kCount; r++) {
    for (int v = 0; v < kUsed; v++) {
      store(scores + r * kLanes + v * kWidth, sum[r][v]);
      top[v] = larger(sum[r][v], top[v]);
    }
  }
}

// kCount rows of output: what was there times `decay`, plus those of this key tile. Rows of v are `pitch` apart.
template <int kUsed, int kCount>
NA_INLINE void output_rows(const float* weights, int keys, const float* v, int pitch, float* out, const Vector* decay) {
  Vector sum[kCount][kUsed];
  for (int r = 0; r < kCount; r++) {
    for (int u = 0; u < kUsed; u++) sum[r][u] = load(out + r * kLanes + u * kWidth) * decay[u];
  }
  for (int key = 0; key < keys; key++) {
    Vector lanes[kUsed];
    for (int u = 0; u < kUsed; u++) lanes[u] = load(weights + key * kLanes + u * kWidth);
    for (int r = 0; r < kCount; r++) {
      const Vector element = broadcast(v[key * pitch + r]);
      for (int u = 0; u < kUsed; u++) sum[r][u] = multiply_add(element, lanes[u], sum[r][u]);
    }
  }
  for (int r = 0; r < kCount; r++) {
    for (int u = 0; u < kUsed; u++) store(out + r * kLanes + u * kWidth, sum[r][u]);
  }
}

// The keys that are left when kKeyRows does not divide them.
template <int kUsed, int kCount>
void score_rest(int count, const float* const* k, const float* q, int head_dim, float* scores, Vector* top) {
  if constexpr (kCount > 0) {
    if (count == kCount) return score_rows<kUsed, kCount>(k, q, head_dim, scores, top);
    score_rest<kUsed, kCount - 1>(count, k, q, head_dim, scores, top);
  }
}

// Scores become weights, 2^(score - maximum); what is summed so far is to be scaled by `decay`.
template <int kUsed>
void soften(const Block& block, int keys, const Vector* top, float* scores, Vector* decay) {
  Vector zero[kUsed], sum[kUsed] = {};
  for (int u = 0; u < kUsed; u++) {
    const Vector before = load(block.maximum + u * kWidth);
    // Without any key so far there is no maximum, and every weight is 0.
    zero[u] = select(top[u] == broadcast(-kInfinity), Vector{}, top[u]);
    decay[u] = exp2(before - zero[u]);
    store(block.maximum + u * kWidth, top[u]);
  }
  for (int key = 0; key < keys; key++) {
    for (int u = 0; u < kUsed; u++) {
      float* at = scores + key * kLanes + u * kWidth;
      const Vector weight = exp2(load(at) - zero[u]);
      sum[u] += weight;
      store(at, weight);
    }
  }
  for (int u = 0; u < kUsed; u++) {
    store(block.total + u * kWidth, multiply_add(load(block.total + u * kWidth), decay[u], sum[u]));
  }
}

// The first kUsed vectors of a block against some of the keys at hand.
template <int kUsed>
void step(const Problem& problem, Tile& tile, const Sums& sums, const Block& block, int first, int keys,
          uint32_t hiding) {
  const int head_dim = problem.head_dim;
  const bool biased = has_biases(problem, tile);
  const float* const* k = sums.k_row + first;
  Vector top[kUsed], decay[kUsed];
  for (int u = 0; u < kUsed; u++) top[u] = load(block.maximum + u * kWidth);
  const auto score = [&](Vector* largest) {
    constexpr int kMost = kKeyRows<kUsed>;
    int key = 0;
    for (; key + kMost <= keys; key += kMost) {
      fetch_ahead(problem, tile);
      score_rows<kUsed, kMost>(k + key, block.q, head_dim, sums.scores + key * kLanes, largest);
    }
    score_rest<kUsed, kMost - 1>(keys - key, k + key, block.q, head_dim, sums.scores + key * kLanes, largest);
  };

  if (problem.cap == 0 && !biased && hiding == 0) {
    score(top);
  } else {
    Vector unused[kUsed] = {};
    score(unused);
    if (problem.cap != 0) cap_scores<kUsed>(problem.cap, keys, sums.scores);
    if (biased) add_biases<kUsed>(problem, tile, sums, block, false, first, keys, 1, sums.scores);
    if (hiding != 0) apply_mask<kUsed>(tile, block, hiding, first, keys, sums.scores);
    largest_scores<kUsed>(keys, sums.scores, top);
  }

  soften<kUsed>(block, keys, top, sums.scores, decay);

  const float* v = sums.v + static_cast<int64_t>(first) * problem.value_pitch;
  int value = 0;
  const auto output = [&](auto rows) {
    fetch_ahead(problem, tile);
    output_rows<kUsed, decltype(rows)::kCount>(sums.scores, keys, v + value, problem.value_pitch,
                                               block.out + value * kLanes, decay);
    value += decltype(rows)::kCount;
  };
  while (value + kValueRows<kUsed> <= problem.value_pitch) output(Together<kValueRows<kUsed>>());
  if (value < problem.value_pitch) output(Together<kRows>());
}

// Those of a block's vectors of lanes that see any of the keys, against these.
template <int kUsed = kVectors>
void step_seen(const Problem& problem, Tile& tile, const Sums& sums, const Block& block, int first, int keys,
               Sight seen) {
  if constexpr (kUsed > 0) {
    if (seen.to - seen.from != kUsed) {
      return step_seen<kUsed - 1>(problem, tile, sums, block, first, keys, seen);
    }
    const int from = seen.from * kWidth, rest = block.lanes - from, lanes = kUsed * kWidth;
    const Block part = {block.index,      block.first + from,   rest < lanes ? rest : lanes, block.q + from,
                        block.out + from, block.maximum + from, block.total + from};
    step<kUsed>(problem, tile, sums, part, first, keys, seen.hiding);
  }
}

// One block against the keys at hand. At the border of what it sees, strips of keys are taken together as long as the
// same lanes see them.
void step_block(const Problem& problem, Tile& tile, const Sums& sums, const Block& block, Sight seen) {
  if (seen.hiding == 0) return step_seen(problem, tile, sums, block, 0, tile.count, seen);
  const auto strip = [&](int first) {
    const int rest = tile.count - first;
    return sight(problem, tile, block.index, first, rest < kStrip ? rest : kStrip);
  };
  Sight now = strip(0);
  for (int first = 0, end; first < tile.count; first = end) {
    Sight next = {};
    for (end = first + kStrip; end < tile.count; end += kStrip) {
      next = strip(end);
      if (next.from != now.from || next.to != now.to || next.hiding != now.hiding) break;
    }
    step_seen(problem, tile, sums, block, first, (end < tile.count ? end : tile.count) - first, now);
    now = next;
  }
}

// Q^T of a block, scaled; lanes without a query are zero.
void pack_queries(const Problem& problem, const Tile& tile, const Block& block, float* q) {
  const float factor = problem.cap != 0 ? problem.scale / problem.cap : problem.scale * kLog2E;
  for (int first = 0; first < kLanes; first += kWidth) {
    char* const* rows = tile.lane_q + block.first + first;
    const int lanes = block.lanes - first;
    for (int d = 0; d < problem.head_dim; d += kWidth) {
      const int columns = problem.head_dim - d;
      Vector square[kWidth];
      for (int i = 0; i < kWidth; i++) {
        square[i] = i < lanes ? load_elements(problem.dtype, rows[i], d, columns) * broadcast(factor) : Vector{};
      }
      transpose(square);
      for (int i = 0; i < kWidth && i < columns; i++) store(q + (d + i) * kLanes + first, square[i]);
    }
  }
}

// Brings the keys at hand where the sums read them, in float32 and contiguous rows, since rows in memory may be a
// multiple of the cache's period apart; rows of V with zeros up to the value pitch.
void load_keys(const Problem& problem, const Tile& tile, const Sums& sums) {
  for (int key = 0; key < tile.count; key++) {
    float* k = sums.k + static_cast<int64_t>(key) * problem.head_pitch;
    widen(problem.dtype, tile.k[key], problem.head_dim, k);
    sums.k_row[key] = k;
    float* v = sums.v + static_cast<int64_t>(key) * problem.value_pitch;
    widen(problem.dtype, tile.v[key], problem.value_dim, v);
    for (int value = problem.value_dim; value < problem.value_pitch; value++) v[value] = 0;
  }
}

void run_few_queries(const Problem& problem, Tile& tile, Sums& sums) {
  if (problem.dtype == NA_FLOAT32) return run_rows<NA_FLOAT32>(problem, tile, sums);
  if (problem.dtype == NA_FLOAT16) return run_rows<NA_FLOAT16>(problem, tile, sums);
  run_rows<NA_BFLOAT16>(problem, tile, sums);
}

void run_tile(const Problem& problem, Tile& tile, Sums& sums) {
  if (tile.lanes <= tile.kv_heads * problem.geometry.few) return run_few_queries(problem, tile, sums);
  run_blocks(
      problem, tile, sums, [&](const Block& block) { pack_queries(problem, tile, block, const_cast<float*>(block.q)); },
      [&] { load_keys(problem, tile, sums); },
      [&](const Block& block, Sight seen) { step_block(problem, tile, sums, block, seen); });
}

}  // namespace
}  // namespace na::cpu
