// The kernels of attention, by the architecture whose instructions they are made of. Each function enqueues and
// returns.
#pragma once

#include <cuda_runtime_api.h>

#include "attention/problem.h"

namespace na::cuda {

// mma.sync: every device since Ampere, any strides and alignment, head_dim and value_dim up to 256. float32 is three
// products of TF32, or one with `tf32`.
cudaError_t attention_sm80(const Problem& problem, Element element, bool tf32, cudaStream_t stream);

// Rows (queries times the heads of a group that are packed together) and keys of a tile of attention_sm80. On a grid
// both are powers of two up to 128, whichever the kernel, and the boxes of the grid must have as many tokens.
struct TileShape {
  int32_t rows, keys;
};
TileShape attention_sm80_tile(const Problem& problem, Element element);

// wgmma: Hopper. Half types only, bases and strides in multiples of 16 bytes.
bool attention_sm90_takes(const Problem& problem, Element element);
cudaError_t attention_sm90(const Problem& problem, Element element, cudaStream_t stream);
TileShape attention_sm90_tile(const Problem& problem);

// Makes one result of `slots` partial ones, in the order of the slots, and adds the sinks: writes out and lse.
cudaError_t combine(const Problem& problem, Element element, int32_t slots, cudaStream_t stream);

}  // namespace na::cuda
