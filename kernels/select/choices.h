// What a row of a plan chooses from, and by what: one step of a selector.
//
// A row's choices are numbered from 0 on. Those of a later step are the parts of what the one before has chosen, a list
// in memory; a part that cannot be chosen keeps its number and has no score. So nobody counts them on the host, and
// memory is allocated for the most that there may be.
#pragma once

#include "core/plan_rows.h"
#include "select/cut.h"
#include "select/element.h"

namespace na::cuda {

// For each row how many chunks or nodes it has chosen, at most `room` of them, and then their first keys or their ends.
struct Lists {
  int32_t* data;  // nullptr: there are none
  int64_t pitch;
  int32_t room;
};

struct Selection {
  PlanShape plan;
  PlanShape shape;   // of the rows below: those of the plan, or where its queries select for themselves one for each
  bool all_queries;  // but these are rows of the plan whose queries do
  int32_t selector;
  int64_t sink, window;
  int32_t patterns, tiles, block;  // block: the exponent of key_block
  const int32_t* budgets;          // of each pattern
  Cut* cuts;                       // of each row what top_p and threshold allow; nullptr: all that the budget does
  int32_t level_budgets[NA_LEVELS], by_levels;  // by_levels: the sum of these; 0: there are no levels
  float scale, top_p, threshold;

  ElementRows q, k;   // k: keys, or what was pooled of them
  Pages pages;        // of a cache: keys unless they were pooled, and how many there are. Without tables: there is none
  Segments segments;  // of what was pooled, before k
  bool bounds, first, tile_queries;
  int32_t heads, group, columns, features;  // heads: of a pattern; features: of k
  float* queries;                           // [rows, heads, queries_room, pitch], what is compared with k
  int32_t queries_room, pitch, query_pooling;
  uint32_t* scores;  // [rows, scores_room]
  uint32_t* levels;  // [rows, scores_room]: which level a choice gets; nullptr: there are none
  int64_t scores_room;

  uint32_t* entries;      // where rows are written, each from its place on
  const int32_t* places;  // nullptr: each row has row_words words, of which it fills all
  int64_t row_words;
  int32_t* counts;  // how many entries it got; nullptr: all that it has room for

  // The rows of a launch, whose memory is used again by the next ones.
  int64_t first_row;

  // Where queries select for themselves: by which queries of a row of the plan, a bit for each, a block was chosen.
  uint32_t* seen;  // [rows of a launch, blocks, words]; nullptr: they do not
  int32_t words;
  int64_t first_plan_row;

  // The step: queries whose mean stands for them; of HIP the exponents of the keys in a chunk, and of the chunks that
  // one of the step before becomes.
  int32_t together, chunk, ratio;
  int64_t keep_keys, keep_times;  // HIP: keys to keep, or 0: so many for each block of the budget
  Lists from, to;
  bool last;
  int32_t groups;  // blocks of threads that score the choices of a row

  __device__ int64_t key_row(int64_t batch, int64_t token, int64_t head) const {
    if (selector == NA_SELECT_POOLED) return row_in_segments(k, segments, batch, token, head);
    if (!pages.tables) return k.row(batch, token, head);
    return row_in_pages(k, pages, batch, token, head);
  }
  // As if the plan were for the keys of this batch entry alone.
  __device__ PlanShape own_shape(const PlanShape& of, int32_t batch) const {
    return pages.tables ? of.with_keys(cached_keys(pages, batch)) : of;
  }
};

// A row of the plan, or a query that selects for itself.
struct WantedRow {
  int32_t index, tile, pattern, batch;
  int64_t budget;
  PlanShape shape;
  SelectedRow here;
  bool all, searched;  // else nothing is chosen

  __device__ WantedRow(const Selection& a, int64_t local)
      : index(static_cast<int32_t>(a.first_row + local)),
        tile(index % a.tiles),
        pattern(index / a.tiles % a.patterns),
        batch(index / a.tiles / a.patterns),
        budget(a.budgets[pattern]),
        shape(a.own_shape(a.shape, batch)),
        here(shape, tile, a.sink, a.window),
        all((a.all_queries ? shape.visible_blocks(tile) : here.open_count()) <= budget && !a.cuts),
        searched(!all && budget + a.by_levels > 0) {}

