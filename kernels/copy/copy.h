// Copies between strided views, converting the element type.
#pragma once

#include <cuda_runtime_api.h>

#include "core/strided.h"

namespace na::cuda {

// Elements [first, last), in row-major order, of a copy between views that the device can reach: its own memory, or
// pinned memory of the host. Enqueues and returns.
cudaError_t copy(const StridedCopy& views, int64_t first, int64_t last, cudaStream_t stream);

}  // namespace na::cuda
