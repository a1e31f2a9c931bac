// The query tile of a grid that a block works at, as its threads share it.
#pragma once

#include "tile/grid.h"

namespace na::cuda {

struct GridRegion {
  GridQueries queries;
  GridTiles tiles;

  // Windows and further neighborhoods hide keys beside those that the first neighborhood hides.
  __device__ void start(const Problem& problem, int32_t query_tile) {
    const Grid& grid = problem.grid;
    // A thread that has few registers may do it: one axis after the other.
#pragma unroll 1
    for (int a = kMostAxes - 1; a >= 0; a--) {
      queries.axes[a] = take_queries(grid, a, query_tile);
      tiles.set(grid, queries, a, masks_further(problem));
    }
  }

  // Whether the query of a row exists.
  __device__ bool exists(const Grid& grid, int32_t row) const {
    const Place own = place_in(grid.query_box, row);
    bool all = row < 1 << (grid.query_box[0] + grid.query_box[1] + grid.query_box[2]);
    for (int a = 0; a < kMostAxes; a++) all &= own.at[a] < queries.axes[a].count;
    return all;
  }

  // The coordinates of a row's query, or of the last one.
  __device__ Place query(const Grid& grid, int32_t row) const {
    Place place = place_in(grid.query_box, row);
    for (int a = 0; a < kMostAxes; a++) {
      place.at[a] = queries.axes[a].first + smaller(place.at[a], queries.axes[a].count - 1);
    }
    return place;
  }

  // The coordinates of a visited tile's first key.
  __device__ Place first_key(Place visit) const {
    for (int a = 0; a < kMostAxes; a++) visit.at[a] = tiles.axes[a].first_key(visit.at[a]);
    return visit;
  }

  // Elements to a token.
  __device__ int64_t offset(const Grid& grid, const int64_t (&strides)[kMostAxes], Place place) const {
    return token_offset(grid, queries, strides, place);
  }

  // The token in row-major order.
  __device__ int32_t token(const Grid& grid, Place place) const {
    int32_t token = 0;
    for (int a = 0; a < kMostAxes; a++) token = token * grid.extent[a] + coordinate(grid, a, place.at[a]);
    return token;
  }
  __device__ int32_t coordinate(const Grid& grid, int axis, int32_t place) const {
    return queries.axes[axis].group + grid.neighborhoods[0].axes[axis].dilation * place;
  }
};

// The same with what each row sees, of tiles of up to kRows rows. Some thread starts it; behind a barrier, all set
// begins.
template <int kRows>
struct GridBlock : GridRegion {
  int32_t begins[kRows + 2];  // where the windows of the tile's coordinates begin, axis by axis

  __device__ void set_begins(const Grid& grid, int32_t thread, int32_t threads) {
    for (int32_t n = thread; n < first_of(grid, kMostAxes); n += threads) {
      const int a = n >= first_of(grid, 2) ? 2 : n >= first_of(grid, 1) ? 1 : 0;
      const AxisQueries& own = queries.axes[a];
      // Rows that do not exist have the last one's windows.
      const int32_t i = own.first + smaller(n - first_of(grid, a), own.count - 1);
      begins[n] = tiles.axes[a].window(grid.neighborhoods[0].axes[a], i).begin;
    }
  }

  // What the query of a row sees of a visited tile.
  __device__ Sight sight(const Grid& grid, int32_t row, Place visit) const {
    const Place own = place_in(grid.query_box, row);
    Sight sight = {};
#pragma unroll
    for (int a = 0; a < kMostAxes; a++) {
      const Axis& axis = grid.neighborhoods[0].axes[a];
      const int32_t begin = begins[first_of(grid, a) + own.at[a]];
      const int32_t end = axis.causal ? queries.axes[a].first + own.at[a] + 1 : begin + axis.window;
      look(sight, tiles.axes[a], {begin, end}, visit.at[a], grid.key_box[a], a);
    }
    return sight;
  }

 private:
  __device__ static int32_t first_of(const Grid& grid, int axis) {
    int32_t first = 0;
    for (int a = 0; a < axis; a++) first += 1 << grid.query_box[a];
    return first;
  }
};

}  // namespace na::cuda
