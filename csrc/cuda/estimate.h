// What a sparse plan does not list but estimates: attention over the means of blocks, as over a plan.
#pragma once

#include <functional>

#include "attention/estimate.h"
#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Refuses more pairs of blocks than can be counted.
Status check_estimate(const na_attention& call);

struct Estimate {
  Problem means;
  Unlisted unlisted;
  int32_t tiles_together;  // of queries: so many at a time have room for their pairs
};

// `listed` is attention over what is listed. `take` gives so many bytes of the workspace, and `places` is how many
// blocks of threads the device runs at the same time.
Estimate make_estimate(const na_attention& call, const na_plan& plan, const Problem& listed, int64_t places,
                       const std::function<void*(int64_t bytes)>& take);

// Enqueues it, once what is listed has been laid out. It has parts of its own.
cudaError_t attention_over_means(const Estimate& estimate, Element element, cudaStream_t stream);

// How many kernels that launches.
int64_t estimate_launches(const na_attention& call, const na_plan& plan, int64_t places);

}  // namespace na::cuda
