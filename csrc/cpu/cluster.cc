#include "cpu/cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ceil_div.h"
#include "cpu/executor/problem.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kRounds = 10;  // as many as RetroInfer has
constexpr int64_t kMostClusters = 256;

struct Kernels {
  void (*assign_keys)(const Assign&);
  void (*add_list)(const RowList&, const float*, float*);
};

Kernels kernels_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return {assign_keys_avx2, add_list_avx2};
    case Isa::kAvx512: return {assign_keys_avx512, add_list_avx512};
    case Isa::kAmx: return {assign_keys_amx, add_list_amx};
#endif
    default: return {assign_keys_generic, add_list_generic};
  }
}

int64_t padded(int64_t columns) { return ceil_div(columns, kStrip) * kStrip; }

// Keys without their mean, in units of the largest magnitude, so that no product overflows; what is not finite counts
// as the mean.
void read_keys(const PageRows& rows, int64_t batch, int64_t first, int64_t head, int64_t tokens,
               const ClusterSpace& space) {
  const int64_t columns = rows.columns;
  std::fill_n(space.mean, columns, 0.0);
  float reach = 0;
  for (int64_t t = 0; t < tokens; t++) {
    float* const key = space.keys + t * columns;
    rows.read(rows.row(batch, first + t, head), key);
    for (int64_t d = 0; d < columns; d++) {
      const float size = std::fabs(key[d]);
      if (!(size < kInfinity)) continue;
      space.mean[d] += static_cast<double>(key[d]) / static_cast<double>(tokens);
      reach = std::max(reach, size);
    }
  }
  for (int64_t d = 0; d < columns; d++) {
    space.sums[d] = reach > 0 ? static_cast<float>(space.mean[d] / static_cast<double>(reach)) : 0.0f;
  }
  for (int64_t t = 0; t < tokens; t++) {
    float* const key = space.keys + t * columns;
    for (int64_t d = 0; d < columns; d++) {
      key[d] = std::fabs(key[d]) < kInfinity && reach > 0 ? key[d] / reach - space.sums[d] : 0.0f;
    }
  }
}

// The direction of `vector` becomes that of a centroid, which stays what it was if there is none.
void set_centroid(const float* vector, int64_t columns, int64_t cluster, float* centroids) {
  double square = 0;
  for (int64_t d = 0; d < columns; d++) square += static_cast<double>(vector[d]) * static_cast<double>(vector[d]);
  if (square == 0) return;
  const double share = 1 / std::sqrt(square);
  float* const to = centroids + cluster / kStrip * kStrip * columns + cluster % kStrip;
  for (int64_t d = 0; d < columns; d++) to[d * kStrip] = static_cast<float>(static_cast<double>(vector[d]) * share);
}

// starts[c] ... starts[c + 1] of `members` are those of label c, in ascending order.
void sort_members(const int32_t* labels, int64_t tokens, int64_t clusters, uint16_t* starts, uint16_t* members) {
  std::fill_n(starts, clusters + 1, uint16_t{0});
  for (int64_t t = 0; t < tokens; t++) starts[labels[t] + 1]++;
  for (int64_t c = 0; c < clusters; c++) starts[c + 1] = static_cast<uint16_t>(starts[c + 1] + starts[c]);
  uint16_t next[kMostClusters];
  std::copy_n(starts, clusters, next);
  for (int64_t t = 0; t < tokens; t++) members[next[labels[t]]++] = static_cast<uint16_t>(t);
}

// Labels without gaps, in the same order. Returns how many there are.
int32_t close_gaps(int32_t* labels, int64_t tokens, int64_t clusters) {
  int32_t becomes[kMostClusters] = {};
  for (int64_t t = 0; t < tokens; t++) becomes[labels[t]] = 1;
  int32_t used = 0;
  for (int64_t c = 0; c < clusters; c++) becomes[c] = becomes[c] ? used++ : 0;
  for (int64_t t = 0; t < tokens; t++) labels[t] = becomes[labels[t]];
  return used;
}

}  // namespace

ClusterSpace::ClusterSpace(Arena& arena, int64_t tokens, int64_t clusters, int64_t columns)
    : keys(arena.take<float>(tokens * columns)),
      centroids(arena.take<float>(clusters * columns)),
      sums(arena.take<float>(padded(columns))),
      ones(arena.take<float>(tokens)),
      mean(arena.take<double>(columns)),
      rows(arena.take<const char*>(tokens)),
      labels(arena.take<int32_t>(tokens)),
      before(arena.take<int32_t>(tokens)) {}

int32_t cluster_keys(const PageRows& rows, int64_t batch, int64_t first, int64_t head, const MirrorLayout& layout,
                     Isa isa, const Cancel& cancel, const ClusterSpace& space, const ClusterLists& lists) {
  const Kernels kernels = kernels_of(isa);
  const int64_t tokens = layout.tokens, clusters = layout.rows, columns = layout.columns;
  read_keys(rows, batch, first, head, tokens, space);
  std::fill_n(space.ones, tokens, 1.0f);
  std::fill_n(space.centroids, clusters * columns, 0.0f);
  for (int64_t c = 0; c < clusters; c++) {
    const int64_t token = (2 * c + 1) * tokens / (2 * clusters);
    set_centroid(space.keys + token * columns, columns, c, space.centroids);
  }
  const Assign assign{
      space.keys,  space.centroids, static_cast<int>(columns), static_cast<int>(tokens), static_cast<int>(clusters),
      space.labels};
  for (int round = 1;; round++) {
    kernels.assign_keys(assign);
    if (round == kRounds || (round > 1 && std::equal(space.labels, space.labels + tokens, space.before))) break;
    if (cancel.requested()) break;  // these clusters will do: nobody is going to look
    std::copy_n(space.labels, tokens, space.before);
    sort_members(space.labels, tokens, clusters, lists.starts, lists.members);
    for (int64_t c = 0; c < clusters; c++) {
      const int from = lists.starts[c], count = lists.starts[c + 1] - from;
      for (int i = 0; i < count; i++) {
        space.rows[i] = reinterpret_cast<const char*>(space.keys + lists.members[from + i] * columns);
      }
      std::fill_n(space.sums, padded(columns), 0.0f);
      kernels.add_list({NA_FLOAT32, false, static_cast<int>(columns), count, space.rows}, space.ones, space.sums);
      set_centroid(space.sums, columns, c, space.centroids);
    }
  }
  const int32_t used = close_gaps(space.labels, tokens, clusters);
  sort_members(space.labels, tokens, clusters, lists.starts, lists.members);
  for (int64_t t = 0; t < tokens; t++) lists.labels[t] = static_cast<uint8_t>(space.labels[t]);
  return used;
}

}  // namespace na::cpu
