#include "cuda/plan.h"

#include <algorithm>

#include "attention/plan.h"
#include "core/ceil_div.h"
#include "cuda/grid.h"
#include "cuda/means.h"

namespace na::cuda {

const na_plan* plan_of(const na_attention& call) {
  for (int32_t i = 0; i < call.mask_count; i++) {
    if (call.masks[i].kind == NA_MASK_PLAN) return call.masks[i].plan;
  }
  return nullptr;
}

Status check_plan(const na_attention& call) {
  const na_plan* const plan = plan_of(call);
  if (!plan) return {};
  if (plan->estimate) NA_TRY(check_estimate(call));
  NA_TRY(check_grid(call));  // a grid has room for no more
  Grids grids;
  NA_TRY(find_grids(call, &grids));
  if (grids.count <= 1) return {};
  return error(NA_ERR_OPTION,
               "mask: a neighborhood that differs from head to head does not run on CUDA beside a SparsePlan yet: give "
               "all heads one, or use device 'cpu'");
}

void add_plan(const na_plan& plan, Problem* problem) {
  SparseRows& rows = problem->plan;
  rows.bitmaps = plan.bitmaps ? static_cast<const uint32_t*>(plan.bitmaps->data) : nullptr;
  rows.batch = static_cast<int32_t>(plan.batch);
  rows.heads = static_cast<int32_t>(plan.heads);
  rows.tiles = static_cast<int32_t>(ceil_div(plan.queries, plan.query_tile));
  rows.query_tile = exponent(plan.query_tile);
  rows.key_block = exponent(plan.key_block);
  // A window that hides nothing would have every tile masked; nor does one that is as causal as the plan.
  for (int32_t* side : {&problem->left, &problem->right}) {
    if (*side >= std::max(problem->keys, problem->queries) - 1) *side = kUnlimited;
  }
  rows.masked = problem->left != kUnlimited || problem->right < (plan.causal ? 0 : kUnlimited);
  if (plan.causal) problem->right = std::min(problem->right, 0);
}

int64_t listed_keys(const na_plan& plan) {
  const int64_t rows = plan_rows(plan);
  const int64_t listed = std::min(ceil_div(plan.entries->shape[0], rows), ceil_div(plan.keys, int64_t{plan.key_block}));
  return listed * plan.key_block;
}

PlanCost plan_cost(const Problem& problem, int64_t keys, TileShape tile) {
  const PlanTiling tiling = plan_tiling(problem, tile.rows);
  const int64_t runs = problem.heads / tiling.shared;
  return {problem.batch * runs * tiling.head_tiles * tiling.slots, ceil_div(keys, tile.keys)};
}

}  // namespace na::cuda
