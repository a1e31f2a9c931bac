// Selectors: sparse plans made from queries and keys.
#pragma once

#include "core/sparse_plan.h"

namespace na {

struct SelectArguments {
  na_selector selector = NA_SELECT_HIP;
  Tensor *q = nullptr, *k = nullptr;
  PlanGeometry geometry;  // heads: patterns; batch, queries and keys are those of the tensors
  int64_t sink = 0, window = 0;
  std::vector<int64_t> budgets;      // keys: one number, or one for each pattern
  std::vector<int64_t> chunk, keep;  // HIP: of each stage; keep may be empty, or 0
  bool first = false;                // the first key of a range stands for it
  na_pooling pooling = NA_POOL_MEAN;
  bool mean_query = false;
  double scale = 0, top_p = 1, threshold = 0;
};

Status select(const SelectArguments& arguments, Stream* stream, Ref<SparsePlan>* plan);

}  // namespace na
