// The biases of a call of attention() as kernels read them.
#pragma once

#include "attention/attention.h"
#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Refuses what kernels do not take.
Status check_biases(const na_attention& call);

void add_biases(const na_attention& call, Problem* problem);

// Enqueues what writes Bias::places, for which there is room, where dense biases are of some heads alone.
cudaError_t put_places(const na_attention& call, const Problem& problem, cudaStream_t stream);
int64_t put_places_launches(const na_attention& call);

}  // namespace na::cuda
