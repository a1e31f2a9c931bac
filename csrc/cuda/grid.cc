#include "cuda/grid.h"

#include <algorithm>
#include <new>
#include <utility>

#include "tile/exponent.h"
#include "tile/grid.h"

namespace na::cuda {
namespace {

// No side of a box has more than 2^7 tokens.
constexpr int kMostSide = 7;

// Tiles of an axis that are looked at to estimate the sum over all of them.
constexpr int32_t kSamples = 32;

// A mask that takes longer counts as that much of a visit more; so does the beginning and the end of a query tile.
constexpr double kMaskCost = 0.25, kTileCost = 1;

int token_axes(const na_attention& call) { return call.q->rank - 3; }

const na_neighborhood& settings_of(const na_mask& mask, int32_t head) {
  return mask.settings[mask.settings_count == 1 ? 0 : head];
}

Neighborhood neighborhood_of(const na_attention& call, const na_neighborhood& settings) {
  Neighborhood to;
  const int axes = token_axes(call), missing = kMostAxes - axes;
  for (Axis& axis : to.axes) axis = {1, 1, 1, false, false};
  for (int a = 0; a < axes; a++) {
    to.axes[missing + a] = {static_cast<int32_t>(settings.window[a]), static_cast<int32_t>(settings.stride[a]),
                            static_cast<int32_t>(settings.dilation[a]), settings.causal[a] != 0, settings.wrap[a] != 0};
  }
  return to;
}

bool same(const Neighborhood& a, const Neighborhood& b) {
  return std::equal(a.axes, a.axes + kMostAxes, b.axes, [](const Axis& x, const Axis& y) {
    return x.window == y.window && x.stride == y.stride && x.dilation == y.dilation && x.causal == y.causal &&
           x.wrap == y.wrap;
  });
}

bool hides(const Grid& grid, const Neighborhood& neighborhood) {
  for (int a = 0; a < kMostAxes; a++) {
    if (neighborhood.axes[a].causal || neighborhood.axes[a].window < grid.extent[a]) return true;
  }
  return false;
}

Grid grid_of(const na_attention& call, int32_t head) {
  Grid grid{};
  const int axes = token_axes(call);
  for (int a = 0; a < kMostAxes; a++) {
    const int from = a - (kMostAxes - axes) + 1;  // of the tensor
    grid.extent[a] = from < 1 ? 1 : static_cast<int32_t>(call.q->shape[from]);
    const auto stride = [&](const na_tensor& tensor) { return from < 1 ? 0 : tensor.stride[from]; };
    grid.q[a] = stride(*call.q);
    grid.k[a] = stride(*call.k);
    grid.v[a] = stride(*call.v);
    grid.out[a] = stride(*call.out);
  }
  grid.first_head = head;
  grid.heads = 1;
  for (int32_t i = 0; i < call.mask_count; i++) {
    if (call.masks[i].kind != NA_MASK_NEIGHBORHOOD) continue;
    const Neighborhood neighborhood = neighborhood_of(call, settings_of(call.masks[i], head));
    // One that hides nothing is kept only if all are such.
    Neighborhood* const last = grid.neighborhoods + std::max(grid.neighborhood_count - 1, 0);
    if (grid.neighborhood_count == 0 || !hides(grid, *last)) {
      *last = neighborhood;
      grid.neighborhood_count = 1;
    } else if (hides(grid, neighborhood)) {
      grid.neighborhoods[grid.neighborhood_count++] = neighborhood;
    }
  }
  return grid;
}

bool same_masks(const Grid& a, const Grid& b) {
  return a.neighborhood_count == b.neighborhood_count &&
         std::equal(a.neighborhoods, a.neighborhoods + a.neighborhood_count, b.neighborhoods, same);
}

// Sums over the query tiles of an axis.
struct AxisCost {
  double tiles = 0, visited = 0, full = 0;
};

AxisCost cost_of(const Axis& axis, int32_t extent, int query_side, int key_side) {
  AxisCost cost;
  const int32_t longer = extent % axis.dilation, length = extent / axis.dilation;
  for (const auto& [groups, tokens] : {std::pair{longer, length + 1}, std::pair{axis.dilation - longer, length}}) {
    if (groups == 0) continue;
    const int32_t tiles = tiles_of(tokens, query_side), samples = std::min(tiles, kSamples);
    const double weight = double(groups) * tiles / samples;
    for (int32_t n = 0; n < samples; n++) {
      const auto tile = static_cast<int32_t>(int64_t{tiles} * n / samples);
      const int32_t first = tile << query_side, last = std::min(first + (1 << query_side), tokens) - 1;
      const AxisTiles visits(axis, tokens, first, last, key_side);
      cost.visited += weight * visits.count();
      cost.full += weight * (visits.full_end() - visits.full_begin());
    }
    cost.tiles += double(groups) * tiles;
  }
  return cost;
}

struct Box {
  int32_t sides[kMostAxes];
};

// Two sides say the third: as many as there are two numbers of a sum up to kMostSide.
struct Boxes {
  Box all[(kMostSide + 1) * (kMostSide + 2) / 2];
  int count = 0;

