// Attention over means of keys, as over plans: what a sparse plan lists with a level, and what it does not list but
// estimates. Each has slots of partial results of its own.
#pragma once

#include <functional>
#include <vector>

#include "attention/means.h"
#include "attention/plan.h"
#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Refuses more pairs of blocks than can be counted.
Status check_estimate(const na_attention& call);

// Over the blocks of one level.
struct Level {
  Problem problem;
  Means means;
  Unfolded rows;
};

// Over the blocks that a plan does not list.
struct Estimate {
  Problem problem;
  Means means;
  Unlisted unlisted;
  int32_t tiles_together;  // of queries: so many at a time have room for their pairs
};

// Gives so many bytes of the workspace.
using Take = std::function<void*(int64_t bytes)>;

// `listed` is attention over the keys themselves.
Level make_level(const na_attention& call, const na_plan& plan, const Problem& listed, int level, const Take& take);

// `levels` are those of the plan, and `places` is how many blocks of threads the device runs at the same time.
Estimate make_estimate(const na_attention& call, const na_plan& plan, const Problem& listed,
                       const std::vector<Level>& levels, int64_t places, const Take& take);

cudaError_t attention_over_level(const na_plan& plan, const Level& level, Element element, cudaStream_t stream);

// Once all that is listed has been laid out.
cudaError_t attention_over_estimate(const Estimate& estimate, Element element, cudaStream_t stream);

// How many kernels these launch.
int64_t means_launches(const na_attention& call, const na_plan& plan, int64_t places);

}  // namespace na::cuda
