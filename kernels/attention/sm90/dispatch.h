// The kernels of each pair of head dimensions, each instantiated in a file of its own.
#pragma once

#include "attention/sm90/tiles.h"

namespace na::cuda::sm90 {

template <Element kElement, int kHeadDim, int kValueDim>
cudaError_t run_sm90(const Problem& problem, cudaStream_t stream);

// Of grids, whose scores are not modified.
template <Element kElement, int kHeadDim>
cudaError_t run_sm90_grid(const Problem& problem, cudaStream_t stream);

}  // namespace na::cuda::sm90
