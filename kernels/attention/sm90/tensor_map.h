// Tensors as tensor copies see them.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "attention/problem.h"

namespace na::cuda::sm90 {

constexpr int kMostRank = 5;

// Axes of a tensor of a half type, the fastest first, which is contiguous. Strides in elements.
struct TensorView {
  const void* data;
  int rank;
  int64_t extent[kMostRank], stride[kMostRank];
};

// [batch, tokens, heads, columns], in coordinates (column, head, token, batch).
TensorView view_of_tokens(const Problem& problem, const void* data, const Strides& strides, int32_t columns,
                          int32_t heads, int32_t tokens);

// [batch, X, Y, Z, heads, columns], in coordinates (column, head, z, y, x + X * batch): a map has five axes at most. A
// box that reaches over the end of X reaches into the next batch entry. Rank 0: batch entries do not follow each other
// in such a way.
TensorView view_of_grid(const Problem& problem, const void* data, const Strides& strides,
                        const int64_t (&axes)[kMostAxes], int32_t columns, int32_t heads);

// Whether there can be a map of it.
bool has_tensor_map(const TensorView& view);

// What one copy takes: so many elements along each axis, every `step`-th.
struct Box {
  int32_t size[kMostRank], step[kMostRank];
};
constexpr int32_t kMostStep = 8, kMostSpan = 256;  // step, and size * step

// Boxes are swizzled over the length of their rows.
cudaError_t encode_tensor_map(CUtensorMap* map, const TensorView& view, Element element, const Box& box);

}  // namespace na::cuda::sm90
