// What a block works at, one item after the other: the rows of a tile of one sequence and head, and a share of its
// keys.
#pragma once

#include "arch/sm90.h"
#include "attention/sm90/tiles.h"
#include "tile/band.h"

namespace na::cuda::sm90 {

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
  int32_t group;           // heads that share keys
  int32_t blocks;
  bool cleans;  // whether there may be work that needs cleaning
};

template <typename T>
struct Work {
  Sequence sequence;
  int32_t head, kv_head, part;
  int32_t first_query;  // of the sequence
  KeyTiles tiles;
  int32_t first, last;  // visits [first, last) of the tiles. last < 0: there is no more work
  bool cleans;          // whether visited tiles have keys that no query of the tile sees, see clean()
};

// Whether there is such a tile, and what it is.
template <typename T>
__device__ inline bool find_work(const Problem& problem, const Launch& launch, int32_t item, Work<T>* work) {
  // Unsigned divisions take fewer registers, of which the producer has few.
  const auto divide = [](int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
  };
  const int32_t first_unit = divide(item, launch.section * launch.slots) * launch.section;
  const int32_t size = min(launch.section, launch.units - first_unit), rest = item - first_unit * launch.slots;
  const int32_t row = divide(rest, size), slot = launch.slots - 1 - row, unit = first_unit + rest - row * size;
  const int32_t parts = max(problem.parts, 1), plane = divide(unit, parts), batch = divide(plane, problem.heads);
  const int32_t head = plane - batch * problem.heads;
  work->head = head;
  work->kv_head = divide(head, launch.group);
  work->part = unit - plane * parts;
  Sequence& sequence = work->sequence;
  if (!find_sequence(problem, late(slot), batch, T::kRows, &sequence)) return false;
  work->first_query = late(sequence.tile * T::kRows);
  const int32_t last_query = min(work->first_query + T::kRows, sequence.queries) - 1;
  const KeyTiles tiles(problem, sequence, work->first_query, last_query, T::kKeys);
  const bool ends = !problem.cu_q && tiles.end_key() == sequence.keys;  // then copies give zeros
  work->cleans = tiles.first_key() % T::kKeys != 0 || (tiles.end_key() % T::kKeys != 0 && !ends);
  work->tiles = tiles;
  tiles.share(late(work->part), parts, &work->first, &work->last);
  return true;
}

}  // namespace na::cuda::sm90
