// What is where in a segment of a mirror (na_mirror): head after head of keys, and of each
//   float32 centre[columns, rounded up to quads of 4], the mean of its rows
//   float32 reach, the largest magnitude of an element, and zeros up to a multiple of 64 bytes
//   float32 units[rows]
//   uint8   codes[rows / 16][quad][16][4]: (row - centre) / unit, rounded, and 128 more
// A unit is the largest magnitude in the row / 127, so that codes are from 1 to 255; it is infinite where an element is
// not finite. So 16 rows lie side by side, as the lanes of a vector want them, and no sum goes across lanes.
#pragma once

#include <cstdint>

namespace na {

struct MirrorLayout {
  int64_t rows, columns;

  int64_t quads() const { return (columns + 3) / 4; }
  int64_t reach_at() const { return quads() * 16; }
  int64_t units_at() const { return (reach_at() + 4 + 63) / 64 * 64; }
  int64_t codes_at() const { return units_at() + rows * 4; }
  int64_t head_bytes() const { return codes_at() + rows * quads() * 4; }
};

}  // namespace na