  __device__ int64_t keep(const Selection& a) const {
    if (a.selector != NA_SELECT_HIP || a.last) return budget;
    const int64_t keys = a.keep_keys > 0 ? a.keep_keys : budget * a.keep_times;
    return (keys + (int64_t{1} << a.chunk) - 1) >> a.chunk;
  }
  // Rows of q.
  __device__ int32_t first_query(const Selection& a) const {
    return a.tile_queries ? tile : static_cast<int32_t>(a.shape.first_query(tile));
  }
  __device__ int32_t end_query(const Selection& a) const {
    return a.tile_queries ? tile + 1 : static_cast<int32_t>(a.shape.end_query(tile));
  }
  // Of what is compared with keys.
  __device__ int32_t query_count(const Selection& a) const {
    return (end_query(a) - first_query(a) + a.together - 1) / a.together;
  }
};

class Choices {
 public:
  __device__ Choices(const Selection& a, const WantedRow& row, int64_t local)
      : a_(a),
        row_(row),
        list_(a.from.data ? a.from.data + local * a.from.pitch : nullptr),
        limit_(row.shape.visible_keys(row.shape.end_query(row.tile) - 1)) {
    switch (a.selector) {
      case NA_SELECT_HIP:
        count = list_ ? min(list_[0], a.from.room) << a.ratio
                      : static_cast<int32_t>((limit_ + (int64_t{1} << a.chunk) - 1) >> a.chunk);
        break;
      case NA_SELECT_BISECTION: count = static_cast<int32_t>(2 * row.budget); break;
      default: count = static_cast<int32_t>(a.seen ? row.shape.visible_blocks(row.tile) : row.here.open_count());
    }
  }

  int32_t count;

  // Keys of a chunk; else of the blocks that may be chosen, by their number among these. Empty: it cannot be chosen.
  // Where queries select for themselves those of a tile share their numbers: of all blocks.
  __device__ BlockRange operator[](int32_t n) const {
    if (a_.selector == NA_SELECT_HIP) {
      const int64_t part = n & ((1 << a_.ratio) - 1);
      const int64_t at = list_ ? list_[1 + (n >> a_.ratio)] + (part << a_.chunk) : int64_t{n} << a_.chunk;
      const int64_t end = at + (int64_t{1} << a_.chunk);
      if (at < 0 || at >= limit_ || !row_.here.any_open(at >> a_.block, end >> a_.block)) return {0, 0};
      return {at, end < limit_ ? end : limit_};
    }
    if (a_.selector == NA_SELECT_POOLED) return {n, n + 1};
    const BlockRange node = node_of(n / 2);
    const int64_t middle = (node.begin + node.end) / 2;
    if (node.end - node.begin < 2) return n % 2 ? BlockRange{0, 0} : node;
    return n % 2 ? BlockRange{middle, node.end} : BlockRange{node.begin, middle};
  }

  // The block that a choice of the last step is.
  __device__ int64_t block_of(const BlockRange& choice) const {
    if (a_.selector == NA_SELECT_HIP) return choice.begin >> a_.block;
    return a_.seen ? choice.begin : row_.here.open_block(choice.begin);
  }

  // The row of k that stands for a choice: that of its block, or the middle key of one of its blocks.
  __device__ int64_t token_of(const BlockRange& choice) const {
    if (a_.selector == NA_SELECT_POOLED) return row_.here.open_block(choice.begin);
    const int64_t at = a_.first ? choice.begin : (choice.begin + choice.end) / 2;
    const int64_t block = row_.here.open_block(at < choice.end ? at : choice.end - 1);
    return (block * row_.shape.key_block + row_.shape.end_key(block)) / 2;
  }

 private:
  __device__ BlockRange node_of(int64_t node) const {
    if (list_) return {list_[1 + 2 * node], list_[2 + 2 * node]};
    const int64_t open = row_.here.open_count();
    return {node * open / row_.budget, (node + 1) * open / row_.budget};
  }

  const Selection& a_;
  const WantedRow& row_;
  const int32_t* const list_;
  const int64_t limit_;
};

}  // namespace na::cuda
