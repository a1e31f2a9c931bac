// Generalized neighborhood attention (Hassani et al. 2025, arXiv:2504.16922) on a grid of tokens: which key tiles a
// query tile visits, and what each of its queries sees of them.
//
// With dilation d, the tokens g + d * i of an axis are the group g, and i is their coordinate. Tokens see those of
// their own group only, so tiles are boxes of one group on each axis, and all coordinates here are those of a group.
// What holds for the axes one by one holds for their product: visited tiles are a box of tiles, those that every query
// sees whole are a box within, and a query sees a box of keys.
//
// A wrapping axis is a ring. Positions on it are counted on from the first key that is visited, and may reach beyond
// its length by one lap, so that what a query sees stays an interval. Only where a query tile's windows reach around
// all of the ring, no tile is visited twice; then what a query does not see is an interval.
#pragma once

#include "arch/host_device.h"
#include "attention/problem.h"

namespace na::cuda {

struct Interval {
  int32_t begin, end;  // [begin, end)
};

NA_HOST_DEVICE inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
NA_HOST_DEVICE inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
NA_HOST_DEVICE inline int32_t clamp(int32_t x, int32_t low, int32_t high) { return smaller(larger(x, low), high); }

// Tiles of 2^side tokens that hold some.
NA_HOST_DEVICE inline int32_t tiles_of(int32_t tokens, int32_t side) { return (tokens + (1 << side) - 1) >> side; }

NA_HOST_DEVICE inline int32_t group_length(int32_t extent, int32_t dilation, int32_t group) {
  return (extent - group + dilation - 1) / dilation;
}

// The keys that query i of a group sees. On a ring the interval may begin below 0.
NA_HOST_DEVICE inline Interval window_of(const Axis& axis, int32_t length, int32_t i) {
  const int32_t first = axis.stride == 1 ? i : i / axis.stride * axis.stride;
  if (axis.causal) {
    const int32_t leader = smaller(first + axis.stride - 1, length - 1);
    return {larger(leader - axis.window + 1, 0), i + 1};
  }
  const int32_t leader = smaller(first + axis.stride / 2, length - 1);
  int32_t begin = leader - axis.window / 2;
  if (!axis.wrap || axis.window == length) begin = clamp(begin, 0, length - axis.window);
  return {begin, begin + axis.window};
}

// The key tiles of one axis that the queries [first, last] of a group visit: `count` of them, in the order of a run.
class AxisTiles {
 public:
  AxisTiles() = default;

  // Key tiles have 2^side keys, of which the last one may hold fewer.
  NA_HOST_DEVICE AxisTiles(const Axis& axis, int32_t length, int32_t first, int32_t last, int32_t side)
      : length_(length), side_(side), tiles_(tiles_of(length, side)), ring_(axis.wrap && axis.window < length) {
    const Interval low = window_of(axis, length, first), high = window_of(axis, length, last);
    const int32_t lift = ring_ && low.begin < 0 ? length : 0;  // onto the first lap
    from_ = low.begin + lift;
    to_ = high.end + lift;
    begin_ = from_ >> side;
    if (ring_ && to_ > length) {
      count_ = tiles_ - begin_ + tiles_of(to_ - length, side);
      around_ = to_ - from_ >= length || count_ > tiles_;
      if (around_) count_ = tiles_;
    } else {
      count_ = tiles_of(to_, side) - begin_;
    }
    // What all queries see.
    const Interval all = {high.begin + lift, low.end + lift};
    set_full(whole(all.begin, smaller(all.end, length)), whole(all.begin - length, all.end - length));
  }

  NA_HOST_DEVICE int32_t count() const { return count_; }

  // Visits [full_begin(), full_end()) are to tiles that exist as a whole and that every query sees whole.
  NA_HOST_DEVICE int32_t full_begin() const { return full_begin_; }
  NA_HOST_DEVICE int32_t full_end() const { return full_end_; }

  // The coordinate of the first key of visit n's tile.
  NA_HOST_DEVICE int32_t first_key(int32_t n) const {
    const int32_t tile = begin_ + n;
    return (tile < tiles_ ? tile : tile - tiles_) << side_;
  }

  // Its position, in the sense of window().
  NA_HOST_DEVICE int32_t position(int32_t n) const {
    return first_key(n) + (begin_ + n < tiles_ || around_ ? 0 : length_);
  }

