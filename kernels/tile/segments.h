// The segments of summaries that a cache keeps (na_summaries).
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "tile/exponent.h"

namespace na::cuda {

struct Segments {
  const int64_t* tables;  // of each batch entry their number, and then these; nullptr: there are none
  int64_t pitch;
  int32_t blocks;  // in one, as an exponent
};

inline Segments segments_of(const na_summaries& summaries) {
  if (!summaries.segments) return {};
  const na_tensor& tables = *summaries.device_tables;
  return {static_cast<const int64_t*>(tables.data), tables.stride[0], exponent(summaries.segment_blocks)};
}

}  // namespace na::cuda
