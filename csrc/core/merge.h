// merge(): the exact union of attention results over disjoint sets of keys.
#pragma once

#include "core/attention.h"

namespace na {

struct MergePart {
  Tensor *out, *lse;
};

// Refuses before anything is allocated or enqueued. Of the result, what is given is written; the rest is made.
Status merge(const std::vector<MergePart>& parts, Submission* all, AttentionResult* result);

}  // namespace na
