// Where the keys and values of a sequence are that lie in pages.
#pragma once

#include "tile/divisor.h"

namespace na::cuda {

__host__ __device__ inline bool is_paged(const Problem& problem) { return problem.pages.tables != nullptr; }

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
