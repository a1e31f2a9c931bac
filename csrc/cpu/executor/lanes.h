// A block of query lanes: what the sums and what is done to their scores share. Included once by each instruction set,
// which defines NA_VECTORS, the vectors of lanes in a block.
#pragma once

#include "cpu/executor/problem.h"
#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

constexpr int kVectors = NA_VECTORS, kLanes = kVectors * kWidth;

struct Block {
  int index, first, lanes;  // the first of its lanes among those of the tile, and how many are in use
  const float* q;
  float *out, *maximum, *total;  // out is [value][lane]
};

Block block_of(const Problem& problem, const Tile& tile, const Sums& sums, int index) {
  const int rest = tile.lanes - index * kLanes;
  const int64_t q = static_cast<int64_t>(index) * kLanes * problem.head_pitch * problem.element_bytes;
  return {index,
          index * kLanes,
          rest < kLanes ? rest : kLanes,
          reinterpret_cast<const float*>(reinterpret_cast<const char*>(sums.q) + q),
          sums.out + static_cast<int64_t>(index) * kLanes * problem.value_pitch,
          sums.maximum + index * kLanes,
          sums.total + index * kLanes};
}

}  // namespace
}  // namespace na::cpu
