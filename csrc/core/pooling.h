// What stands for the keys, or the values, of a block: their mean, their extremes.
#pragma once

#include "core/stream.h"

namespace na {

constexpr int64_t kMostPooledTokens = int64_t{1} << 30;

int64_t token_count(const na_tensor& view);  // of [batch, tokens..., heads, headDim]

// Refuses what is not [batch, tokens..., heads, headDim] with its tokens evenly spaced.
Status check_even_tokens(const char* name, const Tensor& tensor);

// `pooled` is [batch, blocks, heads, headDim], twice as long for bounds, in float32 or the dtype of `tokens`, which are
// [batch, tokens..., heads, headDim] of any strides.
Status pool(Tensor* tokens, int64_t block, na_pooling pooling, int32_t dtype, Stream* stream, Ref<Tensor>* pooled);

}  // namespace na
