// merge(): the exact union of attention results over disjoint sets of keys.
#pragma once

#include "core/attention.h"

namespace na {

struct MergePart {
  Tensor *out, *lse;
};

Status merge(const std::vector<MergePart>& parts, Tensor* out, Stream* stream, AttentionResult* result);

}  // namespace na
