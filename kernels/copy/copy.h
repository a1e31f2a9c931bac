// dst = src, converted to the element type of dst; any strides, up to eight axes.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace na::cuda {

cudaError_t copy(const na_tensor& src, const na_tensor& dst, cudaStream_t stream);

}  // namespace na::cuda
