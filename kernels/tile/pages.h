// Where the keys and values of a sequence are that lie in pages.
#pragma once

#include "attention/problem.h"

namespace na::cuda {

__host__ __device__ inline bool is_paged(const Problem& problem) { return problem.pages.tables != nullptr; }

// With 2^(s - 1) < d <= 2^s and m = 2^(31 + s) / d, rounded up, n m / 2^(31 + s) exceeds n / d by less than n / 2^31 /
// d < 1 / d, so that both have the same whole part; and m < 2^32.
inline Divisor divisor_of(int32_t value) {
  int32_t shift = 31;
  while (int64_t{1} << (shift - 31) < value) shift++;
  return {
      value,
      static_cast<uint32_t>(((uint64_t{1} << shift) + static_cast<uint32_t>(value) - 1) / static_cast<uint32_t>(value)),
      shift};
}

__device__ inline int32_t quotient(int32_t n, const Divisor& by) {
  return static_cast<int32_t>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * by.factor >> by.shift);
}

// The tokens of a batch entry.
__device__ inline int32_t cached_keys(const Problem& problem, int32_t batch) {
  return static_cast<int32_t>(problem.pages.tables[batch * problem.pages.pitch]);
}

// The address of a byte of a token, `offset` bytes into a page of which tokens are `pitch` bytes apart. `table` is that
// of the batch entry.
__device__ inline char* in_page(const int64_t* table, const Divisor& tokens, int32_t token, int64_t offset,
                                int64_t pitch) {
  const int32_t page = quotient(token, tokens);
  return reinterpret_cast<char*>(table[1 + page]) + offset + (token - page * tokens.value) * pitch;
}

}  // namespace na::cuda
