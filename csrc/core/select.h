// Selectors: sparse plans made from queries and keys.
#pragma once

#include "core/kv_cache.h"
#include "core/sparse_plan.h"

namespace na {

// What the stages of hipPlan() have kept, for calls whose keys only grow, as in decoding: stage i runs anew in every
// refresh[i]-th call, and whenever an earlier one does. In between the window reaches back to where it began when all
// stages ran, so that whatever was appended since is in it: as far as for the sequence of a cache that grew most.
class HipState : public RefCounted {
 public:
  // One number for each stage, at least 1.
  explicit HipState(std::vector<int64_t> refresh) : refresh_(std::move(refresh)), runs_(refresh_.size()) {}
  // How often each stage has run.
  const std::vector<int64_t>& runs() const { return runs_; }

 private:
  friend class HipStep;
  const KvCache* cache() const;                       // null if there is none, or none any more
  bool lost(const std::vector<int64_t>& keys) const;  // keys of the last call, which now has so many
  const std::vector<int64_t> refresh_;
  std::vector<int64_t> runs_;
  std::vector<int64_t> call_;        // what the calls so far had in common
  int64_t calls_ = 0;                // since all stages ran anew because of other calls
  std::vector<int64_t> keys_;        // in the last call: of all sequences, or of each sequence of a cache
  std::vector<int64_t> first_keys_;  // when all stages ran last
  Ref<Watermark> mark_;              // of the cache, if the calls were of one
  Ref<Tensor> kept_;
  std::vector<int64_t> rooms_;  // of kept_, for each stage
};

struct SelectArguments {
  na_selector selector = NA_SELECT_HIP;
  Tensor *q = nullptr, *k = nullptr;
  KvCache* cache = nullptr;  // instead of k
  PlanGeometry geometry;     // heads: patterns; batch, queries and keys are those of the tensors, but for `pooled`
  int64_t sink = 0, window = 0;
  std::vector<int64_t> budgets;      // keys: one number, or one for each pattern
  std::vector<int64_t> levels;       // POOLED: keys beyond the budget that count by means of 2, 4, 8 ...
  std::vector<int64_t> chunk, keep;  // HIP: of each stage; keep may be empty, or 0
  bool first = false;                // the first key of a range stands for it
  HipState* state = nullptr;         // HIP
  na_pooling pooling = NA_POOL_MEAN;
  int64_t query_pooling = -1;  // na_select
  bool per_query = false;      // POOLED: queries of a row select for themselves
  bool pooled = false;  // POOLED: q and k are [batch, tiles or blocks, heads, features] of the queries and keys that
                        // the geometry says
  double scale = 0, top_p = 1, threshold = 0;
};

Status select(const SelectArguments& arguments, Stream* stream, Ref<SparsePlan>* plan);

}  // namespace na
