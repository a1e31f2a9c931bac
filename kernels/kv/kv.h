// What becomes of a cache of keys and values. Each function enqueues and returns; beside it, how many kernels it
// launches at most, where that is not one.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace na::cuda {

cudaError_t append(const na_append& append, cudaStream_t stream);
int64_t append_launches(const na_append& append);
cudaError_t rotate(const na_rotate& rotate, cudaStream_t stream);
int64_t rotate_launches(const na_rotate& rotate);
cudaError_t put(const na_put& put, cudaStream_t stream);
int64_t put_launches(const na_put& put);
cudaError_t copy_rows(const na_copy_rows& copy, cudaStream_t stream);
int64_t copy_rows_launches(const na_copy_rows& copy);

}  // namespace na::cuda
