// Single rows of summaries (na_summaries).
#pragma once

#include "core/backend.h"
#include "core/dtype.h"

namespace na::cpu {

struct SummaryRows {
  const na_summaries& summaries;
  int64_t head, block;  // bytes

  explicit SummaryRows(const na_summaries& summaries)
      : summaries(summaries),
        head(summaries.rest->shape[3] * dtype_size(summaries.rest->dtype)),
        block(summaries.rest->shape[2] * head) {}

  // Of the first key head.
  char* row(int64_t batch, int64_t at) const {
    const na_tensor& rest = *summaries.rest;
    if (summaries.segments) {
      const int64_t each = summaries.segment_blocks, kept = summaries.segments[batch] * each;
      if (at < kept) return static_cast<char*>(summaries.tables[batch][at / each]) + at % each * block;
      at -= kept;
    }
    return static_cast<char*>(rest.data) + (batch * rest.shape[1] + at) * block;
  }
};

}  // namespace na::cpu
