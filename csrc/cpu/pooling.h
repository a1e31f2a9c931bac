// What stands for the keys, or the values, of a block: their mean, their extremes.
#pragma once

#include <memory>

#include "core/dtype.h"
#include "cpu/job.h"

namespace na::cpu {

// The rows of [batch, tokens..., heads, headDim], tokens counted flat.
struct TokenRows {
  const char* data;
  int32_t dtype;
  int64_t batch, token, head;  // in bytes; from one token to the next along the last of their axes
  int head_dim;
  int axes;  // of tokens
  int64_t extent[NA_MAX_AXES], along[NA_MAX_AXES];

  explicit TokenRows(const na_tensor& tensor) {
    const int64_t bytes = dtype_size(tensor.dtype);
    data = static_cast<const char*>(tensor.data);
    dtype = tensor.dtype;
    batch = tensor.stride[0] * bytes;
    token = tensor.stride[tensor.rank - 3] * bytes;
    head = tensor.stride[tensor.rank - 2] * bytes;
    head_dim = static_cast<int>(tensor.shape[tensor.rank - 1]);
    axes = tensor.rank - 3;
    for (int axis = 0; axis < axes; axis++) {
      extent[axis] = tensor.shape[axis + 1];
      along[axis] = tensor.stride[axis + 1] * bytes;
    }
  }
  const char* row(int64_t entry, int64_t at, int64_t of_head) const {
    int64_t offset = entry * batch + of_head * head;
    for (int axis = axes - 1; axis > 0; axis--) {
      offset += at % extent[axis] * along[axis];
      at /= extent[axis];
    }
    return data + offset + at * along[0];
  }
};

std::unique_ptr<Job> pool_job(const na_pool& pool);

}  // namespace na::cpu
