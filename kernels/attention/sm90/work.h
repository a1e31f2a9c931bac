// What a block works at, one item after the other: the rows of a tile of one head, of a sequence or of a grid, and a
// share of its keys.
#pragma once

#include <type_traits>

#include "arch/sm90.h"
#include "attention/sm90/tiles.h"
#include "tile/band.h"
#include "tile/grid_block.h"

namespace na::cuda::sm90 {

// What the host decides about a launch.
//
// Units are all heads of all batch entries, and all parts of their keys. Items are in the order of sections of units,
// whose keys and values fit into the second-level cache together; within a section the last query tiles come first,
// since they see most keys when there is causality, then all units of the section, so that those that run at the same
// time share keys. Blocks take items in turns, forth and back, which evens out what they have to do.
struct Launch {
  int32_t units, section;  // a section's units
  int32_t heads;           // of a batch entry
  int32_t slots;           // see tile_slots() and query_tiles()
  int32_t items;           // units * slots
  int32_t group;           // heads that share keys
  int32_t blocks;
  bool cleans;  // whether there may be work that needs cleaning

  // Of a grid: so many rows of a tile of keys, and of a consumer's queries, are one tensor copy.
  int32_t key_rows, query_rows;
};

// How the tensors lie, see view_of_tokens() and view_of_grid().
struct Maps {
  CUtensorMap q, k, v, out;
};

struct BandRegion {
  Sequence sequence;
  int32_t first_query;  // of the sequence
  KeyTiles tiles;
};

struct BoxRegion : GridRegion {
  int32_t batch;
};

template <typename T>
struct Work : std::conditional_t<T::kGrid, BoxRegion, BandRegion> {
  int32_t head, kv_head, part;
  int32_t first, last;  // visits [first, last) of the tiles. last < 0: there is no more work
  bool cleans;          // whether visited tiles have keys that no query of the tile sees, see clean()
};

// Whether there is such a query tile, and what it is. The first rows have most to do.
template <typename T>
__device__ inline bool find_region(const Problem& problem, const Launch& launch, int32_t row, int32_t batch,
                                   Work<T>* work) {
  if constexpr (T::kGrid) {
    work->batch = batch;
    work->start(problem, late(row));
    work->cleans = work->tiles.full() < work->tiles.count();
  } else {
    Sequence& sequence = work->sequence;
    if (!find_sequence(problem, late(launch.slots - 1 - row), batch, T::kRows, &sequence)) return false;
    work->first_query = late(sequence.tile * T::kRows);
    const int32_t last_query = min(work->first_query + T::kRows, sequence.queries) - 1;
    const KeyTiles tiles(problem, sequence, work->first_query, last_query, T::kKeys);
    const bool ends = !problem.cu_q && tiles.end_key() == sequence.keys;  // then copies give zeros
    work->cleans = tiles.first_key() % T::kKeys != 0 || (tiles.end_key() % T::kKeys != 0 && !ends);
    work->tiles = tiles;
  }
  return true;
}

template <typename T>
__device__ inline bool find_work(const Problem& problem, const Launch& launch, int32_t item, Work<T>* work) {
  // Unsigned divisions take fewer registers, of which the producer has few.
  const auto divide = [](int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
  };
  const int32_t first_unit = divide(item, launch.section * launch.slots) * launch.section;
  const int32_t size = min(launch.section, launch.units - first_unit), rest = item - first_unit * launch.slots;
  const int32_t row = divide(rest, size), unit = first_unit + rest - row * size;
  const int32_t parts = max(problem.parts, 1), plane = divide(unit, parts), batch = divide(plane, launch.heads);
  const int32_t head = plane - batch * launch.heads + (T::kGrid ? problem.grid.first_head : 0);
  work->head = head;
  work->kv_head = divide(head, launch.group);
  work->part = unit - plane * parts;
  if (!find_region(problem, launch, row, batch, work)) return false;
  work->tiles.share(late(work->part), parts, &work->first, &work->last);
  return true;
}

}  // namespace na::cuda::sm90
