// What is where in a segment of a mirror (na_mirror): head after head of keys, and of each
//   float32 centre[columns, rounded up to quads of 4], the mean of its rows
//   float32 reach, the largest magnitude of an element
//   int32   used, rows that stand for keys, the others being behind them; zeros up to a multiple of 64 bytes
//   float32 units[rows]
//   uint8   codes[rows / 16][quad][16][4]: (row - centre) / unit, rounded, and 128 more
// and of clusters, whose row is the mean of the keys that are its members,
//   uint16  starts[rows + 1]: where the members of each begin, and the end of the last
//   uint16  members[tokens], those of a cluster in ascending order, counted from the first token of the segment
//   uint8   labels[tokens], the row of each
// A unit is the largest magnitude in the row / 127, so that codes are from 1 to 255; it is infinite where an element is
// not finite. So 16 rows lie side by side, as the lanes of a vector want them, and no sum goes across lanes.
#pragma once

#include <cstdint>

#include "core/backend.h"

namespace na {

// Lists of a segment of clusters.
struct ClusterLists {
  uint16_t *starts, *members;
  uint8_t* labels;
};

struct MirrorLayout {
  int64_t rows = 0, columns = 0;
  int64_t tokens = 0;  // listed, for clusters; else 0

  MirrorLayout() = default;
  MirrorLayout(int64_t segment_rows, int64_t block, bool bounds, bool clusters, int64_t head_dim)
      : rows(segment_rows), columns((bounds ? 2 : 1) * head_dim), tokens(clusters ? segment_rows * block : 0) {}
  MirrorLayout(const na_mirror& m, int64_t head_dim)
      : MirrorLayout(m.segment_rows, m.block, m.bounds != 0, m.clusters != 0, head_dim) {}

  int64_t quads() const { return (columns + 3) / 4; }
  int64_t reach_at() const { return quads() * 16; }
  int64_t used_at() const { return reach_at() + 4; }
  int64_t units_at() const { return aligned(used_at() + 4); }
  int64_t codes_at() const { return units_at() + rows * 4; }
  int64_t lists_at() const { return codes_at() + rows * quads() * 4; }
  int64_t head_bytes() const { return tokens == 0 ? lists_at() : aligned(lists_at() + (rows + 1) * 2 + tokens * 3); }

  ClusterLists lists(char* head) const {
    auto* const starts = reinterpret_cast<uint16_t*>(head + lists_at());
    return {starts, starts + rows + 1, reinterpret_cast<uint8_t*>(starts + rows + 1 + tokens)};
  }

 private:
  static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
};

// Of a segment of means: head after head of keys, and of each the float32 mean keys and then mean values of its rows.
struct MeansLayout {
  int64_t rows, columns, value_columns;

  int64_t key_at(int64_t row) const { return row * columns * 4; }
  int64_t value_at(int64_t row) const { return (rows * columns + row * value_columns) * 4; }
  int64_t head_bytes() const { return rows * (columns + value_columns) * 4; }
};

}  // namespace na
