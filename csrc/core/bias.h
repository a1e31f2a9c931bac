// One bias of an attention call: what the caller described, checked against the shapes of the call and brought into the
// form that backends read.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace na {

// One value, or one per token axis.
using PerAxis = std::vector<int64_t>;

struct BiasSpec {
  enum Kind { kKey, kDense, kLowRank, kAlibi, kDistance, kRelative } kind = kKey;
  Tensor* tensor = nullptr;  // of a key or dense bias, slopes, weights, table; may be absent for slopes and weights
  Tensor *query = nullptr, *key = nullptr;  // factors or coordinates
  PerAxis step = {1};                       // of a relative position
  na_low_rank_path path = NA_LOW_RANK_AUTO;
  std::vector<int64_t> heads;  // of a dense bias: those that the tensor is for; none: all
};

// The shapes that masks and biases are checked against.
struct ScoreShape {
  int64_t batch, heads, kv_heads, queries, keys;
  Shape query_axes, key_axes;  // token axes
  bool ragged;
  const Device* device;
};

// `position` among the biases of the call is named in errors. The tensors that the result points to are added to
// `held`; it may point to `places`, too.
Status resolve_bias(const BiasSpec& spec, const ScoreShape& shape, size_t position, na_bias* bias,
                    std::vector<Ref<Tensor>>* held, std::vector<int32_t>* places);

}  // namespace na
