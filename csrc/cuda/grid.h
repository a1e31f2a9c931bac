// The neighborhoods of a call of attention() as grids that kernels run on.
#pragma once

#include <memory>

#include "attention/attention.h"
#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Refuses what kernels do not take.
Status check_grid(const na_attention& call);

struct Grids {
  std::unique_ptr<Grid[]> all;
  int32_t count = 0;

  Grid* begin() const { return all.get(); }
  Grid* end() const { return all.get() + count; }
};

// A grid for each run of neighbouring heads with equal settings, in the order of the heads, without boxes. None if all
// queries see all keys.
Status find_grids(const na_attention& call, Grids* grids);

// What a grid costs, of one head and batch entry.
struct GridCost {
  double query_tiles, visited, full;  // full ones are visited, too
};

// Chooses the boxes of tiles of these sizes, both powers of two, and which neighborhood comes first: those with which
// the fewest key tiles are visited in all, or, of such, the fewest need a mask. `masked`: a window hides keys, too.
GridCost choose_boxes(Grid* grid, TileShape tile, bool masked);

}  // namespace na::cuda
