#include "core/pooling.h"

namespace na {
namespace {

class PoolOperation final : public Operation {
 public:
  // Of pages where there is a cache.
  PoolOperation(const na_pool& pool, Ref<Summaries> summaries, Ref<CacheView> cache)
      : Operation(NA_OP_POOL), pool_(pool), summaries_(std::move(summaries)), cache_(std::move(cache)) {
    finish();
  }
  PoolOperation(const PoolOperation& other)
      : Operation(other), pool_(other.pool_), summaries_(other.summaries_), cache_(other.cache_) {
    finish();
  }

  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(pool_.k), false);
    if (cache_) {
      cache_->each_tensor([&](Tensor* tensor) { visit(context, tensor, false); });
    }
    summaries_->each_tensor([&](Tensor* tensor, bool written) { visit(context, tensor, written); });
  }
  Operation* clone() const override { return new PoolOperation(*this); }

 private:
  void** workspace() override { return &pool_.workspace; }
  void finish() {
    pool_.out = summaries_->view();
    pool_.first = summaries_->first();
    args = &pool_;
    retain_tensors();
  }
  na_pool pool_;
  const Ref<Summaries> summaries_;
  const Ref<CacheView> cache_;
};

}  // namespace

int64_t token_count(const na_tensor& view) {
  int64_t count = 1;
  for (int axis = 1; axis < view.rank - 2; axis++) count *= view.shape[axis];
  return count;
}

Status check_rows(const char* name, const Tensor& tensor) {
  const na_tensor& view = tensor.view;
  if (view.rank < 4 || view.rank > 3 + NA_MAX_AXES) {
    return error(NA_ERR_SHAPE,
                 "%s has shape %s; expected [batch, tokens..., heads, headDim] with one to three token axes", name,
                 shape_text(view).c_str());
  }
  if (!dtype_is_float(view.dtype)) {
    return error(NA_ERR_DTYPE, "%s is %s; selectors take float32, float16 or bfloat16", name, dtype_name(view.dtype));
  }
  if (tensor.elements() == 0 || token_count(view) > kMostPooledTokens) {
    return error(NA_ERR_SHAPE, "%s has shape %s; selectors need 1 to %lld tokens", name, shape_text(view).c_str(),
                 static_cast<long long>(kMostPooledTokens));
  }
  if (view.stride[view.rank - 1] != 1 && view.shape[view.rank - 1] > 1) {
    return error(NA_ERR_SHAPE, "%s has stride %lld on its last axis; it must be 1: copy it with to()", name,
                 static_cast<long long>(view.stride[view.rank - 1]));
  }
  return {};
}

void Summaries::add_segments(Ref<PageTable> table, int64_t first, int64_t count) {
  tables_.push_back(table ? table->entries() : nullptr);
  held_.push_back(std::move(table));
  first_.push_back(first);
  segments_.push_back(count);
}

void Summaries::keep_segments(int64_t blocks, const std::vector<Ref<Tensor>>& slabs, bool written,
                              const Ref<Tensor>& device_tables) {
  slabs_ = slabs;
  written_ = written;
  device_tables_ = device_tables;
  view_.segment_blocks = blocks;
  view_.tables = tables_.data();
  view_.segments = segments_.data();
  view_.device_tables = device_tables_ ? &device_tables_->view : nullptr;
}

Status pool(Tensor* tokens, const SummarySpec& spec, Submission* call, Ref<Summaries>* summaries) {
  const na_tensor& view = tokens->view;
  const int64_t blocks = (token_count(view) + spec.block - 1) / spec.block;
  const int64_t features = spec.features(view.shape[view.rank - 1]);
  Ref<Tensor> rest;
  NA_TRY(Tensor::allocate(tokens->device(), spec.dtype, {view.shape[0], blocks, view.shape[view.rank - 2], features},
                          false, false, &rest));
  *summaries = Ref<Summaries>(new Summaries(std::move(rest)));
  na_pool pool{};
  pool.pooling = spec.pooling;
  pool.block = static_cast<int32_t>(spec.block);
  pool.k = &view;
  call->add(new PoolOperation(pool, *summaries, {}));
  return {};
}

void pool_cache(const Ref<CacheView>& cache, bool values, const SummarySpec& spec, const Ref<Summaries>& summaries,
                Submission* call) {
  na_pool pool{};
  pool.pooling = spec.pooling;
  pool.block = static_cast<int32_t>(spec.block);
  pool.k = &(values ? cache->v() : cache->k())->view;
  pool.pages = &cache->pages();
  pool.page_offset = values ? cache->pages().value_offset : 0;
  call->add(new PoolOperation(pool, summaries, cache));
}

}  // namespace na