  // How many of a tile's keys exist.
  NA_HOST_DEVICE int32_t keys(int32_t n) const { return smaller(length_ - first_key(n), 1 << side_); }

  // What some query sees, like window().
  NA_HOST_DEVICE Interval reach() const { return {from_, smaller(to_, from_ + length_)}; }

  // What query i, one of [first, last], sees, in positions. If it ends beyond the length of a ring that is visited all
  // around, it goes on from 0.
  NA_HOST_DEVICE Interval window(const Axis& axis, int32_t i) const {
    Interval seen = window_of(axis, length_, i);
    if (!ring_) return seen;
    const int32_t low = around_ ? 0 : from_;
    if (seen.begin < 0) seen = {seen.begin + length_, seen.end + length_};
    if (seen.begin < low) seen = {seen.begin + length_, seen.end + length_};
    return seen;
  }

  // Whether columns beyond keys(n) look as if some query saw them.
  NA_HOST_DEVICE bool cut(int32_t n) const { return ring_ && keys(n) < 1 << side_; }

  NA_HOST_DEVICE bool around() const { return around_; }
  NA_HOST_DEVICE int32_t length() const { return length_; }

 private:
  // The whole tiles within an interval of keys.
  NA_HOST_DEVICE Interval whole(int32_t begin, int32_t end) const {
    const int32_t first = tiles_of(larger(begin, 0), side_);
    return {first, larger(larger(end, 0) >> side_, first)};
  }

  // The longer of the runs on both laps, which are one if no cut tile is between them.
  NA_HOST_DEVICE void set_full(Interval lap, Interval next) {
    next = {next.begin + tiles_, next.end + tiles_};
    if (lap.end == tiles_ && lap.end > lap.begin && next.begin == tiles_) lap.end = next.end;
    if (next.end - next.begin > lap.end - lap.begin) lap = next;
    full_begin_ = lap.end > lap.begin ? lap.begin - begin_ : 0;
    full_end_ = lap.end > lap.begin ? lap.end - begin_ : 0;
  }

  int32_t length_, side_, tiles_;
  int32_t from_, to_;  // positions that some query sees
  int32_t begin_, count_, full_begin_, full_end_;
  bool ring_, around_ = false;
};

// Which query tile of an axis is worked at: tokens [first, first + count) of a group.
struct AxisQueries {
  int32_t group, length, first, count;
};

// Query tiles of an axis, of all of its groups together.
NA_HOST_DEVICE inline int32_t query_tiles(int32_t extent, int32_t dilation, int32_t side) {
  const int32_t longer = extent % dilation, length = extent / dilation;  // so many groups have one token more
  return longer * tiles_of(length + 1, side) + (dilation - longer) * tiles_of(length, side);
}

// The n-th of them: of all groups the tiles that see most come first. With causality those are the last ones; without,
// those in the middle, from where the order goes outwards to both sides.
NA_HOST_DEVICE inline AxisQueries axis_queries(const Axis& axis, int32_t extent, int32_t side, int32_t n) {
  // The tiles that only some groups have, which are one token longer, come behind those that all have.
  const int32_t common = tiles_of(extent / axis.dilation, side), rank = smaller(n / axis.dilation, common);
  AxisQueries queries;
  queries.group = n - rank * axis.dilation;
  queries.length = group_length(extent, axis.dilation, queries.group);
  const int32_t tiles = tiles_of(queries.length, side), middle = (tiles - 1) / 2;
  const int32_t tile = axis.causal ? tiles - 1 - rank : rank % 2 ? middle + (rank + 1) / 2 : middle - rank / 2;
  queries.first = tile << side;
  queries.count = smaller(queries.length - queries.first, 1 << side);
  return queries;
}

// No axis is longer, so that sums of positions stay within 32 bits.
constexpr int32_t kMostExtent = 1 << 29;

// A query tile of a grid.
struct GridQueries {
  AxisQueries axes[kMostAxes];
};

NA_HOST_DEVICE inline int32_t query_tiles(const Grid& grid) {
  int32_t count = 1;
  for (int a = 0; a < kMostAxes; a++) {
    count *= query_tiles(grid.extent[a], grid.neighborhoods[0].axes[a].dilation, grid.query_box[a]);
  }
  return count;
}

// Takes the query tile of an axis off a number.
NA_HOST_DEVICE inline AxisQueries take_queries(const Grid& grid, int axis, int32_t& n) {
  const Axis& along = grid.neighborhoods[0].axes[axis];
  const int32_t count = query_tiles(grid.extent[axis], along.dilation, grid.query_box[axis]), rest = n / count;
  const AxisQueries queries = axis_queries(along, grid.extent[axis], grid.query_box[axis], n - rest * count);
  n = rest;
  return queries;
}

// The n-th query tile: the first ones have most to do.
NA_HOST_DEVICE inline GridQueries grid_queries(const Grid& grid, int32_t n) {
  GridQueries queries;
  for (int a = kMostAxes - 1; a >= 0; a--) queries.axes[a] = take_queries(grid, a, n);
  return queries;
}

NA_HOST_DEVICE inline bool is_grid(const Problem& problem) { return problem.grid.neighborhood_count > 0; }

// Whether windows or further neighborhoods hide what the first neighborhood shows.
NA_HOST_DEVICE inline bool masks_further(const Problem& problem) {
  return is_grid(problem) &&
         (problem.grid.neighborhood_count > 1 || problem.left != kUnlimited || problem.right != kUnlimited);
}

// Where row or column n of a box is.
struct Place {
  int32_t at[kMostAxes];
};
NA_HOST_DEVICE inline Place place_in(const int32_t (&box)[kMostAxes], int32_t n) {
  return {{n >> (box[1] + box[2]), n >> box[2] & ((1 << box[1]) - 1), n & ((1 << box[2]) - 1)}};
}

// Where the token at these coordinates of the tile's groups lies, in elements from the first token.
NA_HOST_DEVICE inline int64_t token_offset(const Grid& grid, const GridQueries& groups,
                                           const int64_t (&strides)[kMostAxes], Place place) {
  int64_t offset = 0;
  for (int a = 0; a < kMostAxes; a++) {
    const int64_t token = groups.axes[a].group + int64_t{grid.neighborhoods[0].axes[a].dilation} * place.at[a];
    offset += token * strides[a];
  }
  return offset;
}

// The key tiles that a query tile visits: first those that all of its queries see whole, which need no mask, then the
// others.
class GridTiles {
 public:
  GridTiles() = default;
  NA_HOST_DEVICE GridTiles(const Grid& grid, const GridQueries& queries, bool masked) {
    for (int a = 0; a < kMostAxes; a++) set(grid, queries, a, masked);
  }

