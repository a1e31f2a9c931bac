// What stands for the keys, or the values, of a block: their mean, their extremes.
#pragma once

#include "core/kv_cache.h"
#include "core/submission.h"

namespace na {

constexpr int64_t kMostPooledTokens = int64_t{1} << 30;

int64_t token_count(const na_tensor& view);  // of [batch, tokens..., heads, headDim]

// Refuses what is not [batch, tokens..., heads, headDim] with a last axis of stride 1.
Status check_rows(const char* name, const Tensor& tensor);

struct SummarySpec {
  na_pooling pooling = NA_POOL_MEAN;
  int64_t block = 0;           // tokens
  int32_t dtype = NA_FLOAT32;  // or that of the tokens

  int64_t features(int64_t columns) const { return pooling == NA_POOL_BOUNDS ? 2 * columns : columns; }
};

// Summaries as operations see them, with all that they lie in.
class Summaries : public RefCounted {
 public:
  explicit Summaries(Ref<Tensor> rest) : rest_(std::move(rest)) { view_.rest = &rest_->view; }

  const na_summaries& view() const { return view_; }

  // What a cache keeps: for each sequence a table with `count` segments, of which the first ones are there already.
  void add_segments(Ref<PageTable> table, int64_t first, int64_t count);
  // To be called once all have been added. `written`: any of them are to be made. `device_tables`: see na_summaries.
  void keep_segments(int64_t blocks, const std::vector<Ref<Tensor>>& slabs, bool written,
                     const Ref<Tensor>& device_tables);
  const std::vector<Ref<PageTable>>& tables() const { return held_; }
  const int64_t* first() const { return view_.segments ? first_.data() : nullptr; }

  // Every tensor, and whether making the summaries writes it.
  template <class Visit>
  void each_tensor(const Visit& visit) const {
    visit(rest_.get(), true);
    for (const Ref<Tensor>& slab : slabs_) visit(slab.get(), written_);
    if (device_tables_) visit(device_tables_.get(), false);
  }

 private:
  const Ref<Tensor> rest_;
  std::vector<Ref<PageTable>> held_;
  std::vector<void* const*> tables_;
  std::vector<int64_t> first_, segments_;
  std::vector<Ref<Tensor>> slabs_;
  Ref<Tensor> device_tables_;
  bool written_ = false;
  na_summaries view_{};
};

// Of `tokens`, [batch, tokens..., heads, headDim] of any strides.
Status pool(Tensor* tokens, const SummarySpec& spec, Submission* call, Ref<Summaries>* summaries);

// Of the keys or the values of a cache, into `summaries`.
void pool_cache(const Ref<CacheView>& cache, bool values, const SummarySpec& spec, const Ref<Summaries>& summaries,
                Submission* call);

}  // namespace na
