// Tensors as tensor copies see them.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "attention/problem.h"

namespace na::cuda::sm90 {

// Of a half type, [batch, tokens, heads, columns].
struct TensorView {
  const void* data;
  Strides strides;
  int32_t columns, heads, tokens, batch;
};

// Whether there can be a map of it.
bool has_tensor_map(const TensorView& view);

// In boxes of some columns of one head and some tokens, swizzled over the length of a box's row; coordinates are
// (column, head, token, batch).
cudaError_t encode_tensor_map(CUtensorMap* map, const TensorView& view, Element element, int box_columns,
                              int box_tokens);

}  // namespace na::cuda::sm90
