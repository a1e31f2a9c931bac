// Adds biases to the scores [key][lane] of a block, in units of log2. What a bias needs to know of a lane is packed
// once per tile, [column][lane] for each block; of a key it is looked up when its scores are made, and serves all
// lanes. Included once by each instruction set.
#pragma once

#include "core/backend.h"
#include "cpu/executor/convert.h"
#include "cpu/executor/lanes.h"

namespace na::cpu {
namespace {

// Keys whose scores are biased at once.
constexpr int kMostKeys = 64;

// Keys whose sums of a low rank are in registers at once: sixteen sums where there are 32 registers.
constexpr int kRankKeys = kWidth == 16 ? 16 / kVectors : 4;

// Where the query of a lane stands among the keys of its sequence, counted as tile.key is.
NA_INLINE int64_t position_of(const Tile& tile, int lane) {
  return tile.lane_query[lane] - tile.query_origin + tile.keys - tile.queries + tile.key_origin;
}

// Press et al. 2022: 2^(-8 (h + 1) / n) for n heads; those that exceed a power of two take every second slope of the
// next one.
inline float default_slope(int64_t heads, int64_t head) {
  int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  const double eighth = head < power ? static_cast<double>(head + 1) : static_cast<double>(head - power) + 0.5;
  return static_cast<float>(__builtin_exp2(-8.0 * eighth / static_cast<double>(power)));
}

NA_INLINE float slope_of(const Bias& bias, int64_t head) {
  return to_log2(bias.data ? bias.data[head * bias.head] : default_slope(bias.heads, head));
}

NA_INLINE float distance_weight(const Bias& bias, const Tile& tile, int lane) {
  const float weight =
      bias.data
          ? bias.data[tile.batch * bias.batch + tile.lane_head[lane] * bias.head + tile.lane_query[lane] * bias.query]
          : 1.0f;
  return -to_log2(weight);
}

// The factor by which scores of tile registers still are to be multiplied, and the slope or weight of a closed form, in
// units of log2, divided by it: what is added to such scores. Divided once in float64, so that it is rounded once.
NA_INLINE float score_factor(const Problem& problem) {
  return (problem.scale < 0 ? -problem.scale : problem.scale) * kLog2E;
}

NA_INLINE float before_factor(const Problem& problem, float weight) {
  const double quotient = static_cast<double>(weight) / static_cast<double>(score_factor(problem));
  return quotient > kMostFloat ? kMostFloat : quotient < -kMostFloat ? -kMostFloat : static_cast<float>(quotient);
}

NA_INLINE const float* query_row(const Bias& bias, const Tile& tile, int lane) {
  return bias.q.data + tile.batch * bias.q.batch + tile.lane_head[lane] * bias.q.head +
         tile.lane_query[lane] * bias.q.token;
}

// Of the keys that lanes of `head` see.
NA_INLINE const float* key_rows(const Bias& bias, const Tile& tile, int64_t head) {
  return bias.k.data + tile.batch * bias.k.batch + head * bias.k.head;
}

NA_INLINE int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Steps of a relative position along each axis; `flat` counts tokens, or positions where there is one axis.
NA_INLINE void steps_of(const Bias& bias, int64_t flat, int64_t* steps) {
  for (int a = bias.axes - 1; a > 0; a--) {
    steps[a] = flat % bias.extent[a] / bias.step[a];
    flat /= bias.extent[a];
  }
  steps[0] = floor_div(flat, bias.step[0]);
}

// Those of the query of a lane.
NA_INLINE void lane_steps(const Bias& bias, const Tile& tile, int lane, int64_t* steps) {
  steps_of(bias, bias.axes == 1 ? position_of(tile, lane) - tile.key_origin : tile.lane_query[lane], steps);
}

// What a block's lanes are to a bias.
void pack_bias(const Problem& problem, const Bias& bias, const Tile& tile, const Block& block, float* to) {
  const auto lane_at = [&](int i) { return block.first + (i < block.lanes ? i : block.lanes - 1); };
  const auto set = [&](int column, int i, int32_t value) { __builtin_memcpy(to + column * kLanes + i, &value, 4); };
  if (bias.kind == NA_BIAS_LOW_RANK) {
    for (int first = 0; first < kLanes; first += kWidth) {
      for (int r = 0; r < bias.columns; r += kWidth) {
        Vector square[kWidth];
        for (int i = 0; i < kWidth; i++) {
          const char* row = reinterpret_cast<const char*>(query_row(bias, tile, lane_at(first + i)));
          square[i] = to_log2(load_elements<NA_FLOAT32>(row, r, bias.columns - r));
        }
        transpose(square);
        for (int i = 0; i < kWidth && r + i < bias.columns; i++) store(to + (r + i) * kLanes + first, square[i]);
      }
    }
    return;
  }
  for (int i = 0; i < kLanes; i++) {
    const int lane = lane_at(i);
    if (bias.kind == NA_BIAS_ALIBI) {
      to[i] = -slope_of(bias, tile.lane_head[lane]);
      to[kLanes + i] = before_factor(problem, to[i]);
      set(2, i, static_cast<int32_t>(position_of(tile, lane)));
    } else if (bias.kind == NA_BIAS_DISTANCE) {
      const float* row = query_row(bias, tile, lane);
      to[i] = distance_weight(bias, tile, lane);
      to[kLanes + i] = before_factor(problem, to[i]);
      for (int c = 0; c < bias.columns; c++) to[(c + 2) * kLanes + i] = row[c * bias.q.column];
    } else if (bias.kind == NA_BIAS_RELATIVE) {
      int64_t steps[kMaxAxes], base = tile.lane_head[lane] * bias.head;
      lane_steps(bias, tile, lane, steps);
      for (int a = 0; a < bias.axes; a++) {
        base += bias.covered ? (steps[a] + bias.reach[a]) * bias.stride[a] : 0;
        set(a + 1, i, static_cast<int32_t>(steps[a] + bias.reach[a]));
      }
      set(0, i, static_cast<int32_t>(base));
    }
  }
}

// Scores that a bias is added to, times `factor` first where they are not scaled yet: one pass instead of two.
template <bool kScale>
NA_INLINE Vector scaled(const float* scores, float factor) {
  if constexpr (kScale) return load(scores) * broadcast(factor);
  return load(scores);
}

// Where the values of a head are among those of a dense bias; below 0 there are none.
NA_INLINE int64_t place_of(const Bias& bias, int64_t head) { return bias.places ? bias.places[head] : head; }

// The same number for all lanes, or one that is read for each.
template <int kUsed, bool kScale>
void add_dense(const Bias& bias, const Tile& tile, const Block& block, int from, int keys, float* columns, float factor,
               float* scores) {
  const int first = block.first;
  const int64_t* index = tile.key + from;
  const float* data = bias.data + tile.batch * bias.batch;
  if (bias.query == 0 && (bias.head == 0 || tile.heads == 1)) {
    data += place_of(bias, tile.head) * bias.head;
    for (int key = 0; key < keys; key++) {
      const Vector value = to_log2(broadcast(data[index[key] * bias.key]));
      for (int u = 0; u < kUsed; u++) {
        float* at = scores + key * kLanes + u * kWidth;
        store(at, scaled<kScale>(at, factor) + value);
      }
    }
    return;
  }
  for (int group = 0; group < kUsed; group++) {
    const float* row[kWidth];
    for (int lane = 0; lane < kWidth; lane++) {
      // Lanes beyond the last repeat it, so that nothing outside the tensor is read.
      const int at = first + (group * kWidth + lane < block.lanes ? group * kWidth + lane : block.lanes - 1);
      row[lane] = data + place_of(bias, tile.lane_head[at]) * bias.head + tile.lane_query[at] * bias.query;
    }
    int key = 0;
    while (key < keys) {
      bool run = bias.key == 1 && key + kWidth <= keys;
      for (int i = 1; i < kWidth && run; i++) run = index[key + i] == index[key] + i;
      if (run) {
        Vector square[kWidth];
        for (int lane = 0; lane < kWidth; lane++) square[lane] = load(row[lane] + index[key]);
        transpose(square);
        for (int i = 0; i < kWidth; i++) store(columns + (key + i) * kLanes + group * kWidth, square[i]);
        key += kWidth;
      } else {
        for (int lane = 0; lane < kWidth; lane++) {
          columns[key * kLanes + group * kWidth + lane] = row[lane][index[key] * bias.key];
        }
        key++;
      }
    }
  }
  for (int key = 0; key < keys; key++) {
    for (int u = 0; u < kUsed; u++) {
      float* at = scores + key * kLanes + u * kWidth;
      store(at, scaled<kScale>(at, factor) + to_log2(load(columns + key * kLanes + u * kWidth)));
    }
  }
}

// kCount scores of each lane grow by the products of their factors.
template <int kUsed, bool kScale, int kCount>
NA_INLINE void add_products(const float* const* k, const float* q, int rank, float factor, float* scores) {
  Vector sum[kCount][kUsed];
  for (int i = 0; i < kCount; i++) {
    for (int u = 0; u < kUsed; u++) sum[i][u] = Vector{};
  }
  for (int r = 0; r < rank; r++) {
    Vector lanes[kUsed];
    for (int u = 0; u < kUsed; u++) lanes[u] = load(q + r * kLanes + u * kWidth);
    for (int i = 0; i < kCount; i++) {
      const Vector element = broadcast(k[i][r]);
      for (int u = 0; u < kUsed; u++) sum[i][u] = multiply_add(element, lanes[u], sum[i][u]);
    }
  }
  for (int i = 0; i < kCount; i++) {
    for (int u = 0; u < kUsed; u++) {
      float* at = scores + i * kLanes + u * kWidth;
      store(at, scaled<kScale>(at, factor) + sum[i][u]);
    }
  }
}

// All lanes of a tile have the same factors of keys: it has one head where heads have their own.
template <int kUsed, bool kScale>
void add_low_rank(const Bias& bias, const Tile& tile, const float* lanes, int from, int keys, float factor,
                  float* scores) {
  const float* rows = key_rows(bias, tile, tile.head);
  const float* k[kMostKeys];
  for (int key = 0; key < keys; key++) k[key] = rows + tile.key[from + key] * bias.k.token;
  int key = 0;
  for (; key + kRankKeys <= keys; key += kRankKeys) {
    add_products<kUsed, kScale, kRankKeys>(k + key, lanes, bias.columns, factor, scores + key * kLanes);
  }
  for (; key < keys; key++) {
    add_products<kUsed, kScale, 1>(k + key, lanes, bias.columns, factor, scores + key * kLanes);
  }
}

// Positions count from the first key, so that small distances are exact wherever they are; those up to 2^24 are too.
template <int kUsed>
void add_alibi(const Tile& tile, const float* lanes, bool scaled, int from, int keys, float* scores) {
  const int64_t* index = tile.key + from;
  const Integers origin = broadcast(static_cast<int32_t>(index[0]));
  float offset[kMostKeys];
  int32_t apart = 0;  // 0: the keys follow each other
  for (int key = 0; key < keys; key++) {
    const int32_t from_first = static_cast<int32_t>(index[key] - index[0]);
    offset[key] = static_cast<float>(from_first);
    apart |= from_first ^ key;
  }
  // Where such keys lie on one side of all lanes, the sign of a distance is that of the slope.
  Integers before = {}, behind = {};
  Vector slope[kUsed], position[kUsed];
  for (int u = 0; u < kUsed; u++) {
    slope[u] = load(lanes + (scaled ? 0 : kLanes) + u * kWidth);
    position[u] = __builtin_convertvector((Integers)load(lanes + 2 * kLanes + u * kWidth) - origin, Vector);
    before |= position[u] < broadcast(static_cast<float>(keys - 1));
    behind |= position[u] > Vector{};
  }
  const auto add = [&](const auto& distance) {
    for (int key = 0; key < keys; key++) {
      const Vector own = broadcast(offset[key]);
      for (int u = 0; u < kUsed; u++) {
        float* at = scores + key * kLanes + u * kWidth;
        store(at, multiply_add(slope[u], distance(position[u] - own), load(at)));
      }
    }
  };
  if (apart == 0 && (!any(before) || !any(behind))) {
    for (int u = 0; u < kUsed && any(before); u++) slope[u] = -slope[u];
    add([](Vector apart) { return apart; });
  } else {
    add([](Vector apart) { return (Vector)((Integers)apart & broadcast(INT32_MAX)); });
  }
}

template <int kUsed, int kCoordinates>
void add_distances(const Bias& bias, const Tile& tile, const float* lanes, bool scaled, int from, int keys,
                   float* scores) {
  const int64_t* index = tile.key + from;
  const float* rows = key_rows(bias, tile, 0);
  Vector own[kUsed][kCoordinates], weight[kUsed];
  for (int u = 0; u < kUsed; u++) {
    weight[u] = load(lanes + (scaled ? 0 : kLanes) + u * kWidth);
    for (int c = 0; c < kCoordinates; c++) own[u][c] = load(lanes + (c + 2) * kLanes + u * kWidth);
  }
  for (int key = 0; key < keys; key++) {
    const float* row = rows + index[key] * bias.k.token;
    Vector other[kCoordinates];
    for (int c = 0; c < kCoordinates; c++) other[c] = broadcast(row[c * bias.k.column]);
    for (int u = 0; u < kUsed; u++) {
      Vector sum = {};
      for (int c = 0; c < kCoordinates; c++) {
        const Vector apart = own[u][c] - other[c];
        sum = c == 0 ? apart * apart : multiply_add(apart, apart, sum);
      }
      float* at = scores + key * kLanes + u * kWidth;
      store(at, multiply_add(weight[u], sum, load(at)));
    }
  }
}

template <int kUsed>
void add_distance(const Bias& bias, const Tile& tile, const float* lanes, bool scaled, int from, int keys,
                  float* scores) {
  switch (bias.columns) {
    case 1: return add_distances<kUsed, 1>(bias, tile, lanes, scaled, from, keys, scores);
    case 2: return add_distances<kUsed, 2>(bias, tile, lanes, scaled, from, keys, scores);
    case 3: return add_distances<kUsed, 3>(bias, tile, lanes, scaled, from, keys, scores);
    default: return add_distances<kUsed, 4>(bias, tile, lanes, scaled, from, keys, scores);
  }
}

// The steps of keys that mostly follow each other, which takes no division then.
class KeySteps {
 public:
  explicit KeySteps(const Bias& bias) : bias_(bias) {}

