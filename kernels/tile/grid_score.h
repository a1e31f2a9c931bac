// From products to scores on a grid of tokens, on the accumulators of score.h.
#pragma once

#include "tile/grid_block.h"
#include "tile/score.h"

namespace na::cuda {

// The same number, but what follows from it is computed behind this place: what depends on columns alone would
// otherwise be computed once for all tiles, and take more registers than there are.
__device__ inline int32_t compute_here(int32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// As modify() of score.h, of a visited tile. `rows` are those of the query tile.
template <bool kComputes, int kColumns>
__device__ inline void modify_on_grid(float (&scores)[kColumns][4], const Problem& problem, const GridRegion& region,
                                      int32_t batch, int32_t head, const int32_t (&rows)[2], Place visit,
                                      int32_t lane) {
  const Grid& grid = problem.grid;
  scale_and_cap(scores, problem);
#pragma unroll 1
  for (int b = 0; b < problem.bias_count; b++) {
    const int32_t own = compute_here(lane % 4 * 2);
    const Place first = region.first_key(visit);
    const uint32_t last = last_columns(region.tiles, visit);
    const Bias& bias = problem.biases[b];
    if constexpr (kComputes) {
      if (bias.kind != BiasKind::kDense) {
        BiasedRows biased = {batch, 0, {head, head}, {}, {}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
          biased.query[r] = biased.position[r] = region.token(grid, region.query(grid, rows[r]));
        }
        const auto key_of = [&](int32_t column) {
          const Place in = place_in(grid.key_box, column);
          const Place key = {first.at[0] + in.at[0], first.at[1] + in.at[1], first.at[2] + in.at[2]};
          return exists(last, packed(in)) ? region.token(grid, key) : -1;
        };
        add_bias(scores, problem, bias, biased, key_of, lane);
        continue;
      }
    }
    const auto place = place_of<int32_t>(bias, head);
    if (place < 0) continue;
    const float* const from = bias.data + batch * bias.batch + place * bias.head;
    const int64_t queries[2] = {region.token(grid, region.query(grid, rows[0])) * bias.query,
                                region.token(grid, region.query(grid, rows[1])) * bias.query};
#pragma unroll
    for (int i = 0; i < 2 * kColumns; i++) {
      const Place in = place_in(grid.key_box, own + i / 2 * 8 + i % 2);
      if (!exists(last, packed(in))) continue;
      const Place key = {first.at[0] + in.at[0], first.at[1] + in.at[1], first.at[2] + in.at[2]};
      const float* const column = from + region.token(grid, key) * bias.key;
      scores[i / 2][i % 2] += column[queries[0]];
      scores[i / 2][2 + i % 2] += column[queries[1]];
    }
  }
}

// Whether the neighborhood hides the key at coordinates x from the query at i; coordinates of the grid.
__device__ inline bool hides(const Grid& grid, const Neighborhood& neighborhood, const int32_t (&i)[kMostAxes],
                             const int32_t (&x)[kMostAxes]) {
  bool hidden = false;
#pragma unroll
  for (int a = 0; a < kMostAxes; a++) {
    const Axis& axis = neighborhood.axes[a];
    int32_t query = i[a], key = x[a], length = grid.extent[a];
    if (axis.dilation > 1) {
      const int32_t group = query % axis.dilation;
      length = group_length(length, axis.dilation, group);
      hidden |= key % axis.dilation != group;
      query /= axis.dilation;
      key /= axis.dilation;
    }
    const Interval window = window_of(axis, length, query);
    int32_t past = key - window.begin;
    if (axis.wrap && past >= length) past -= length;
    if (axis.wrap && past < 0) past += length;
    hidden |= past < 0 || past >= window.end - window.begin;
  }
  return hidden;
}

// Scores of keys that windows and neighborhoods beside the first one hide from a row become -infinity. Slow: problems
// with several masks visit what the first one leaves, and ask here for each score.
template <int kColumns>
__device__ inline void mask_further(float (&scores)[kColumns][4], const Problem& problem, const GridRegion& region,
                                    const int32_t (&rows)[2], Place visit, int32_t lane) {
  const Grid& grid = problem.grid;
  const Place first = region.first_key(visit);
  Place queries[2];
  Interval windows[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    queries[r] = region.query(grid, rows[r]);
    const int32_t token = region.token(grid, queries[r]);
    windows[r] = {KeyTiles::from(problem, token), KeyTiles::to(problem, token)};
    for (int a = 0; a < kMostAxes; a++) queries[r].at[a] = region.coordinate(grid, a, queries[r].at[a]);
  }
  // In a loop that is not unrolled, into bits: else it would be most of the kernel's code.
  static_assert(2 * kColumns <= 32);
  uint32_t hidden[2] = {};
#pragma unroll 1
  for (int i = 0; i < 2 * kColumns; i++) {
    Place key = place_in(grid.key_box, i / 2 * 8 + lane % 4 * 2 + i % 2);
    for (int a = 0; a < kMostAxes; a++) key.at[a] += first.at[a];
    const int32_t token = region.token(grid, key);
    for (int a = 0; a < kMostAxes; a++) key.at[a] = region.coordinate(grid, a, key.at[a]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      bool hides_key = token < windows[r].begin || token >= windows[r].end;
#pragma unroll 1
      for (int n = 1; n < grid.neighborhood_count; n++) {
        hides_key |= hides(grid, grid.neighborhoods[n], queries[r].at, key.at);
      }
      hidden[r] |= static_cast<uint32_t>(hides_key) << i;
    }
  }
#pragma unroll
  for (int i = 0; i < 4 * kColumns; i++) {
    if (hidden[i / 2 % 2] >> (i / 4 * 2 + i % 2) & 1) scores[i / 4][i % 4] = -kInfinity;
  }
}

// Scores of a visited tile's keys that are not in sight of their row become -infinity.
template <int kColumns>
__device__ inline void mask_on_grid(float (&scores)[kColumns][4], const Grid& grid, const GridTiles& tiles,
                                    const Sight (&sights)[2], Place visit, int32_t lane) {
  const uint32_t own = packed(place_in(grid.key_box, lane % 4 * 2)), next = packed(place_in(grid.key_box, 1));
  const int32_t first = compute_here(0);
#pragma unroll
  for (int i = 0; i < kColumns; i++) {
    const uint32_t column = packed(place_in(grid.key_box, first + 8 * i)) + own;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (!sees(sights[r], column)) scores[i][2 * r] = -kInfinity;
      if (!sees(sights[r], column + next)) scores[i][2 * r + 1] = -kInfinity;
    }
  }
  bool cut = false;
  for (int a = 0; a < kMostAxes; a++) cut |= tiles.axes[a].cut(visit.at[a]);
  if (!cut) return;
  const uint32_t last = last_columns(tiles, visit);
#pragma unroll
  for (int i = 0; i < 2 * kColumns; i++) {
    const uint32_t column = packed(place_in(grid.key_box, first + i / 2 * 8)) + own + i % 2 * next;
    if (!exists(last, column)) scores[i / 2][i % 2] = scores[i / 2][2 + i % 2] = -kInfinity;
  }
}

}  // namespace na::cuda
