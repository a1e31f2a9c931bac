// The segments of a mirror (na_mirror) that an operation writes, and what a row of one stands for.
#pragma once

#include "core/mirror.h"

namespace na::cpu {

struct Segment {
  int64_t batch, segment;
};

// Segments from first[b] on of each batch entry.
struct SegmentList {
  const na_mirror& mirror;
  const int64_t* first;
  int64_t batch;

  int64_t count() const {
    int64_t sum = 0;
    for (int64_t b = 0; b < batch; b++) sum += mirror.segments[b] - first[b];
    return sum;
  }
  Segment at(int64_t index) const {
    int64_t b = 0;
    for (; index >= mirror.segments[b] - first[b]; b++) index -= mirror.segments[b] - first[b];
    return {b, first[b] + index};
  }
};

// A key head of a segment.
struct SegmentHead {
  const na_mirror& mirror;
  const MirrorLayout& layout;
  char* data;

  SegmentHead(const na_mirror& mirror, const MirrorLayout& layout, int64_t batch, int64_t segment, int64_t head)
      : mirror(mirror),
        layout(layout),
        data(static_cast<char*>(mirror.tables[batch][segment]) + head * layout.head_bytes()) {}

  int32_t used() const { return *reinterpret_cast<const int32_t*>(data + layout.used_at()); }

  int64_t key_count(int64_t row) const {
    if (!mirror.clusters) return mirror.block;
    const uint16_t* const starts = layout.lists(data).starts;
    return starts[row + 1] - starts[row];
  }

  // The keys of a row in ascending order, counted from the first of the segment.
  template <class Visit>
  void each_key(int64_t row, const Visit& visit) const {
    if (!mirror.clusters) {
      for (int64_t key = row * mirror.block; key < (row + 1) * mirror.block; key++) visit(key);
      return;
    }
    const ClusterLists lists = layout.lists(data);
    for (int i = lists.starts[row]; i < lists.starts[row + 1]; i++) visit(int64_t{lists.members[i]});
  }

  int64_t row_of(int64_t key) const { return mirror.clusters ? layout.lists(data).labels[key] : key / mirror.block; }
};

}  // namespace na::cpu
