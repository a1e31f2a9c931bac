// Tile sizes and what lies in shared memory, for each element, head dimension and number of queries.
//
// A block has one tile of rows; a row is a query of one head. Many rows: each warp has rows of its own, and all warps
// read the same keys. Few rows, as in decoding: all warps have the same rows, and each reads keys of its own. Warps
// that read the same keys are a team. A team has a ring of `stages` slots, each for the keys or the values of one key
// tile.
//
// The floors that the table was made for, D being both head dimensions, of half types:
//
// Many rows are bound by products. A warp needs 16 x D bytes from shared memory for what its rows multiply with eight
// keys, and that takes 16 x 8 x 2 D flops for each 16 rows: on an A100 (2048 flops and 128 bytes a cycle) sixteen rows
// take as long to load as to multiply, 32 rows half as long. So a warp has 32 rows where its sums fit in registers,
// 32 x D floats or D of them a thread, up to D = 128. 64 keys to a tile make the softmax's part of the instructions
// small. Three slots let two tiles be under way while one is multiplied and two blocks run on an A100 (163 KiB).
//
// Few rows are bound by memory: 2 D flops for each of 16 rows and each element, hardly any of them needed. What matters
// is bytes in flight: latency times bandwidth is 13 KB for each multiprocessor of an A100 (2 TB/s, 0.7 us) and about
// 36 KB on an H200 (4.8 TB/s, 1 us). The rings of a block have 40 to 70 KB under way, apart from the last slot.
//
// No tile needs more than 99 KiB, so that all devices since Ampere can run all of them.
#pragma once

#include "attention/attention.h"
#include "tile/grid_block.h"

namespace na::cuda {

struct Tiling {
  int warps;
  int row_sets;  // of 16 rows, for each warp
  int keys;      // of a tile, for each team
  int stages;
  bool registers;  // whether queries are kept in registers, else in shared memory
};

constexpr int element_bytes(Element element) { return element == Element::kFloat32 ? 4 : 2; }

// `modified` scores need registers of their own, and so does a grid; both fit beside 64 columns.
constexpr Tiling tiling(Element element, int head_dim, int value_dim, bool few, bool modified, bool grid) {
  if (element == Element::kFloat32) {
    if (few) {
      if (head_dim <= 64) return {4, 1, 16, 4, false};
      if (head_dim <= 128) return {2, 1, 16, 4, false};
      return {2, 1, 16, 2, false};
    }
    if (head_dim <= 64) return {4, 2, 32, 3, false};
    if (head_dim <= 128) return {4, 1, 32, 3, false};
    return {4, 1, 16, 2, false};
  }
  if (few) {
    if (head_dim <= 64) return {4, 1, 32, 4, true};
    if (head_dim <= 96) return {4, 1, 16, 6, true};
    if (head_dim <= 128) return {4, 1, 16, 4, true};
    return {4, 1, 16, 3, true};
  }
  const int row_sets = grid ? (head_dim <= 64 ? 2 : 1) : modified ? 1 : 2;
  if (head_dim <= 64) return {4, row_sets, 64, 4, true};
  if (head_dim <= 128) return {4, row_sets, 64, 3, false};
  if (value_dim <= 128) return {4, row_sets, 32, 3, false};
  return {4, 1, 32, 3, false};
}

// Rows and keys of a tile: with few rows all warps share the rows, otherwise the keys.
constexpr TileShape shape_of(Tiling tiling, bool few) {
  const int rows = 16 * tiling.row_sets;
  return few ? TileShape{rows, tiling.warps * tiling.keys} : TileShape{tiling.warps * rows, tiling.keys};
}

// Few rows of 256 columns leave no registers for that.
constexpr bool rows_may_compute_biases(bool few, int head_dim) { return !few || head_dim <= 128; }

// Everything that follows from the template parameters of a kernel. kProducts is by how many products of TF32 one of
// float32 is made, and 1 for half types. A kernel of grids modifies scores only where a problem asks for it.
template <Element kElement_, int kProducts_, int kHeadDim_, int kValueDim_, bool kFew_, bool kModified_, bool kGrid_>
struct Tile {
  static constexpr Element kElement = kElement_;
  static constexpr int kProducts = kProducts_, kHeadDim = kHeadDim_, kValueDim = kValueDim_;
  static constexpr bool kFew = kFew_, kModified = kModified_, kGrid = kGrid_;
  static constexpr bool kPlan = false;      // see plan.h
  static constexpr bool kKeyMajor = false;  // see key_major.h
  static constexpr bool kPaged = false;
  static_assert(!kGrid || (kModified && !kFew));
  static constexpr bool kComputesBiases =
      kModified && may_compute_biases(kHeadDim, kValueDim) && rows_may_compute_biases(kFew, kHeadDim) &&
      (!kGrid || kHeadDim == biased_columns_on_grid(kElement)) && (kElement != Element::kFloat32 || kProducts == 3);