  // One of the axes.
  NA_HOST_DEVICE void set(const Grid& grid, const GridQueries& queries, int axis, bool masked) {
    const AxisQueries& own = queries.axes[axis];
    axes[axis] = AxisTiles(grid.neighborhoods[0].axes[axis], own.length, own.first, own.first + own.count - 1,
                           grid.key_box[axis]);
    masked_ = masked;
  }

  NA_HOST_DEVICE int32_t count() const { return axes[0].count() * axes[1].count() * axes[2].count(); }

  // None where further masks hide keys.
  NA_HOST_DEVICE int32_t full() const { return masked_ ? 0 : full_of(0) * full_of(1) * full_of(2); }

  // The n-th visit, as the visit of each axis: the box of full tiles, then what lies beside it along axis 0, then along
  // axis 1, then along axis 2.
  NA_HOST_DEVICE Place operator[](int32_t n) const {
    const int32_t all[kMostAxes] = {axes[0].count(), axes[1].count(), axes[2].count()};
    const int32_t size[kMostAxes] = {full_of(0), full_of(1), full_of(2)};
    const int32_t box = full();
    if (box == 0) return split(n, all);
    if (n < box) {
      const Place visit = split(n, size);
      return {
          {visit.at[0] + axes[0].full_begin(), visit.at[1] + axes[1].full_begin(), visit.at[2] + axes[2].full_begin()}};
    }
    n -= box;
    const int32_t beside0[kMostAxes] = {all[0] - size[0], all[1], all[2]};
    const int32_t beside1[kMostAxes] = {size[0], all[1] - size[1], all[2]};
    const int32_t beside2[kMostAxes] = {size[0], size[1], all[2] - size[2]};
    const int32_t tiles0 = beside0[0] * all[1] * all[2], tiles1 = size[0] * beside1[1] * all[2];
    Place visit;
    if (n < tiles0) {
      visit = split(n, beside0);
      visit.at[0] = around(0, visit.at[0]);
      return visit;
    }
    if (n < tiles0 + tiles1) {
      visit = split(n - tiles0, beside1);
      visit.at[1] = around(1, visit.at[1]);
    } else {
      visit = split(n - tiles0 - tiles1, beside2);
      visit.at[1] += axes[1].full_begin();
      visit.at[2] = around(2, visit.at[2]);
    }
    visit.at[0] += axes[0].full_begin();
    return visit;
  }

