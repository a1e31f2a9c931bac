// kernels/tile/grid.h on the host: what kernels make of a grid, for the tests to compare with the definition.
#include <algorithm>
#include <cstdint>

#include "cuda/grid.h"
#include "tile/grid.h"

using namespace na::cuda;

namespace {

// `numbers`, for each axis: extent, window, stride, dilation, causal, wrap, side of query tiles, side of key tiles.
Grid grid_of(const int32_t* numbers) {
  Grid grid{};
  grid.neighborhood_count = 1;
  for (int a = 0; a < kMostAxes; a++, numbers += 8) {
    grid.extent[a] = numbers[0];
    grid.neighborhoods[0].axes[a] = {numbers[1], numbers[2], numbers[3], numbers[4] != 0, numbers[5] != 0};
    grid.query_box[a] = numbers[6];
    grid.key_box[a] = numbers[7];
  }
  return grid;
}

int64_t flat(const Grid& grid, const GridQueries& groups, Place place) {
  const int64_t strides[] = {int64_t{grid.extent[1]} * grid.extent[2], grid.extent[2], 1};
  return token_offset(grid, groups, strides, place);
}

}  // namespace

extern "C" {

// Walks as a kernel does. `seen` [queries, keys] counts how often a query meets a key; `counts` are the visited and the
// full pairs of tiles, then the visits of each query tile in their order. Returns what is wrong, or nullptr.
__attribute__((visibility("default"))) const char* geometry_walk(const int32_t* numbers, uint8_t* seen,
                                                                 int32_t* counts) {
  const Grid grid = grid_of(numbers);
  const int64_t tokens = int64_t{grid.extent[0]} * grid.extent[1] * grid.extent[2];
  const int32_t rows = 1 << (grid.query_box[0] + grid.query_box[1] + grid.query_box[2]);
  const int32_t columns = 1 << (grid.key_box[0] + grid.key_box[1] + grid.key_box[2]);
  counts[0] = counts[1] = 0;
  for (int32_t n = 0; n < query_tiles(grid); n++) {
    const GridQueries queries = grid_queries(grid, n);
    const GridTiles tiles(grid, queries, false);
    counts[0] += tiles.count();
    counts[1] += tiles.full();
    counts[2 + n] = tiles.count();
    for (int32_t visit = 0; visit < tiles.count(); visit++) {
      const Place at = tiles[visit];
      for (int a = 0; a < kMostAxes; a++) {
        if (at.at[a] < 0 || at.at[a] >= tiles.axes[a].count()) return "a visit beyond the box";
      }
      uint32_t word = 0;
      for (int32_t column = 0; column < columns; column++) {
        const Place in = place_in(grid.key_box, column);
        if (column % 8 == 0) word = packed(in);
        if (packed(in) != word + packed(place_in(grid.key_box, column % 8))) return "columns do not add up";
        bool exists = true, cut = false, met = false;
        Place key = in;
        for (int a = 0; a < kMostAxes; a++) {
          const AxisTiles& axis = tiles.axes[a];
          exists &= in.at[a] < axis.keys(at.at[a]);
          cut |= axis.cut(at.at[a]);
          key.at[a] += axis.first_key(at.at[a]);
        }
        const bool used = uses(used_columns(grid, tiles, at), packed(in));
        if (exists != na::cuda::exists(last_columns(tiles, at), packed(in))) return "columns that exist";
        for (int32_t row = 0; row < rows; row++) {
          const Place own = place_in(grid.query_box, row);
          Place query = own;
          bool inside = true;
          Sight sight{};
          for (int a = 0; a < kMostAxes; a++) {
            query.at[a] += queries.axes[a].first;
            inside &= own.at[a] < queries.axes[a].count;
            const Axis& axis = grid.neighborhoods[0].axes[a];
            if (inside)
              look(sight, tiles.axes[a], tiles.axes[a].window(axis, query.at[a]), at.at[a], grid.key_box[a], a);
          }
          if (!inside) continue;
          const bool visible = sees(sight, packed(in));
          if (visit < tiles.full() && !visible) return "a full tile hides a key";
          if (visible && !exists && !cut) return "a query sees a key that does not exist";
          if (!visible || !exists) continue;
          met = true;
          seen[flat(grid, queries, query) * tokens + flat(grid, queries, key)]++;
        }
        if (visit < tiles.full() && !exists) return "a full tile has a key that does not exist";
        if (met != used) return met ? "a key that is seen is not used" : "a key that nobody sees is used";
      }
    }
  }
  return nullptr;
}

// Of the query tile with query i of the last axis, on a grid too large to be walked: `from` and `to` are the tokens
// that i sees, gathered from the visits, and the returned number is how many.
__attribute__((visibility("default"))) int64_t geometry_row(const int32_t* numbers, int32_t i, int64_t stride,
                                                            int64_t* from, int64_t* to) {
  const Grid grid = grid_of(numbers);
  const Axis& axis = grid.neighborhoods[0].axes[2];
  const int32_t side = grid.query_box[2];
  GridQueries queries{};
  for (int a = 0; a < 2; a++) queries.axes[a] = {0, 1, 0, 1};
  AxisQueries& own = queries.axes[2];
  own = {i % axis.dilation, group_length(grid.extent[2], axis.dilation, i % axis.dilation), 0, 0};
  own.first = i / axis.dilation >> side << side;
  own.count = smaller(own.length - own.first, 1 << side);
  const GridTiles tiles(grid, queries, false);
  const int64_t strides[] = {0, 0, stride};
  int64_t count = 0;
  *from = INT64_MAX;
  *to = INT64_MIN;
  for (int32_t visit = 0; visit < tiles.count(); visit++) {
    const int32_t at = tiles[visit].at[2];
    Sight sight{};
    for (int a = 0; a < 2; a++) look(sight, tiles.axes[a], {0, 1}, 0, 0, a);
    look(sight, tiles.axes[2], tiles.axes[2].window(axis, i / axis.dilation), at, grid.key_box[2], 2);
    for (int32_t column = 0; column < tiles.axes[2].keys(at); column++) {
      if (!sees(sight, packed(place_in(grid.key_box, column)))) continue;
      const int64_t key = token_offset(grid, queries, strides, {{0, 0, tiles.axes[2].first_key(at) + column}});
      *from = std::min(*from, key);
      *to = std::max(*to, key);
      count++;
    }
  }
  return count;
}

// The group and the first token of the n-th query tile of the last axis.
__attribute__((visibility("default"))) int32_t geometry_tile(const int32_t* numbers, int32_t n, int32_t* group,
                                                             int32_t* first) {
  const Grid grid = grid_of(numbers);
  const AxisQueries queries = grid_queries(grid, n).axes[2];
  *group = queries.group;
  *first = queries.first;
  return query_tiles(grid);
}

// The boxes that are chosen for tiles of so many rows and keys, as exponents, instead of those in `numbers`: `boxes`
// are those of queries, then of keys. Returns how many key tiles are visited.
__attribute__((visibility("default"))) double geometry_choose(const int32_t* numbers, int32_t rows, int32_t keys,
                                                              int32_t* boxes) {
  Grid grid = grid_of(numbers);
  const GridCost cost = choose_boxes(&grid, {rows, keys}, false);
  std::copy_n(grid.query_box, kMostAxes, boxes);
  std::copy_n(grid.key_box, kMostAxes, boxes + kMostAxes);
  return cost.visited;
}

}  // extern "C"
