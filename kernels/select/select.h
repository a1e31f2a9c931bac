// Selectors of sparse plans: which blocks of keys matter to the queries of each row. Both enqueue and return.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace na::cuda {

constexpr int kMostSelectColumns = 256;  // headDim

cudaError_t pool(const na_pool& pool, cudaStream_t stream);
int64_t pool_launches(const na_pool& pool);  // how many kernels it launches at most

// Bytes of device memory that select() needs.
int64_t select_workspace(const na_select& select);

// Of tensors whose tokens have one stride, or of pages.
cudaError_t select(const na_select& select, cudaStream_t stream);
int64_t select_launches(const na_select& select);  // how many kernels and others it launches

}  // namespace na::cuda