  // The first and one past the last visit of part `part` of `parts`.
  NA_HOST_DEVICE void share(int32_t part, int32_t parts, int32_t* first, int32_t* last) const {
    const int64_t n = count();
    *first = static_cast<int32_t>(n * part / parts);
    *last = static_cast<int32_t>(n * (part + 1) / parts);
  }

  AxisTiles axes[kMostAxes];

 private:
  NA_HOST_DEVICE int32_t full_of(int a) const { return axes[a].full_end() - axes[a].full_begin(); }

  // The n-th visit of an axis that is not full.
  NA_HOST_DEVICE int32_t around(int a, int32_t n) const { return n < axes[a].full_begin() ? n : n + full_of(a); }

  NA_HOST_DEVICE static Place split(int32_t n, const int32_t (&sizes)[kMostAxes]) {
    const int32_t rest = n / sizes[2];
    return {{rest / sizes[1], rest % sizes[1], n % sizes[2]}};
  }

  bool masked_ = false;
};

// Coordinates of three axes in the bytes of a word, below 2^7 each. Of columns that are powers of two times rows of a
// box, words may be added up: packed(8 * j + c) is packed(8 * j) + packed(c) for c below 8.
NA_HOST_DEVICE inline uint32_t packed(Place place) {
  return static_cast<uint32_t>(place.at[0] << 16 | place.at[1] << 8 | place.at[2]);
}

// What a query sees of a key tile, as three words that show it for a packed column with five instructions and no
// division: a byte's top bit stays set where its coordinate is not below the lower bound, not above the upper one, or,
// with `flip`, one of both.
struct Sight {
  uint32_t lower, upper, flip;
};

constexpr uint32_t kTopBits = 0x808080;

NA_HOST_DEVICE inline bool sees(const Sight& sight, uint32_t column) {
  return (~(((column + sight.lower) & (sight.upper - column)) ^ sight.flip) & kTopBits) == 0;
}

// Adds what a query with this window sees of the axis's visit n.
NA_HOST_DEVICE inline void look(Sight& sight, const AxisTiles& tiles, Interval window, int32_t n, int32_t side,
                                int axis) {
  const int32_t at = tiles.position(n), shift = 8 * (kMostAxes - 1 - axis), most = 1 << side;
  Interval seen = {window.begin - at, window.end - at};
  uint32_t flip = 0;
  if (tiles.around() && window.end > tiles.length()) {  // a hole
    seen = {window.end - tiles.length() - at, window.begin - at};
    flip = 0x80;
  }
  seen = {clamp(seen.begin, 0, most), clamp(seen.end, 0, most)};
  sight.lower |= static_cast<uint32_t>(0x80 - seen.begin) << shift;
  sight.upper |= static_cast<uint32_t>(0x80 + seen.end - 1) << shift;
  sight.flip |= flip << shift;
}

// Which columns of a key tile exist, as one word for a packed column.
NA_HOST_DEVICE inline uint32_t last_columns(const GridTiles& tiles, Place visit) {
  uint32_t last = kTopBits;
  for (int a = 0; a < kMostAxes; a++) {
    last += static_cast<uint32_t>(tiles.axes[a].keys(visit.at[a]) - 1) << 8 * (kMostAxes - 1 - a);
  }
  return last;
}
NA_HOST_DEVICE inline bool exists(uint32_t last, uint32_t column) { return (~(last - column) & kTopBits) == 0; }

// The columns of a key tile that some query sees. No other may have any influence: their values are to be zeroed, since
// a weight of 0 does not undo a NaN.
struct Used {
  Sight sight;
  uint32_t last;
};
NA_HOST_DEVICE inline Used used_columns(const Grid& grid, const GridTiles& tiles, Place visit) {
  Used used = {{}, last_columns(tiles, visit)};
  for (int a = 0; a < kMostAxes; a++) {
    look(used.sight, tiles.axes[a], tiles.axes[a].reach(), visit.at[a], grid.key_box[a], a);
  }
  return used;
}
NA_HOST_DEVICE inline bool uses(const Used& used, uint32_t column) {
  return sees(used.sight, column) && exists(used.last, column);
}

}  // namespace na::cuda