  void move(int64_t flat) {
    if (flat == flat_ + 1) {
      int a = bias_.axes - 1;
      for (at_[a]++; a > 0 && at_[a] == bias_.extent[a]; at_[a]++) at_[a--] = 0;
    } else {
      int64_t rest = flat;
      for (int a = bias_.axes - 1; a > 0; a--) {
        at_[a] = rest % bias_.extent[a];
        rest /= bias_.extent[a];
      }
      at_[0] = rest;
    }
    flat_ = flat;
  }

  int64_t operator[](int axis) const { return bias_.step[axis] == 1 ? at_[axis] : at_[axis] / bias_.step[axis]; }

 private:
  const Bias& bias_;
  int64_t flat_ = -2, at_[kMaxAxes] = {};
};

// Where a table reaches all differences there are, a place in it is a difference of two numbers; else each axis is cut
// off at its ends.
template <int kUsed, bool kScale>
void add_relative(const Bias& bias, const Tile& tile, const float* lanes, int from, int keys, float factor,
                  float* scores) {
  const int64_t* index = tile.key + from;
  const auto of_lane = [&](int column, int u) { return (Integers)load(lanes + column * kLanes + u * kWidth); };
  KeySteps steps(bias);
  for (int key = 0; key < keys; key++) {
    steps.move(index[key] - (bias.axes == 1 ? tile.key_origin : 0));
    int64_t base = 0;
    for (int a = 0; a < bias.axes; a++) base += steps[a] * bias.stride[a];
    for (int u = 0; u < kUsed; u++) {
      Integers place = of_lane(0, u);
      if (bias.covered) {
        place -= broadcast(static_cast<int32_t>(base));
      } else {
        for (int a = 0; a < bias.axes; a++) {
          const Integers last = broadcast(static_cast<int32_t>(2 * bias.reach[a]));
          Integers at = of_lane(a + 1, u) - broadcast(static_cast<int32_t>(steps[a]));
          at = at < 0 ? Integers{} : at > last ? last : at;
          place += at * broadcast(static_cast<int32_t>(bias.stride[a]));
        }
      }
      float* at = scores + key * kLanes + u * kWidth;
      store(at, scaled<kScale>(at, factor) + to_log2(gather(bias.data, place)));
    }
  }
}

// Adds one bias that is no closed form to a block's scores of keys [from, from + keys), which are multiplied by
// `factor` first if kScale. `lanes` is what pack_bias() left for the block's first lane, `columns` scratch for one that
// differs between lanes.
template <int kUsed, bool kScale>
void add_bias(const Bias& bias, const float* lanes, const Tile& tile, const Block& block, int from, int keys,
              float* columns, float factor, float* scores) {
  switch (bias.kind) {
    case NA_BIAS_LOW_RANK: return add_low_rank<kUsed, kScale>(bias, tile, lanes, from, keys, factor, scores);
    case NA_BIAS_RELATIVE: return add_relative<kUsed, kScale>(bias, tile, lanes, from, keys, factor, scores);
    default: return add_dense<kUsed, kScale>(bias, tile, block, from, keys, columns, factor, scores);
  }
}

// Whether anything is added to the scores of the keys at hand.
NA_INLINE bool has_biases(const Problem& problem, const Tile& tile) {
  return tile.pooled || (problem.bias_count > 0 && !tile.extra);
}

// All biases of a problem, or with `ranked` those that are not of low rank; what pooled keys have instead. Scores are
// to be multiplied by `factor`, which is score_factor() or 1. Closed forms are added as they are then; what may be as
// large as a float, as masks are, only to scores that have been multiplied. Returns what they still are to be
// multiplied by.
template <int kUsed>
float add_biases(const Problem& problem, const Tile& tile, const Sums& sums, const Block& block, bool ranked, int from,
                 int keys, float factor, float* scores) {
  for (int key = 0; tile.pooled && key < keys; key++) {
    for (int u = 0; u < kUsed; u++) {
      float* at = scores + key * kLanes + u * kWidth;
      store(at, load(at) * broadcast(factor) + broadcast(tile.log_counts[from + key]));
    }
  }
  if (tile.pooled) return 1;
  const int within = block.first - block.index * kLanes;
  const auto lanes_of = [&](int b) {
    return sums.lane_bias[b] + static_cast<int64_t>(block.index) * problem.biases[b].lane_columns * kLanes + within;
  };
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    if (bias.kind == NA_BIAS_ALIBI) add_alibi<kUsed>(tile, lanes_of(b), factor == 1, from, keys, scores);
    if (bias.kind == NA_BIAS_DISTANCE) add_distance<kUsed>(bias, tile, lanes_of(b), factor == 1, from, keys, scores);
  }
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    if (bias.kind == NA_BIAS_ALIBI || bias.kind == NA_BIAS_DISTANCE) continue;
    if (ranked && bias.kind == NA_BIAS_LOW_RANK) continue;
    if (place_of(bias, tile.head) < 0) continue;  // such a tile has one head
    if (factor != 1) {
      add_bias<kUsed, true>(bias, lanes_of(b), tile, block, from, keys, sums.bias, factor, scores);
    } else {
      add_bias<kUsed, false>(bias, lanes_of(b), tile, block, from, keys, sums.bias, 1, scores);
    }
    factor = 1;
  }
  return factor;
}