  const Box* begin() const { return all; }
  const Box* end() const { return all + count; }
};

// The boxes of 2^sum tokens that are not much longer along one axis than along another, apart from axes that end
// before.
Boxes boxes_of(const Grid& grid, int sum) {
  int most[kMostAxes], room = 0;
  for (int a = 0; a < kMostAxes; a++) {
    const int32_t length = group_length(grid.extent[a], grid.neighborhoods[0].axes[a].dilation, 0);
    most[a] = 0;
    while (most[a] < kMostSide && 1 << most[a] < length) most[a]++;
    room += most[a];
  }
  if (room < sum) most[kMostAxes - 1] += sum - room;
  Boxes boxes;
  for (int32_t i = 0; i <= std::min(most[0], sum); i++) {
    for (int32_t j = 0; j <= std::min(most[1], sum - i); j++) {
      const Box box = {{i, j, sum - i - j}};
      if (box.sides[2] > most[2]) continue;
      const int32_t longest = std::max({i, j, box.sides[2]});
      bool even = true;
      for (int a = 0; a < kMostAxes; a++) even &= box.sides[a] == most[a] || box.sides[a] >= longest - 2;
      if (even) boxes.all[boxes.count++] = box;
    }
  }
  return boxes;
}

// Chooses the boxes for the first neighborhood. Returns what is to be as low as possible.
double choose(Grid* grid, TileShape tile, bool masked, GridCost* cost) {
  AxisCost known[kMostAxes][kMostSide + 1][kMostSide + 1];  // by the sides of both tiles
  double lowest = -1;
  const Boxes key_boxes = boxes_of(*grid, exponent(tile.keys));
  for (const Box& queries : boxes_of(*grid, exponent(tile.rows))) {
    for (const Box& keys : key_boxes) {
      GridCost own = {1, 1, masked ? 0. : 1.};
      for (int a = 0; a < kMostAxes; a++) {
        AxisCost& axis = known[a][queries.sides[a]][keys.sides[a]];
        if (axis.tiles == 0) {
          axis = cost_of(grid->neighborhoods[0].axes[a], grid->extent[a], queries.sides[a], keys.sides[a]);
        }
        own.query_tiles *= axis.tiles;
        own.visited *= axis.visited;
        own.full *= axis.full;
      }
      const double total = own.visited + kMaskCost * (own.visited - own.full) + kTileCost * own.query_tiles;
      if (lowest >= 0 && total >= lowest) continue;
      lowest = total;
      *cost = own;
      std::copy_n(queries.sides, kMostAxes, grid->query_box);
      std::copy_n(keys.sides, kMostAxes, grid->key_box);
    }
  }
  return lowest;
}

}  // namespace

Status check_grid(const na_attention& call) {
  int count = 0;
  for (int32_t i = 0; i < call.mask_count; i++) count += call.masks[i].kind == NA_MASK_NEIGHBORHOOD;
  if (count > kMostNeighborhoods) {
    return error(NA_ERR_OPTION, "%d neighborhoods in mask; CUDA takes at most %d: leave some out, or use device 'cpu'",
                 count, kMostNeighborhoods);
  }
  for (int a = 0; count > 0 && a < token_axes(call); a++) {
    if (call.q->shape[1 + a] <= kMostExtent) continue;
    return error(NA_ERR_SHAPE, "axis %d of a neighborhood has %lld tokens; CUDA takes at most %d", a,
                 static_cast<long long>(call.q->shape[1 + a]), kMostExtent);
  }
  return {};
}

Status find_grids(const na_attention& call, Grids* grids) {
  const auto heads = static_cast<int32_t>(call.q->shape[call.q->rank - 2]);
  int32_t most = 0;  // runs of heads
  for (int32_t i = 0; i < call.mask_count; i++) {
    if (call.masks[i].kind != NA_MASK_NEIGHBORHOOD) continue;
    most = std::max(most, call.masks[i].settings_count == 1 ? 1 : heads);
  }
  if (most == 0) return {};
  grids->all.reset(new (std::nothrow) Grid[most]);
  if (!grids->all) {
    return error(NA_ERR_OUT_OF_MEMORY, "no memory on the host for the neighborhoods of %d heads", most);
  }
  bool hidden = false;
  for (int32_t head = 0; head < heads; head++) {
    if (most == 1 && head > 0) {
      grids->all[0].heads++;
      continue;
    }
    const Grid grid = grid_of(call, head);
    hidden |= hides(grid, grid.neighborhoods[0]);
    if (head > 0 && same_masks(grids->all[grids->count - 1], grid)) {
      grids->all[grids->count - 1].heads++;
    } else {
      grids->all[grids->count++] = grid;
    }
  }
  if (!hidden) grids->count = 0;
  return {};
}

GridCost choose_boxes(Grid* grid, TileShape tile, bool masked) {
  masked |= grid->neighborhood_count > 1;
  Grid best{};
  GridCost cost{}, best_cost{};
  double lowest = -1;
  for (int32_t n = 0; n < grid->neighborhood_count; n++) {
    Grid own = *grid;
    std::swap(own.neighborhoods[0], own.neighborhoods[n]);
    const double total = choose(&own, tile, masked, &cost);
    if (lowest >= 0 && total >= lowest) continue;
    lowest = total;
    best = own;
    best_cost = cost;
  }
  *grid = best;
  return best_cost;
}

}  // namespace na::cuda
