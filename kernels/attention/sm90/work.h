// What a block works at, one item after the other: the rows of a tile of one sequence and head, and a share of its
// keys.
#pragma once

#include "attention/sm90/tiles.h"
#include "tile/score.h"

namespace na::cuda {

// What the host decides about a launch.
//
// Units are all heads of all batch entries, and all parts of their keys. Items are in the order of sections of units,
// whose keys and values fit into the second-level cache together; within a section the last query tiles come first,
// since they see most keys when there is causality, then all units of the section, so that those that run at the same
// time share keys. Blocks take items in turns, forth and back, which evens out what they have to do.
struct Launch {
  int32_t units, section;  // a section's units
  int32_t slots;           // see tile_slots()
  int32_t items;           // units * slots
};

template <typename T>
struct Work {
  Sequence sequence;
  int32_t head, kv_head, part;
  int32_t first_query;  // of the sequence

  // False: there is no such tile.
  __device__ bool find(const Problem& problem, const Launch& launch, int32_t item) {
    const int32_t section = item / (launch.section * launch.slots), first_unit = section * launch.section;
    const int32_t size = min(launch.section, launch.units - first_unit), rest = item - first_unit * launch.slots;
    const int32_t slot = launch.slots - 1 - rest / size, parts = max(problem.parts, 1);
    int32_t unit = first_unit + rest % size;
    part = unit % parts;
    unit /= parts;
    head = unit % problem.heads;
    kv_head = head / (problem.heads / problem.kv_heads);
    if (!find_sequence(problem, slot, unit / problem.heads, T::kRows, &sequence)) return false;
    first_query = sequence.tile * T::kRows;
    return true;
  }

  __device__ KeyTiles tiles(const Problem& problem) const {
    return KeyTiles(problem, sequence, first_query, min(first_query + T::kRows, sequence.queries) - 1, T::kKeys);
  }
};

// The visits [first, last) of an item's share.
template <typename T>
struct Visits {
  KeyTiles tiles;
  int32_t first, last;

  __device__ Visits(const Problem& problem, const Work<T>& work) : tiles(work.tiles(problem)) {
    tiles.share(work.part, max(problem.parts, 1), &first, &last);
  }
};

// Calls `each(work, visits)` for the items of this block.
template <typename T, typename Each>
__device__ inline void for_items(const Problem& problem, const Launch& launch, Each each) {
  const auto blocks = static_cast<int32_t>(gridDim.x), block = static_cast<int32_t>(blockIdx.x);
#pragma unroll 1
  for (int32_t round = 0;; round++) {
    const int32_t item = round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
    if (item >= launch.items) return;
    Work<T> work;
    if (work.find(problem, launch, item)) each(work, Visits<T>(problem, work));
  }
}

}  // namespace na::cuda