void pack_biases(const Problem& problem, const Tile& tile, const Sums& sums, const Block& block) {
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    if (bias.lane_columns == 0) continue;
    pack_bias(problem, bias, tile, block,
              sums.lane_bias[b] + static_cast<int64_t>(block.index) * bias.lane_columns * kLanes);
  }
}

// Adds a bias to the scores of one query, a value for each key at hand; those of low rank are rows.h's.
void add_bias_row(const Bias& bias, const Tile& tile, int lane, float* scores) {
  const int64_t* index = tile.key;
  if (bias.kind == NA_BIAS_DENSE) {
    const int64_t place = place_of(bias, tile.lane_head[lane]);
    if (place < 0) return;
    const float* row = bias.data + tile.batch * bias.batch + place * bias.head + tile.lane_query[lane] * bias.query;
    for (int key = 0; key < tile.count; key++) scores[key] += to_log2(row[index[key] * bias.key]);
  } else if (bias.kind == NA_BIAS_ALIBI) {
    const float slope = slope_of(bias, tile.lane_head[lane]);
    const int64_t position = position_of(tile, lane);
    for (int key = 0; key < tile.count; key++) {
      const int64_t offset = position - index[key];
      scores[key] -= slope * static_cast<float>(offset < 0 ? -offset : offset);
    }
  } else if (bias.kind == NA_BIAS_DISTANCE) {
    const float* own = query_row(bias, tile, lane);
    const float* rows = key_rows(bias, tile, 0);
    const float weight = distance_weight(bias, tile, lane);
    for (int key = 0; key < tile.count; key++) {
      const float* row = rows + index[key] * bias.k.token;
      float sum = 0;
      for (int c = 0; c < bias.columns; c++) {
        const float apart = own[c * bias.q.column] - row[c * bias.k.column];
        sum += apart * apart;
      }
      scores[key] += weight * sum;
    }
  } else if (bias.kind == NA_BIAS_RELATIVE) {
    const float* table = bias.data + tile.lane_head[lane] * bias.head;
    int64_t own[kMaxAxes], other[kMaxAxes];
    lane_steps(bias, tile, lane, own);
    for (int key = 0; key < tile.count; key++) {
      steps_of(bias, index[key] - (bias.axes == 1 ? tile.key_origin : 0), other);
      int64_t place = 0;
      for (int a = 0; a < bias.axes; a++) {
        const int64_t last = 2 * bias.reach[a], at = own[a] - other[a] + bias.reach[a];
        place += (at < 0 ? 0 : at > last ? last : at) * bias.stride[a];
      }
      scores[key] += to_log2(table[place]);
    }
  }
}

}  // namespace
}  // namespace na::cpu
