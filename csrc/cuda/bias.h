// Biases of a call as kernels read them.
#pragma once

#include "attention/problem.h"
#include "core/backend.h"

namespace na::cuda {

Bias bias_of(const na_attention& call, const na_bias& given);

}  // namespace na::cuda
