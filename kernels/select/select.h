// Selectors of sparse plans: which blocks of keys matter to the queries of each row. Both functions enqueue and return.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace na::cuda {

constexpr int kMostSelectColumns = 256;  // headDim

cudaError_t pool(const na_pool& pool, cudaStream_t stream);

// Bytes of device memory that select() needs.
int64_t select_workspace(const na_select& select);

// Of tensors whose tokens have one stride, or of pages.
cudaError_t select(const na_select& select, cudaStream_t stream);

}  // namespace na::cuda
