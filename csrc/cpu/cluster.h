// Clusters of the keys of a segment: spherical k-means around their mean, as in RetroInfer (Chen et al. 2025).
#pragma once

#include "core/mirror.h"
#include "cpu/arena.h"
#include "cpu/isa.h"
#include "cpu/job.h"
#include "cpu/page_rows.h"

namespace na::cpu {

// Memory to cluster with.
struct ClusterSpace {
  ClusterSpace(Arena& arena, int64_t tokens, int64_t clusters, int64_t columns);

  float* keys;       // [token][column]
  float* centroids;  // [cluster / 16][column][16]
  float* sums;       // [column], padded
  float* ones;       // [token]
  double* mean;      // [column]
  const char** rows;
  int32_t *labels, *before;
};

// Puts layout.tokens keys, from `first` on, into layout.rows clusters at most, and lists them. Which ones depends on
// the keys alone, but for the rounding of an instruction set and what `cancel` cuts short. Returns how many clusters
// there are; none is empty.
int32_t cluster_keys(const PageRows& rows, int64_t batch, int64_t first, int64_t head, const MirrorLayout& layout,
                     Isa isa, const Cancel& cancel, const ClusterSpace& space, const ClusterLists& lists);

}  // namespace na::cpu
