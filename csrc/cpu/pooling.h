// What stands for the keys, or the values, of a block: their mean, their extremes.
#pragma once

#include <memory>

#include "core/dtype.h"
#include "cpu/job.h"

namespace na::cpu {

// Tokens that are evenly spaced, counted flat.
struct TokenRows {
  const char* data;
  int32_t dtype;
  int64_t batch, token, head;  // in bytes
  int head_dim;

  explicit TokenRows(const na_tensor& tensor) {
    const int64_t bytes = dtype_size(tensor.dtype);
    data = static_cast<const char*>(tensor.data);
    dtype = tensor.dtype;
    batch = tensor.stride[0] * bytes;
    token = tensor.stride[tensor.rank - 3] * bytes;
    head = tensor.stride[tensor.rank - 2] * bytes;
    head_dim = static_cast<int>(tensor.shape[tensor.rank - 1]);
  }
  const char* row(int64_t entry, int64_t at, int64_t of_head) const {
    return data + entry * batch + at * token + of_head * head;
  }
};

std::unique_ptr<Job> pool_job(const na_pool& pool);

}  // namespace na::cpu
