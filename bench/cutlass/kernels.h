// The example's kernels for bfloat16, each as a function that launches it.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../cuda/baseline.h"

struct Call {
  baseline_shape shape;
  const void *q, *k, *v;
  void* out;
  float* lse;
};

// Whether it was launched.
using Kernel = bool (*)(const Call& call, cudaStream_t stream);

// Those of the example for a head dimension: 64, 128 or 256. They differ in how warpgroups share the work.
template <int kHeadDim, bool kCausal>
std::vector<Kernel> kernels();
