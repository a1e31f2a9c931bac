// What stands for the keys of a block: a thread has a column of it. Of a cache only those blocks are made that it has
// not kept.
#pragma once

#include "select/element.h"

namespace na::cuda {

constexpr int kPoolThreads = 256, kMostPooledEntries = 64;  // of a launch

struct PoolArguments {
  ElementRows k;      // its strides of tokens are `along`
  Pages pages;        // where k is instead, if they have tables: then there is one axis
  ElementRows rest;   // what is made: its tokens are blocks
  Segments segments;  // and where these come first
  int64_t along[NA_MAX_AXES];
  int32_t extent[NA_MAX_AXES];  // axes that a call does not have come first, with extent 1
  int32_t tokens, block, heads, columns, pooling;
  int64_t count;                       // of columns, of all blocks of the entries of a launch
  int32_t first_entry, blocks;         // of each entry, at most
  int32_t firsts[kMostPooledEntries];  // the first block of each
};

// ptxas would spill for one more block of threads on a multiprocessor.
__global__ void __launch_bounds__(kPoolThreads, 1) pool_kernel(const __grid_constant__ PoolArguments a) {
  constexpr float kInfinity = __builtin_huge_valf();
  // A block is a power of two: dividing by it first is exact, and no sum overflows where the mean does not.
  const float share = 1.0f / static_cast<float>(a.block);
  const int64_t step = int64_t{gridDim.x} * kPoolThreads;
  for (int64_t n = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x; n < a.count; n += step) {
    const int64_t row = n / a.columns;
    const auto column = static_cast<int32_t>(n % a.columns), head = static_cast<int32_t>(row % a.heads);
    const auto entry = static_cast<int32_t>(row / a.heads / a.blocks), batch = a.first_entry + entry;
    const int32_t block = a.firsts[entry] + static_cast<int32_t>(row / a.heads % a.blocks), first = block * a.block;
    const bool paged = a.pages.tables != nullptr;
    const int32_t end = min(first + a.block, paged ? cached_keys(a.pages, batch) : a.tokens);
    if (first >= end) continue;  // another entry has more
    const int64_t base = a.k.row(batch, 0, head);
    int32_t z = first % a.extent[2], y = first / a.extent[2] % a.extent[1], x = first / a.extent[2] / a.extent[1];
    float sum = 0, most = -kInfinity, least = kInfinity;
    for (int32_t token = first; token < end; token++) {
      const int64_t at = paged ? row_in_pages(a.k, a.pages, batch, token, head)
                               : base + x * a.along[0] + y * a.along[1] + z * a.along[2];
      const float value = a.k.read(at, column);
      sum += value * share;
      if (value > most) most = value;
      if (value < least) least = value;
      if (++z < a.extent[2]) continue;
      z = 0;
      if (++y < a.extent[1]) continue;
      y = 0;
      x++;
    }
    const bool bounds = a.pooling == NA_POOL_BOUNDS;
    const int64_t to = row_in_segments(a.rest, a.segments, batch, block, head) + column;
    float made = most;
    if (a.pooling == NA_POOL_MEAN) made = sum / (static_cast<float>(end - first) * share);
    if (a.pooling == NA_POOL_MIN) made = least;
    a.rest.store(to, made);
    if (bounds) a.rest.store(to + a.columns, least);
  }
}

}  // namespace na::cuda
