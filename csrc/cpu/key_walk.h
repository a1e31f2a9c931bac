// The walk of queries through a graph of keys (na_key_graph), to those of the highest scores.
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "cpu/choice.h"
#include "cpu/executor/problem.h"
#include "cpu/job.h"
#include "cpu/page_rows.h"

namespace na::cpu {

using ScoreList = void (*)(const RowList&, const float*, float*);

// The query heads of a key head walk together: what takes time is to read a key, so that one that any of them comes to
// is scored for all. A query keeps in view the best keys that it has met, as many as `effort` says, and goes on from
// the best of them that nobody has gone on from, until there is none.
class KeyWalk {
 public:
  // `memory` is of bytes(retrieve), 64-byte aligned.
  KeyWalk(const na_retrieve& retrieve, const PageRows& keys, ScoreList score, int64_t batch, int64_t kv_head,
          void* memory);
  static int64_t bytes(const na_retrieve& retrieve) { return Layout(retrieve).bytes(); }

  // Among keys [first, end) of the graph. Queries are zero up to a multiple of kStrip columns.
  void run(const float* const* queries, int64_t first, int64_t end, const Cancel& cancel);

  // What is in view of a query at the end, in no order.
  const Choice* found(int64_t query) const { return best(query); }
  int64_t found_count(int64_t query) const { return sizes(query)[0]; }
  int64_t scored() const { return scored_; }

 private:
  // In memory: a bit for each key that was met and for each that somebody went on from, then of
  // each query the numbers of keys that are in view, and of those to go on from, then these.
  struct Layout {
    int64_t words, width, group;
    explicit Layout(const na_retrieve& retrieve);
    int64_t query_choices() const { return 1 + 3 * width; }
    int64_t bytes() const { return 2 * words * 8 + group * query_choices() * static_cast<int64_t>(sizeof(Choice)); }
  };

  Choice* choices(int64_t query) const { return choices_ + query * layout_.query_choices(); }
  int32_t* sizes(int64_t query) const { return reinterpret_cast<int32_t*>(choices(query)); }
  Choice* best(int64_t query) const { return choices(query) + 1; }
  Choice* open(int64_t query) const { return best(query) + layout_.width; }

  bool next(int64_t query, int32_t* key);
  void meet(const int32_t* row, int64_t before_key, int64_t after_key);
  void offer(int64_t query, const Choice& choice);

  const na_retrieve& retrieve_;
  const PageRows& keys_;
  const ScoreList score_;
  const int64_t batch_, kv_head_;
  const Layout layout_;
  uint64_t *met_, *gone_;  // [words]
  Choice* choices_;
  const float* const* queries_ = nullptr;
  int64_t first_ = 0, end_ = 0, scored_ = 0;
};

}  // namespace na::cpu
