// attention() on a device: which kernel runs, on how many parts of the keys.
#pragma once

#include "cuda/device.h"

namespace na::cuda {

// Refuses what no kernel runs, and says how many bytes of workspace the rest needs.
Status check_attention(const Device& device, const na_attention& call, int64_t* workspace_bytes);

// Enqueues a call that was checked, and returns.
cudaError_t attention(const Device& device, const na_attention& call, cudaStream_t stream);

// How many kernels that launches at most.
int64_t attention_launches(const Device& device, const na_attention& call);

}  // namespace na::cuda
