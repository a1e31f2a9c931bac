// Where the keys and values of a sequence are that lie in pages.
#pragma once

#include "core/backend.h"
#include "tile/divisor.h"

namespace na::cuda {

__host__ __device__ inline bool is_paged(const Problem& problem) { return problem.pages.tables != nullptr; }

// Those of a cache, whose values begin so many bytes into each. None where there is no cache, or where a call is but
// checked and so not listed yet.
inline Pages pages_of(const na_pages* pages, int64_t value_offset) {
  if (!pages || !pages->device_tables) return {};
  const na_tensor& tables = *pages->device_tables;
  return {static_cast<const int64_t*>(tables.data),
          tables.stride[0],
          value_offset,
          divisor_of(pages->page_tokens),
          0,
          pages->int8 != 0};
}

// The tokens of a batch entry.
__device__ inline int32_t cached_keys(const Pages& pages, int32_t batch) {
  return static_cast<int32_t>(pages.tables[batch * pages.pitch]);
}

// The address of a byte of a token, `offset` bytes into a page of which tokens are `pitch` bytes apart. `table` is that
// of the batch entry.
__device__ inline char* in_page(const int64_t* table, const Divisor& tokens, int32_t token, int64_t offset,
                                int64_t pitch) {
  const int32_t page = divide(token, tokens);
  return reinterpret_cast<char*>(table[1 + page]) + offset + (token - page * tokens.number) * pitch;
}

}  // namespace na::cuda
