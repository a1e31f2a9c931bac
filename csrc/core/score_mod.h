// Masks and biases of one attention call: what the caller described, checked against the shapes of the call and
// brought into the form that backends read.
#pragma once

#include <vector>

#include "core/sparse_plan.h"

namespace na {

// One value, or one per token axis.
using PerAxis = std::vector<int64_t>;

struct NeighborhoodSpec {
  PerAxis window, stride, dilation, causal, wrap;
};

struct MaskSpec {
  na_mask_kind kind = NA_MASK_WINDOW;
  int64_t left = -1, right = -1;           // window
  std::vector<NeighborhoodSpec> settings;  // neighborhood: one, or one per query head
  Ref<SparsePlan> plan;                    // sparse plan
};

struct BiasSpec {
  enum Kind { kKey, kDense } kind = kKey;
  Tensor* tensor = nullptr;
};

// The shapes that masks and biases are checked against.
struct ScoreShape {
  int64_t batch, heads, kv_heads, queries, keys;
  Shape query_axes, key_axes;  // token axes
  bool ragged;
  const Device* device;
};

class ScoreMod : public RefCounted {
 public:
  static Status make(const std::vector<MaskSpec>& masks, const std::vector<BiasSpec>& biases, const ScoreShape& shape,
                     Ref<ScoreMod>* result);

  const std::vector<na_mask>& masks() const { return masks_; }
  const std::vector<na_bias>& biases() const { return biases_; }
  const std::vector<Ref<Tensor>>& tensors() const { return tensors_; }  // of biases and plans

 private:
  Status add_mask(const MaskSpec& spec, const ScoreShape& shape);
  Status add_plan(const SparsePlan& plan, const ScoreShape& shape);
  Status add_bias(const BiasSpec& spec, const ScoreShape& shape, size_t position);

  std::vector<na_mask> masks_;
  Ref<SparsePlan> plan_;
  std::vector<std::vector<na_neighborhood>> settings_;
  std::vector<na_bias> biases_;
  std::vector<Ref<Tensor>> tensors_;
};

}  // namespace na
