// What is done to the scores [key][lane] of a block, whatever multiplied them: softcap, biases (bias.h), masks.
// Included once by each instruction set.
#pragma once

#include "cpu/executor/bias.h"
#include "cpu/executor/convert.h"
#include "cpu/executor/lanes.h"
#include "cpu/executor/widen.h"

namespace na::cpu {
namespace {

// A block starts with nothing, or with its sinks: one more logit, without a value.
void begin_block(const Problem& problem, const Tile& tile, const Block& block) {
  __builtin_memset(block.out, 0, sizeof(float) * kLanes * static_cast<size_t>(problem.value_pitch));
  for (int lane = 0; lane < kLanes; lane++) {
    float sink = -kInfinity;
    if (problem.sinks && tile.begins && lane < block.lanes) {
      sink = problem.sinks[tile.lane_head[block.first + lane] * problem.sink_stride];
    }
    block.maximum[lane] = to_log2(sink);
    block.total[lane] = sink == -kInfinity ? 0.0f : 1.0f;
  }
}

template <int kUsed>
void scale_scores(float factor, int keys, float* scores) {
  for (int key = 0; key < keys; key++) {
    for (int u = 0; u < kUsed; u++) {
      float* at = scores + key * kLanes + u * kWidth;
      store(at, load(at) * broadcast(factor));
    }
  }
}

// Softcap, as a multiple of log2(e) from here on.
template <int kUsed>
void cap_scores(float cap, int keys, float* scores) {
  const Vector size = broadcast(cap * kLog2E);
  for (int key = 0; key < keys; key++) {
    for (int u = 0; u < kUsed; u++) {
      float* at = scores + key * kLanes + u * kWidth;
      store(at, size * tanh(load(at)));
    }
  }
}

// Minus infinity where a sparse plan hides the key from the lane.
template <int kUsed>
void apply_sparse(const Tile& tile, const Block& block, int from, int keys, float* scores) {
  const SparseWalk& sparse = tile.sparse;
  for (int u = 0; u < kUsed; u++) {
    const int first = block.first + u * kWidth;
    const int word = sparse.vector_word[first / kWidth];
    const Integers bit = load(sparse.lane_bit + first);
    for (int key = 0; key < keys; key++) {
      const uint32_t* bits = sparse.bits + static_cast<int64_t>(from + key) * sparse.words;
      Integers shown;
      if (word >= 0) {
        shown = (broadcast(static_cast<int32_t>(bits[word])) >> (bit & 31)) & 1;
      } else {
        for (int i = 0; i < kWidth; i++) shown[i] = static_cast<int32_t>(bits[bit[i] / 32] >> bit[i] % 32 & 1);
      }
      float* at = scores + key * kLanes + u * kWidth;
      store(at, select(shown != 0, load(at), broadcast(-kInfinity)));
    }
  }
}

// Minus infinity where one of the constraints hides the key from the lane.
template <int kUsed>
void apply_mask(const Tile& tile, const Block& block, uint32_t hiding, int from, int keys, float* scores) {
  for (int c = 0; c < tile.constraints; c++) {
    if (!(hiding >> (c < kLastBit ? c : kLastBit) & 1)) continue;
    const int32_t* code = tile.code[c] + from;
    const int32_t wrap = tile.wrap[c];
    Integers low[kUsed], length[kUsed];
    for (int u = 0; u < kUsed; u++) {
      low[u] = load(tile.low[c] + block.first + u * kWidth);
      length[u] = load(tile.length[c] + block.first + u * kWidth);
    }
    for (int key = 0; key < keys; key++) {
      for (int u = 0; u < kUsed; u++) {
        float* at = scores + key * kLanes + u * kWidth;
        Integers offset = difference(broadcast(code[key]), low[u]);
        if (wrap != 0) offset += (offset >> 31) & broadcast(wrap);
        store(at, select(below(offset, length[u]), load(at), broadcast(-kInfinity)));
      }
    }
  }
  if (hiding >> kSparseBit & 1 && tile.sparse.words > 0) apply_sparse<kUsed>(tile, block, from, keys, scores);
}

// Fetches one more row of the keys to come, of their values and factors, into the second-level cache. To be called now
// and then while sums are made, which wait for no memory.
NA_INLINE void fetch_ahead(const Problem& problem, Tile& tile) {
  if (tile.fetched == tile.ahead) return;
  const bool int8 = problem.pages && problem.pages->int8;
  const int bytes = int8 ? 1 : problem.dtype == NA_FLOAT32 ? 4 : 2, row = tile.fetched++;
  for (int at = 0; at < problem.head_dim * bytes; at += 64) __builtin_prefetch(tile.ahead_k[row] + at, 0, 2);
  for (int at = 0; at < problem.value_dim * bytes; at += 64) __builtin_prefetch(tile.ahead_v[row] + at, 0, 2);
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    if (bias.kind != NA_BIAS_LOW_RANK) continue;
    const float* factors = key_rows(bias, tile, tile.head) + tile.ahead_key[row] * bias.k.token;
    for (int at = 0; at < bias.columns; at += 16) __builtin_prefetch(factors + at, 0, 2);
  }
}

// The maximum of `top` and of all scores.
template <int kUsed>
void largest_scores(int keys, const float* scores, Vector* top) {
  Vector largest[kUsed];  // in registers, which `top` is not: it might be among the scores
  for (int u = 0; u < kUsed; u++) largest[u] = top[u];
  for (int key = 0; key < keys; key++) {
    for (int u = 0; u < kUsed; u++) largest[u] = larger(load(scores + key * kLanes + u * kWidth), largest[u]);
  }
  for (int u = 0; u < kUsed; u++) top[u] = largest[u];
}

// O^T divided by the sums, and the log-sum-exp; a row without keys has neither sum nor maximum.
void finish_block(const Problem& problem, const Tile& tile, const Block& block) {
  for (int first = 0; first < block.lanes; first += kWidth) {
    const int at_lane = block.first + first, lanes = block.lanes - first < kWidth ? block.lanes - first : kWidth;
    const Vector total = load(block.total + first);
    const Integers empty = total == Vector{};
    const Vector share = broadcast(1.0f) / total;
    const auto column = [&](int value) {
      if (value >= problem.value_dim) return Vector{};
      return select(empty, Vector{}, load(block.out + value * kLanes + first) * share);
    };
    // Columns become rows; two of 16 bits go side by side first.
    const int together = problem.dtype == NA_FLOAT32 ? 1 : 2;
    for (int value = 0; value < problem.value_dim; value += together * kWidth) {
      Vector square[kWidth];
      for (int i = 0; i < kWidth; i++) {
        const int at = value + together * i;
        square[i] = column(at);
        if (together == 1) continue;
        square[i] = (Vector)(to_halves(problem.dtype, square[i]) | to_halves(problem.dtype, column(at + 1)) << 16);
      }
      transpose(square);
      const int bytes = (problem.value_dim - value) * 4 / together;
      for (int i = 0; i < lanes; i++) {
        char* to = tile.lane_out[at_lane + i] + value * 4 / together;
        if (bytes >= 4 * kWidth) {
          store(reinterpret_cast<float*>(to), square[i]);
        } else {
          __builtin_memcpy(to, &square[i], static_cast<size_t>(bytes));
        }
      }
    }
    const Vector sums = multiply_add(load(block.maximum + first), broadcast(kLn2), log(total));
    const Vector lse = select(empty, broadcast(-kInfinity), sums);
    for (int i = 0; i < lanes; i++) *tile.lane_lse[at_lane + i] = lse[i];
  }
}

// Adds the sums of a block to those of its queries.
void join_block(const Problem& problem, const Tile& tile, const Block& block) {
  const Gathered& to = *tile.gathered;
  const int pitch = row_pitch(problem);
  for (int first = 0; first < block.lanes; first += kWidth) {
    const int lanes = block.lanes - first < kWidth ? block.lanes - first : kWidth;
    int64_t row[kWidth];
    Vector maximum = broadcast(-kInfinity), total = {};
    for (int i = 0; i < lanes; i++) {
      const int lane = block.first + first + i;
      row[i] = to.row(tile.lane_head[lane] - tile.head, tile.lane_query[lane]);
      maximum[i] = to.maximum[row[i]];
      total[i] = to.total[row[i]];
    }
    const Vector own = load(block.maximum + first), top = larger(own, maximum);
    const Vector zero = select(top == broadcast(-kInfinity), Vector{}, top);
    const Vector decay = exp2(maximum - zero), own_decay = exp2(own - zero);
    total = multiply_add(load(block.total + first), own_decay, total * decay);
    for (int i = 0; i < lanes; i++) {
      to.maximum[row[i]] = top[i];
      to.total[row[i]] = total[i];
    }
    for (int value = 0; value < problem.value_dim; value += kWidth) {
      Vector square[kWidth];
      for (int i = 0; i < kWidth; i++) {
        const bool there = value + i < problem.value_dim;
        square[i] = there ? load(block.out + (value + i) * kLanes + first) * own_decay : Vector{};
      }
      transpose(square);
      for (int i = 0; i < lanes; i++) {
        float* at = to.out + row[i] * pitch + value;
        store(at, multiply_add(load(at), broadcast(decay[i]), square[i]));
      }
    }
  }
}

// Fetches the rows of out that a block is about to write: stores alone wait for one after the other.
void fetch_out(const Problem& problem, const Tile& tile, const Block& block) {
  const int bytes = (problem.dtype == NA_FLOAT32 ? 4 : 2) * problem.value_dim;
  for (int lane = 0; lane < block.lanes; lane++) {
    for (int at = 0; at < bytes; at += 64) __builtin_prefetch(tile.lane_out[block.first + lane] + at, 1);
  }
}

// The walk of a tile: each block begins, takes its part of one key tile after the other, and ends. Keys are loaded once
// for all blocks, and not at all when none of them sees any.
template <typename Pack, typename Load, typename Step>
NA_INLINE void run_blocks(const Problem& problem, Tile& tile, const Sums& sums, const Pack& pack, const Load& load_keys,
                          const Step& step) {
  for (int b = 0; b < tile.blocks; b++) {
    const Block block = block_of(problem, tile, sums, b);
    pack(block);
    pack_biases(problem, tile, sums, block);
    begin_block(problem, tile, block);
  }
  while (next_wide_keys(problem, tile)) {
    bool loaded = false;
    for (int b = 0; b < tile.blocks; b++) {
      const Sight seen = sight(problem, tile, b, 0, tile.count);
      if (seen.from == seen.to) continue;
      if (!loaded) load_keys();
      loaded = true;
      step(block_of(problem, tile, sums, b), seen);
    }
  }
  for (int b = 0; tile.gathered && b < tile.blocks; b++) {
    join_block(problem, tile, block_of(problem, tile, sums, b));
  }
  for (int b = 0; !tile.gathered && b < tile.blocks; b++) {
    if (b + 1 < tile.blocks) fetch_out(problem, tile, block_of(problem, tile, sums, b + 1));
    finish_block(problem, tile, block_of(problem, tile, sums, b));
  }
}

}  // namespace
}  // namespace na::cpu
