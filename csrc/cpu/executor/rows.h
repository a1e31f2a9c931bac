// A tile of few queries, decoding above all: lanes of queries would stay empty, and time goes into reading K and V
// once. So vectors lie along headDim, and along the keys in the softmax; elements are widened in registers. Where the
// heads of a token lie side by side a tile has several key heads, and memory is read in order, a run of keys at a time.
// Included once by each instruction set.
#pragma once

#include "cpu/executor/bias.h"
#include "cpu/executor/convert.h"
#include "cpu/executor/problem.h"
#include "cpu/executor/together.h"
#include "cpu/executor/vector.h"
#include "cpu/executor/widen.h"

namespace na::cpu {
namespace {

// Keys of which all heads are read before the next ones.
constexpr int kRun = 16;

// Queries whose sums are in registers at once, and columns of K and V that are widened at once: two vectors.
constexpr int kTogether = kWidth == 16 ? 4 : 2, kPair = 2 * kWidth;

NA_INLINE int smaller(int a, int b) { return a < b ? a : b; }

struct Pair {
  Vector first, second;
};

// kPair elements of a row, or the `count` that are left of it and zeros. Those of bfloat16, two in a word, come as the
// even and then the odd ones, which takes no shuffle; q and out are kept in that order until the end.
template <int kType, bool kAsWords = false>
NA_INLINE Pair load_pair(const char* row, int at, int count) {
  constexpr int kBytes = kType == NA_FLOAT32 ? 4 : 2;
  alignas(64) char rest[kPair * kBytes];
  const char* from = row + static_cast<int64_t>(at) * kBytes;
  if (count < kPair) {
    __builtin_memset(rest, 0, sizeof(rest));
    __builtin_memcpy(rest, from, static_cast<size_t>(count) * kBytes);
    from = rest;
  }
  if constexpr (kAsWords) {
    return {load(reinterpret_cast<const float*>(from)), Vector{}};
  } else if constexpr (kType == NA_BFLOAT16) {
    const Naturals words = (Naturals)load(reinterpret_cast<const int32_t*>(from));
    return {(Vector)(words << 16), (Vector)(words & 0xffff0000)};
  } else {
    return {load_elements<kType>(from, 0, kWidth), load_elements<kType>(from, kWidth, kWidth)};
  }
}

template <int kType>
NA_INLINE void store_pair(char* row, int at, int count, Pair pair) {
  if (kType == NA_BFLOAT16) pair = {zip_low(pair.first, pair.second), zip_high(pair.first, pair.second)};
  store_elements(kType, row, at, count, pair.first);
  if (count > kWidth) store_elements(kType, row, at + kWidth, count - kWidth, pair.second);
}

// The sum of each of kWidth vectors, in order: halves are folded onto each other until one vector is left.
NA_INLINE Vector sums_of(Vector (&of)[kWidth]) {
  for (int count = kWidth; count > 1; count /= 2) {
    for (int i = 0; i < count / 2; i++) {
      of[i] = zip_low(of[i], of[i + count / 2]) + zip_high(of[i], of[i + count / 2]);
    }
  }
  return of[0];
}

// A pair of vectors of q, as it is multiplied: in the order of load_pair(), or as it is where pairs of bfloat16 are
// multiplied as such.
#if defined(__AVX512BF16__)
constexpr bool kMultipliesPairs = true;
NA_INLINE Vector multiply_words(Vector a, Vector b, Vector c) {
  return (Vector)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
#else
constexpr bool kMultipliesPairs = false;
NA_INLINE Vector multiply_words(Vector, Vector, Vector c) { return c; }
#endif

template <int kType>
constexpr bool kWords = kMultipliesPairs && kType == NA_BFLOAT16;

// Products of kWidth / kQueries keys and kQueries queries.
template <int kType, int kQueries>
NA_INLINE void score_keys(const char* const* rows, int64_t head, const float* q, int pitch, int head_dim, float* scores,
                          int score_pitch) {
  constexpr int kKeys = kWidth / kQueries;
  Vector sum[kWidth] = {};
  const auto add = [&](int d, int count) {
    Pair columns[kQueries];
    for (int i = 0; i < kQueries; i++) columns[i] = {load(q + i * pitch + d), load(q + i * pitch + d + kWidth)};
    for (int key = 0; key < kKeys; key++) {
      const Pair element = load_pair<kType, kWords<kType>>(rows[key] + head, d, count);
      for (int i = 0; i < kQueries; i++) {
        Vector& to = sum[i * kKeys + key];
        if constexpr (kWords<kType>) {
          to = multiply_words(element.first, columns[i].first, to);
        } else {
          to = multiply_add(element.second, columns[i].second, multiply_add(element.first, columns[i].first, to));
        }
      }
    }
  };
  int d = 0;
  for (; d + kPair <= head_dim; d += kPair) add(d, kPair);
  if (d < head_dim) add(d, head_dim - d);
  const Vector all = sums_of(sum);
  for (int i = 0; i < kQueries; i++) {
    __builtin_memcpy(scores + i * score_pitch, reinterpret_cast<const float*>(&all) + i * kKeys, sizeof(float) * kKeys);
  }
}

template <int kType, int kQueries>
void score_queries(const char* const* rows, int64_t head, int keys, const float* q, int pitch, int head_dim,
                   float* scores, int score_pitch) {
  for (int key = 0; key < keys; key += kWidth / kQueries) {
    score_keys<kType, kQueries>(rows + key, head, q, pitch, head_dim, scores + key, score_pitch);
  }
}

// Adds keys to kQueries rows of output, kPairs pairs of columns from `at`; the last has `count` left.
template <int kType, int kQueries, int kPairs>
NA_INLINE void output_columns(const char* const* rows, int64_t head, int keys, const float* weights, int pitch, int at,
                              int count, float* out, int out_pitch) {
  Vector sum[kQueries][2 * kPairs];
  for (int q = 0; q < kQueries; q++) {
    for (int u = 0; u < 2 * kPairs; u++) sum[q][u] = load(out + q * out_pitch + at + u * kWidth);
  }
  for (int key = 0; key < keys; key++) {
    Pair value[kPairs];
    for (int u = 0; u < kPairs; u++) value[u] = load_pair<kType>(rows[key] + head, at + u * kPair, count);
    for (int q = 0; q < kQueries; q++) {
      const Vector weight = broadcast(weights[q * pitch + key]);
      for (int u = 0; u < kPairs; u++) {
        sum[q][2 * u] = multiply_add(value[u].first, weight, sum[q][2 * u]);
        sum[q][2 * u + 1] = multiply_add(value[u].second, weight, sum[q][2 * u + 1]);
      }
    }
  }
  for (int q = 0; q < kQueries; q++) {
    for (int u = 0; u < 2 * kPairs; u++) store(out + q * out_pitch + at + u * kWidth, sum[q][u]);
  }
}

template <int kType, int kQueries>
void output_queries(const char* const* rows, int64_t head, int keys, const float* weights, int pitch, int value_dim,
                    float* out, int out_pitch) {
  int at = 0;
  for (; at + 2 * kPair <= value_dim; at += 2 * kPair) {
    output_columns<kType, kQueries, 2>(rows, head, keys, weights, pitch, at, kPair, out, out_pitch);
  }
  for (; at + kPair <= value_dim; at += kPair) {
    output_columns<kType, kQueries, 1>(rows, head, keys, weights, pitch, at, kPair, out, out_pitch);
  }
  if (at < value_dim) {
    output_columns<kType, kQueries, 1>(rows, head, keys, weights, pitch, at, value_dim - at, out, out_pitch);
  }
}

// The rows of K or of V of a tile's keys, whose heads are `head` bytes apart.
struct HeadRows {
  const char* const* rows;
  int count;
  int64_t head;
  int bytes;  // of one head
};

// Fetches what a head has of a run.
NA_INLINE void fetch_run(const HeadRows& of, int first, int head) {
  const int end = smaller(of.count, first + kRun);
  for (int key = first; key < end; key++) {
    const char* const row = of.rows[key] + head * of.head;
    for (int at = 0; at < of.bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
  }
}

// Calls run(together, lane, head, key) for all sets of queries of a tile, run of keys by run of keys and within that
// key head by key head. With kFetches the next run is fetched meanwhile, behind the last one the first of `next`: the
// pieces of rows that a head has are too short for the processor to foresee them. It does foresee those of float32,
// which also take longer to sum up; fetching them made decoding slower by up to a seventh.
template <bool kFetches, typename Run>
NA_INLINE void by_memory(const Tile& tile, const HeadRows& now, const HeadRows& next, const Run& run) {
  const int each = tile.lanes / tile.kv_heads;
  for (int key = 0; key < tile.count; key += kRun) {
    for (int head = 0; head < tile.kv_heads; head++) {
      if constexpr (kFetches) {
        const bool last = key + kRun >= tile.count;
        fetch_run(last ? next : now, last ? 0 : key + kRun, head);
      }
      by_queries<kTogether>(head * each, (head + 1) * each,
                            [&](auto together, int lane) { run(together, lane, head, key); });
    }
  }
}

// The factors of all queries, in rows with zeros up to their pitch.
void pack_factors(const Problem& problem, const Tile& tile, const Sums& sums) {
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    const int pitch = rank_pitch(bias);
    for (int lane = 0; lane < tile.lanes && pitch > 0; lane++) {
      const char* row = reinterpret_cast<const char*>(query_row(bias, tile, lane));
      for (int r = 0; r < pitch; r += kWidth) {
        const int count = bias.columns - r;
        store(sums.lane_bias[b] + lane * pitch + r,
              count > 0 ? to_log2(load_elements<NA_FLOAT32>(row, r, count)) : Vector{});
      }
    }
  }
}

// Adds the products of one query's factors with those of the keys at hand.
void add_low_rank_row(const Bias& bias, const Tile& tile, const float* factors, int lane, float* scores) {
  const float* rows = key_rows(bias, tile, tile.lane_head[lane]);
  for (int first = 0; first < tile.count; first += kWidth) {
    const char* row[kWidth];
    const int count = smaller(tile.count - first, kWidth);
    for (int i = 0; i < kWidth; i++) {
      row[i] = reinterpret_cast<const char*>(rows + tile.key[first + smaller(i, count - 1)] * bias.k.token);
    }
    Vector products;
    score_keys<NA_FLOAT32, 1>(row, 0, factors, 0, bias.columns, reinterpret_cast<float*>(&products), 0);
    for (int i = 0; i < count; i++) scores[first + i] += products[i];
  }
}

// The products of one query become what the softmax sees: scaled, capped, biased, masked. Keys are padded to whole
// vectors.
void finish_scores(const Problem& problem, const Tile& tile, const Sums& sums, uint32_t hiding, int lane, int padded,
                   float* scores) {
  const float factor = problem.cap != 0 ? problem.scale / problem.cap : problem.scale * kLog2E;
  for (int key = 0; key < padded; key += kWidth) store(scores + key, load(scores + key) * broadcast(factor));
  if (problem.cap != 0) {
    for (int key = 0; key < padded; key += kWidth) {
      store(scores + key, broadcast(problem.cap * kLog2E) * tanh(load(scores + key)));
    }
  }
  for (int b = 0; b < problem.bias_count && !tile.extra; b++) {
    const Bias& bias = problem.biases[b];
    if (bias.kind == NA_BIAS_LOW_RANK) {
      add_low_rank_row(bias, tile, sums.lane_bias[b] + lane * rank_pitch(bias), lane, scores);
    } else {
      add_bias_row(bias, tile, lane, scores);
    }
  }
  for (int key = 0; tile.pooled && key < tile.count; key++) scores[key] += tile.log_counts[key];
  for (int key = tile.count; key < padded; key++) scores[key] = -kInfinity;
  for (int c = 0; c < tile.constraints && hiding != 0; c++) {
    const Integers low = broadcast(tile.low[c][lane]), length = broadcast(tile.length[c][lane]);
    const Integers wrap = broadcast(tile.wrap[c]);
    for (int key = 0; key < padded; key += kWidth) {
      Integers offset = difference(load(tile.code[c] + key), low);
      offset += (offset >> 31) & wrap;
      store(scores + key, select(below(offset, length), load(scores + key), broadcast(-kInfinity)));
    }
  }
  if (hiding >> kSparseBit & 1 && tile.sparse.words > 0) {
    const int bit = tile.sparse.lane_bit[lane];
    for (int key = 0; key < tile.count; key++) {
      const uint32_t word = tile.sparse.bits[static_cast<int64_t>(key) * tile.sparse.words + bit / 32];
      if (!(word >> bit % 32 & 1)) scores[key] = -kInfinity;
    }
  }
}

NA_INLINE float largest_of(Vector x) {
  float largest = x[0];
  for (int i = 1; i < kWidth; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// Leaves the sums of a part for the one that ends last, which gets those of all parts, added in their order: true.
bool join_parts(const Tile& tile, int pitch, float* out, float* maximum, float* total) {
  const Split& split = tile.split;
  const int floats = tile.lanes * pitch;
  const auto row_of = [&](int part) { return split.sums + part * split.pitch; };
  float* own = row_of(split.part);
  __builtin_memcpy(own, out, sizeof(float) * static_cast<size_t>(floats));
  __builtin_memcpy(own + floats, maximum, sizeof(float) * static_cast<size_t>(tile.lanes));
  __builtin_memcpy(own + floats + tile.lanes, total, sizeof(float) * static_cast<size_t>(tile.lanes));
  if (__atomic_sub_fetch(split.left, 1, __ATOMIC_ACQ_REL) != 0) return false;
  for (int lane = 0; lane < tile.lanes; lane++) {
    const auto maximum_of = [&](int part) { return row_of(part)[floats + lane]; };
    float top = maximum_of(0);
    for (int part = 1; part < split.parts; part++) top = maximum_of(part) > top ? maximum_of(part) : top;
    const float zero = top == -kInfinity ? 0.0f : top;
    float* row = out + lane * pitch;
    __builtin_memset(row, 0, sizeof(float) * static_cast<size_t>(pitch));
    maximum[lane] = top;
    total[lane] = 0;
    for (int part = 0; part < split.parts; part++) {
      const float* from = row_of(part);
      const Vector decay = exp2(broadcast(maximum_of(part) - zero));
      total[lane] += decay[0] * from[floats + tile.lanes + lane];
      for (int value = 0; value < pitch; value += kWidth) {
        store(row + value, multiply_add(load(from + lane * pitch + value), decay, load(row + value)));
      }
    }
  }
  return true;
}

// Adds the sums of queries that are gathered to those they have, columns in their own order.
template <int kType>
void join_rows(const Tile& tile, int pitch, const float* out, const float* maximum, const float* total) {
  const Gathered& to = *tile.gathered;
  for (int lane = 0; lane < tile.lanes; lane++) {
    const int64_t row = to.row(tile.lane_head[lane] - tile.head, tile.lane_query[lane]);
    const float before = to.maximum[row], top = maximum[lane] > before ? maximum[lane] : before;
    const float zero = top == -kInfinity ? 0.0f : top;
    const Vector decay = exp2(broadcast(before - zero)), own_decay = exp2(broadcast(maximum[lane] - zero));
    to.maximum[row] = top;
    to.total[row] = to.total[row] * decay[0] + total[lane] * own_decay[0];
    for (int value = 0; value < pitch; value += kPair) {
      const float* from = out + lane * pitch + value;
      float ordered[kPair];
      for (int i = 0; i < kPair; i++) ordered[i] = from[kType == NA_BFLOAT16 ? i / 2 + i % 2 * kWidth : i];
      float* at = to.out + row * pitch + value;
      for (int i = 0; i < kPair; i += kWidth) {
        store(at + i, multiply_add(load(at + i), decay, load(ordered + i) * own_decay));
      }
    }
  }
}

template <int kType>
void run_rows(const Problem& problem, Tile& tile, Sums& sums) {
  constexpr int kBytes = kType == NA_FLOAT32 ? 4 : 2;
  constexpr bool kFetches = kType != NA_FLOAT32;
  const int pitch = row_pitch(problem), key_pitch = problem.geometry.keys;
  float* const q = sums.rows;
  float* const out = sums.rows + tile.lanes * pitch;
  float maximum[kMostRows], total[kMostRows];
  __builtin_memset(sums.rows, 0, sizeof(float) * 2 * static_cast<size_t>(tile.lanes * pitch));
  for (int lane = 0; lane < tile.lanes; lane++) {
    for (int d = 0; d < problem.head_dim; d += kPair) {
      const Pair pair = load_pair<kType, kWords<kType>>(tile.lane_q[lane], d, problem.head_dim - d);
      store(q + lane * pitch + d, pair.first);
      store(q + lane * pitch + d + kWidth, pair.second);
    }
    const float sink =
        problem.sinks && tile.begins ? problem.sinks[tile.lane_head[lane] * problem.sink_stride] : -kInfinity;
    maximum[lane] = to_log2(sink);
    total[lane] = sink == -kInfinity ? 0.0f : 1.0f;
  }
  pack_factors(problem, tile, sums);
  while (next_wide_keys(problem, tile)) {
    const int padded = (tile.count + kWidth - 1) / kWidth * kWidth;
    for (int key = tile.count; key < padded; key++) tile.k[key] = tile.k[tile.count - 1];
    const bool widened =
        problem.pages && problem.pages->int8;  // then k and v were just written: nothing is to be fetched
    const HeadRows k = {tile.k, widened ? 0 : tile.count, tile.k_head, problem.head_dim * kBytes};
    const HeadRows v = {tile.v, widened ? 0 : tile.count, tile.v_head, problem.value_dim * kBytes};
    const HeadRows ahead = {tile.ahead_k, tile.ahead, problem.k.head, problem.head_dim * (widened ? 1 : kBytes)};
    by_memory<kFetches>(tile, k, v, [&](auto together, int lane, int head, int key) {
      score_queries<kType, decltype(together)::kCount>(tile.k + key, head * tile.k_head, smaller(padded - key, kRun),
                                                       q + lane * pitch, pitch, problem.head_dim,
                                                       sums.scores + lane * key_pitch + key, key_pitch);
    });
    // The first block has all queries of the first key head, and those of the others see the same.
    const uint32_t hiding = sight(problem, tile, 0, 0, tile.count).hiding;
    for (int lane = 0; lane < tile.lanes; lane++) {
      float* scores = sums.scores + lane * key_pitch;
      finish_scores(problem, tile, sums, hiding, lane, padded, scores);
      Vector top = broadcast(maximum[lane]), sum = {};
      for (int key = 0; key < padded; key += kWidth) top = larger(load(scores + key), top);
      const float largest = largest_of(top), zero = largest == -kInfinity ? 0.0f : largest;
      for (int key = 0; key < padded; key += kWidth) {
        const Vector weight = exp2(load(scores + key) - broadcast(zero));
        sum += weight;
        store(scores + key, weight);
      }
      if (largest > maximum[lane]) {
        const Vector decay = exp2(broadcast(maximum[lane] - zero));
        for (int value = 0; value < pitch; value += kWidth) {
          store(out + lane * pitch + value, load(out + lane * pitch + value) * decay);
        }
        total[lane] *= decay[0];
        maximum[lane] = largest;
      }
      for (int i = 0; i < kWidth; i++) total[lane] += sum[i];
    }
    by_memory<kFetches>(tile, v, ahead, [&](auto together, int lane, int head, int key) {
      output_queries<kType, decltype(together)::kCount>(
          tile.v + key, head * tile.v_head, smaller(tile.count - key, kRun), sums.scores + lane * key_pitch + key,
          key_pitch, problem.value_dim, out + lane * pitch, pitch);
    });
  }
  if (tile.gathered) return join_rows<kType>(tile, pitch, out, maximum, total);
  if (tile.split.parts > 1 && !join_parts(tile, pitch, out, maximum, total)) return;
  for (int lane = 0; lane < tile.lanes; lane++) {
    float* row = out + lane * pitch;
    const float share = 1.0f / total[lane];
    const bool empty = total[lane] == 0;
    for (int value = 0; value < problem.value_dim; value += kPair) {
      const Vector first = load(row + value) * broadcast(share), second = load(row + value + kWidth) * broadcast(share);
      store_pair<kType>(tile.lane_out[lane], value, problem.value_dim - value,
                        {empty ? Vector{} : first, empty ? Vector{} : second});
    }
    *tile.lane_lse[lane] = total[lane] == 0 ? -kInfinity : maximum[lane] * kLn2 + __builtin_logf(total[lane]);
  }
}

}  // namespace
}  // namespace na::cpu
