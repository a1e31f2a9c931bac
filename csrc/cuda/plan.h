// The sparse plan of a call of attention().
#pragma once

#include "attention/attention.h"
#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// The plan among the masks, or nullptr.
const na_plan* plan_of(const na_attention& call);

// Refuses what kernels do not take together with a plan.
Status check_plan(const na_attention& call);

// What kernels walk, but for where its rows and blocks are. left and right of the problem are those of the masks alone,
// and take in the plan's causality.
void add_plan(const na_plan& plan, Problem* problem);

// The keys of a row if all rows list as many blocks: what they list is not known to the host, but how many words the
// plan may have.
int64_t listed_keys(const na_plan& plan);

// Tiles of rows, and how many key tiles each visits if its row has so many keys.
struct PlanCost {
  int64_t blocks, key_tiles;
};
PlanCost plan_cost(const Problem& problem, int64_t keys, TileShape tile);

}  // namespace na::cuda
