// Which kernel runs a problem, and with which launch.
#pragma once

#include "attention/sm80/tiles.h"

namespace na::cuda {

// Enqueues the kernels of one element and pair of head dimensions, each defined in a file of its own.
template <Element kElement, int kProducts, int kHeadDim, int kValueDim>
cudaError_t run_sm80(const Problem& problem, const Launch& launch, bool few, bool modified, uint32_t blocks,
                     cudaStream_t stream);

// The kernel of grids, of one element in a file: the same for few queries and modified scores.
template <Element kElement, int kHeadDim>
cudaError_t run_sm80_grid(const Problem& problem, const Launch& launch, bool few, bool modified, uint32_t blocks,
                          cudaStream_t stream);

// The kernel of sparse plans, likewise.
template <Element kElement, int kHeadDim>
cudaError_t run_sm80_plan(const Problem& problem, const Launch& launch, bool few, bool modified, uint32_t blocks,
                          cudaStream_t stream);

// That of plans by blocks of keys, likewise. So many blocks of threads share the launch's items.
template <Element kElement, int kHeadDim>
cudaError_t run_sm80_key_major(const Problem& problem, const Launch& launch, bool few, bool modified, uint32_t blocks,
                               cudaStream_t stream);

// The kernels of keys in pages, of one element in a file: the same for modified scores.
template <Element kElement, int kHeadDim>
cudaError_t run_sm80_paged(const Problem& problem, const Launch& launch, bool few, bool modified, uint32_t blocks,
                           cudaStream_t stream);

}  // namespace na::cuda
