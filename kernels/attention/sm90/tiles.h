// Tile sizes for each pair of head dimensions, and what lies in shared memory. Why these sizes: docs/kernels.md.
#pragma once

#include "attention/attention.h"

namespace na::cuda::sm90 {

struct Tiling {
  int consumers;  // warpgroups, of 64 rows each
  int keys;
  int stages;  // of the rings of keys and of values
};

// `modified`: scores are changed one by one, which needs registers, see modify(). On a grid, where scores are never
// modified, rows and keys are boxes whose sides are powers of two.
constexpr Tiling tiling(int head_dim, int value_dim, bool modified, bool grid) {
  if (grid) {
    if (head_dim <= 128) return {2, 128, head_dim <= 64 ? 4 : 2};
    return {2, 64, 2};
  }
  if (head_dim <= 64) return {modified ? 2 : 3, 128, 4};
  if (head_dim <= 96) return {2, 128, 3};
  if (head_dim <= 128) return {2, 128, 2};
  if (head_dim <= 192) return {2, value_dim <= 128 ? 128 : modified ? 96 : 112, 2};
  return {2, modified ? 64 : 80, 2};
}

// Everything that follows from the template parameters of a kernel.
template <Element kElement_, int kHeadDim_, int kValueDim_, bool kModified_, bool kGrid_>
struct Tile {
  static constexpr Element kElement = kElement_;
  static constexpr int kHeadDim = kHeadDim_, kValueDim = kValueDim_;
  static constexpr bool kModified = kModified_, kGrid = kGrid_;
  static_assert(!kModified || !kGrid);
  static constexpr bool kComputesBiases = kModified && may_compute_biases(kHeadDim, kValueDim);
  static constexpr Tiling kTiling = tiling(kHeadDim, kValueDim, kModified, kGrid);
  static constexpr int kConsumers = kTiling.consumers, kKeys = kTiling.keys, kStages = kTiling.stages;
  static constexpr int kThreads = 128 * (1 + kConsumers), kOwnRows = 64, kRows = kOwnRows * kConsumers;
  // Of 65536 registers.
  static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40, kConsumerRegisters = kConsumers == 3 ? 160 : 232;

  // A tile lies in boxes of kSpan bytes of each row, swizzled; the box of a tensor copy.
  static constexpr int kSpan = kHeadDim % 64 == 0 && kValueDim % 64 == 0 ? 128 : 64, kBoxColumns = kSpan / 2;
  static constexpr int kHeadBoxes = kHeadDim / kBoxColumns, kValueBoxes = kValueDim / kBoxColumns;
  static constexpr int kKeyBoxBytes = kKeys * kSpan, kRowBoxBytes = kOwnRows * kSpan;

  // Shared memory: queries of each consumer, rings, outputs of each consumer if there is room, work, visits of the
  // rings' stages, barriers.
  static constexpr int kQueryBytes = kHeadBoxes * kRowBoxBytes, kOutBytes = kValueBoxes * kRowBoxBytes;
  static constexpr int kKeyBytes = kHeadBoxes * kKeyBoxBytes, kValueBytes = kValueBoxes * kKeyBoxBytes;
  static constexpr int kKeysAt = kConsumers * kQueryBytes, kValuesAt = kKeysAt + kStages * kKeyBytes;
  static constexpr int kRingsEnd = kValuesAt + kStages * kValueBytes;
  static constexpr int kCleaners = 3;  // warps of the producer's warpgroup
  static constexpr int kWorkBytes = 2 * (kGrid ? 256 : 96), kVisitBytes = kGrid ? 2 * kStages * 16 : 0;
  static constexpr int kBarrierBytes = 8 * (5 * kStages + 2 * kConsumers + 4),
                       kEndBytes = kWorkBytes + kVisitBytes + kBarrierBytes;
  static constexpr int kMostBytes = 227 * 1024;
  // Outputs have a place of their own, or else take that of their consumer's queries, which then cannot be replaced
  // before the outputs are stored.
  static constexpr bool kOutApart = kRingsEnd + kConsumers * kOutBytes + kEndBytes <= kMostBytes;
  static constexpr int kOutAt = kOutApart ? kRingsEnd : 0, kOutPitch = kOutApart ? kOutBytes : kQueryBytes;
  static constexpr int kWorkAt = kRingsEnd + (kOutApart ? kConsumers * kOutBytes : 0);
  static constexpr int kVisitsAt = kWorkAt + kWorkBytes, kBarriersAt = kVisitsAt + kVisitBytes;
  static constexpr int kSharedBytes = kBarriersAt + kBarrierBytes;

  static_assert(kSharedBytes <= kMostBytes);
  static_assert(kOutApart || kOutBytes <= kQueryBytes);
  static_assert(kKeyBoxBytes % 1024 == 0 && kRowBoxBytes % 1024 == 0, "swizzled boxes are aligned to their pattern");
  static_assert(kHeadDim % kBoxColumns == 0 && kValueDim % kBoxColumns == 0 && kKeys % 16 == 0);
};

}  // namespace na::cuda::sm90
