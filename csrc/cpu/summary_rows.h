// Single rows of summaries (na_summaries).
#pragma once

#include <algorithm>
#include <vector>

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
  // Appends those that a head has of blocks that follow each other.
  void add_rows(int64_t batch, int64_t of_head, int64_t begin, int64_t end, std::vector<const char*>* rows) const {
    const int64_t each = summaries.segment_blocks, kept = summaries.segments ? summaries.segments[batch] * each : 0;
    const size_t first = rows->size();
    rows->resize(first + static_cast<size_t>(end - begin));
    for (const char** to = rows->data() + first; begin < end;) {
      // As far as they lie side by side.
      const int64_t stop = begin < kept ? std::min(end, (begin / each + 1) * each) : end;
      for (const char* at = row(batch, begin) + of_head * head; begin < stop; begin++, at += block) *to++ = at;
    }
  }
};

}  // namespace na::cpu
