// The exact union of attention results over disjoint sets of keys: lse = max + log(sum of exp(lse_i - max)), out = sum
// of exp(lse_i - lse) out_i, in the order of the parts.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace na::cuda {

int64_t merge_workspace_bytes(const na_merge& merge);
cudaError_t merge(const na_merge& merge, cudaStream_t stream);

}  // namespace na::cuda
