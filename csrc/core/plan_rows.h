// Which blocks of a row of a selected plan are there whatever the scores are, and which may be chosen from.
#pragma once

#include "core/plan_entry.h"

namespace na {

struct BlockRange {
  int64_t begin, end;
};

class SelectedRow {
 public:
  // The blocks of the first `sink` keys and of the last `window` up to each query's own; on both sides of it where
  // there is no causality.
  NA_HOST_DEVICE SelectedRow(const PlanShape& shape, int64_t tile, int64_t sink, int64_t window) {
    const int64_t visible = shape.visible_blocks(tile), block = shape.key_block, shift = shape.keys - shape.queries;
    const int64_t first = shape.first_query(tile) + shift, last = shape.end_query(tile) - 1 + shift;
    const auto clip = [&](int64_t at) { return at < 0 ? 0 : at > visible ? visible : at; };
    const int64_t sink_end = clip(sink > shape.keys ? visible : (sink + block - 1) / block);
    int64_t begin = visible, end = visible;
    if (window > 0) {
      const int64_t from = first - window + 1, to = shape.causal ? last + 1 : last + window;
      begin = clip(from < 0 ? 0 : from / block);
      end = clip(to < 0 ? 0 : (to + block - 1) / block);
      if (end < begin) end = begin;
    }
    if (begin < sink_end) begin = sink_end;
    if (end < begin) end = begin;
    always[0] = {0, sink_end};
    always[1] = {begin, end};
    open[0] = {sink_end, begin};
    open[1] = {end, visible};
  }

  NA_HOST_DEVICE int64_t always_count() const { return size(always[0]) + size(always[1]); }
  NA_HOST_DEVICE int64_t open_count() const { return size(open[0]) + size(open[1]); }

  // The index-th block that may be chosen.
  NA_HOST_DEVICE int64_t open_block(int64_t index) const {
    return index < size(open[0]) ? open[0].begin + index : open[1].begin + index - size(open[0]);
  }
  // Whether any of the blocks [begin, end) may be.
  NA_HOST_DEVICE bool any_open(int64_t begin, int64_t end) const {
    for (const BlockRange& range : open) {
      if (begin < range.end && end > range.begin && range.begin < range.end) return true;
    }
    return false;
  }

  // How many it lists at most, of which `budget` are chosen.
  NA_HOST_DEVICE int64_t most(int64_t budget) const {
    const int64_t open_blocks = open_count();
    return always_count() + (open_blocks < budget ? open_blocks : budget);
  }

  BlockRange always[2], open[2];  // together all that are visible

 private:
  NA_HOST_DEVICE static int64_t size(const BlockRange& range) { return range.end - range.begin; }
};

// As if each query had a row of its own.
NA_HOST_DEVICE inline PlanShape single_queries(PlanShape shape) {
  shape.query_tile = 1;
  return shape;
}

constexpr int64_t kWordsOfBitmap = 2;  // of an entry with a bitmap

// How many blocks a row lists at most whose queries select for themselves, by what any one of them can list: whoever
// counts the rows of a plan has no time to look at each query.
NA_HOST_DEVICE inline int64_t room_of_queries(const PlanShape& shape, int64_t tile, int64_t sink, int64_t window,
                                              int64_t budget) {
  const int64_t block = shape.key_block, visible = shape.visible_blocks(tile);
  const auto at_most_all = [&](int64_t blocks) { return blocks < visible ? blocks : visible; };
  // Consecutive keys touch most blocks when the first of them is the last of its block.
  const int64_t keys = shape.causal ? window : 2 * window - 1;
  const int64_t touched = window > 0 ? (keys + block - 2) / block + 1 : 0;
  const int64_t each = at_most_all((sink + block - 1) / block + touched + budget);
  return at_most_all((shape.end_query(tile) - shape.first_query(tile)) * each);
}

// Whether all queries of a tile who may see any key of a block are among `queries`, a bit for each.
NA_HOST_DEVICE inline bool all_see(const PlanShape& shape, int64_t tile, int64_t block, const uint32_t* queries) {
  const int64_t first = shape.first_query(tile), end = shape.end_query(tile);
  for (int64_t query = first; query < end; query++) {
    const int64_t bit = query - first;
    if (!(queries[bit / 32] >> bit % 32 & 1) && shape.visible_keys(query) > block * shape.key_block) return false;
  }
  return true;
}

}  // namespace na
