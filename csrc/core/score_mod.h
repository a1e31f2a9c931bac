// Masks and biases of one attention call: what the caller described, checked against the shapes of the call and
// brought into the form that backends read.
#pragma once

#include <vector>

#include "core/bias.h"
#include "core/sparse_plan.h"

namespace na {

struct NeighborhoodSpec {
  PerAxis window, stride, dilation, causal, wrap;
};

struct MaskSpec {
  na_mask_kind kind = NA_MASK_WINDOW;
  int64_t left = -1, right = -1;           // window
  std::vector<NeighborhoodSpec> settings;  // neighborhood: one, or one per query head
  Ref<SparsePlan> plan;                    // sparse plan
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

  std::vector<na_mask> masks_;
  Ref<SparsePlan> plan_;
  std::vector<std::vector<na_neighborhood>> settings_;
  std::vector<na_bias> biases_;
  std::vector<std::vector<int32_t>> places_;  // of heads, of each bias
  std::vector<Ref<Tensor>> tensors_;
};

}  // namespace na
