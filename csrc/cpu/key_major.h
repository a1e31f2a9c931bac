// A sparse plan whose queries see blocks of their own, by blocks of keys: which queries of a run see each of them.
// Where a tile of queries lists many blocks that few of it see, as when each query selects for itself, it is those
// queries that a block of keys is multiplied by.
#pragma once

#include <vector>

#include "core/plan_entry.h"

namespace na::cpu {

// Of the pairs of query and listed block, the share where the query sees the block. 1 where a bitmap shows a query some
// keys of a block and not the others: such a plan has no other order.
double seen_share(const na_plan& plan);

class KeyMajor {
 public:
  // Of the rows of one pattern [first, end), whose first row is `row` among all.
  KeyMajor(const PlanReader& reader, int64_t row, int64_t first, int64_t end);

  // Blocks that any query sees, ascending, and the queries that do, ascending. (A row that lists a block twice, which
  // only words that are no plan's do, has queries twice, whose sums are wrong.)
  int64_t count() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t block(int64_t index) const { return blocks_[static_cast<size_t>(index)]; }
  const int32_t* queries(int64_t index) const { return queries_.data() + begin_[static_cast<size_t>(index)]; }
  int64_t query_count(int64_t index) const {
    return begin_[static_cast<size_t>(index) + 1] - begin_[static_cast<size_t>(index)];
  }

 private:
  std::vector<int64_t> blocks_, begin_;
  std::vector<int32_t> queries_;
};

}  // namespace na::cpu
