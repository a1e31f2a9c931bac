// One call of attention as problems of the kernels: which of them run, over which parts of the keys, in which memory.
#pragma once

#include "cuda/device.h"

namespace na::cuda {

Status check_attention(const Device& device, const na_attention& attention, int64_t* workspace_bytes);
cudaError_t attention(const Device& device, const na_attention& attention, cudaStream_t stream);

}  // namespace na::cuda
