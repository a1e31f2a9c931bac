// The exact union of attention results over disjoint sets of keys.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/backend.h"

namespace na::cuda {

// Bytes of device memory that merge needs; 0 for as many parts as one launch takes.
int64_t merge_workspace(const na_merge& merge);

// Enqueues and returns.
cudaError_t merge(const na_merge& merge, cudaStream_t stream);

// How many kernels it launches at most.
int64_t merge_launches(const na_merge& merge);

}  // namespace na::cuda