  static constexpr Tiling kTiling = tiling(kElement, kHeadDim, kValueDim, kFew, kModified, kGrid);
  static constexpr int kWarps = kTiling.warps, kThreads = 32 * kWarps, kRowSets = kTiling.row_sets;
  static constexpr int kTeams = kFew ? kWarps : 1, kTeamThreads = kThreads / kTeams;
  static constexpr int kWarpRows = 16 * kRowSets, kRows = shape_of(kTiling, kFew).rows;
  static constexpr int kTeamKeys = kTiling.keys, kKeys = shape_of(kTiling, kFew).keys;
  static constexpr int kStages = kTiling.stages;
  static constexpr bool kQueriesInRegisters = kTiling.registers;

  // A step of a product is two chunks of 16 bytes.
  static constexpr int kBytes = element_bytes(kElement), kStep = 32 / kBytes;

  // Shared memory: queries and rings, and when those are done, the outputs and the softmax of each warp.
  static constexpr int kSlotBytes = kTeamKeys * (kHeadDim > kValueDim ? kHeadDim : kValueDim) * kBytes;
  static constexpr int kQueryBytes = kQueriesInRegisters ? 0 : kRows * kHeadDim * kBytes;
  static constexpr int kRingBytes = kStages * kSlotBytes;
  static constexpr int kOutPitch = kValueDim + 8;  // floats; eight rows of two-float accesses lie in different banks
  static constexpr int kOutBytes = kWarps * kWarpRows * kOutPitch * 4, kSoftmaxBytes = kWarps * kWarpRows * 8;
  static constexpr int kLoopBytes = kQueryBytes + kTeams * kRingBytes, kEndBytes = kOutBytes + kSoftmaxBytes;
  static constexpr int kBlockAt =
      kLoopBytes > kEndBytes ? kLoopBytes : kEndBytes;  // of a grid or a run, behind all that
  static constexpr int kSharedBytes = kBlockAt + (kGrid ? static_cast<int>(sizeof(GridBlock<kRows>)) : 0);
  static_assert(kSharedBytes <= 99 * 1024);
  static_assert(kSharedBytes - kBlockAt <= 1024);  // so that two blocks of 80 KiB still fit on an A100
  static_assert(kStages >= 2);
};

// The tile of keys in pages. Like those of grids it modifies scores only where a problem asks for it.
template <Element kElement, int kProducts, int kHeadDim, int kValueDim, bool kFew>
struct PagedTile : Tile<kElement, kProducts, kHeadDim, kValueDim, kFew, true, false> {
  static constexpr bool kPaged = true;
  static constexpr bool kComputesBiases = false;  // that takes long to compile
};

// What the host decides about a launch. Heads of a group are packed into the rows of a tile, query by query.
struct Launch {
  int32_t packed;       // heads in a tile
  int32_t head_tiles;   // tiles for the heads of a group
  int32_t query_slots;  // see tile_slots()
  // Bytes at a time: 16, 4 or 2, by alignment.
  int32_t q_width, k_width, v_width, out_width;

  int32_t plan_heads, plan_queries;  // of a sparse plan: shared and queries of PlanTiling
  int32_t items;                     // of one that is walked by keys: runs of queries of all heads
};

}  // namespace na::cuda
