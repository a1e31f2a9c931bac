// The biases of a call of attention() as kernels read them.
#pragma once

#include "attention/attention.h"
#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Refuses what kernels do not take.
Status check_biases(const na_attention& call);

void add_biases(const na_attention& call, Problem* problem);

}  // namespace na::cuda
