#include "core/kv_index.h"

#include <algorithm>
#include <cmath>

#include "core/mirror.h"

namespace na {
namespace {

using Count = long long;

constexpr int64_t kSegmentTokens = 1024;
constexpr int64_t kMostTop = int64_t{1} << 30;

// What an operation sees of a mirror, from its call on.
struct MirrorView {
  std::vector<Ref<PageTable>> held;
  std::vector<void* const*> tables;
  std::vector<int64_t> segments;
  std::vector<Ref<Tensor>> slabs;

  void add(const Ref<PageTable>& table, int64_t count) {
    held.push_back(table);
    tables.push_back(table ? table->entries() : nullptr);
    segments.push_back(count);
  }
  na_mirror mirror(int64_t segment_rows, const MirrorShape& shape) const {
    return {segment_rows, shape.block, shape.bounds, tables.data(), segments.data()};
  }
};

class ReflectOperation final : public Operation {
 public:
  explicit ReflectOperation(Ref<CacheView> cache) : Operation(NA_OP_REFLECT), cache_(std::move(cache)) {}

  // To be called once view and first are set.
  void finish(int64_t segment_rows, const MirrorShape& shape) {
    reflect_ = {&cache_->k()->view, cache_->pages(), view.mirror(segment_rows, shape), first.data()};
    args = &reflect_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    for (const Ref<Tensor>& slab : cache_->slabs()) visit(context, slab.get(), false);
    for (const Ref<Tensor>& slab : view.slabs) visit(context, slab.get(), true);
  }
  // Only graphs clone, and none has caches.
  Operation* clone() const override { return nullptr; }

  MirrorView view;
  std::vector<int64_t> first;

 private:
  const Ref<CacheView> cache_;
  na_reflect reflect_{};
};

class RetrieveOperation final : public Operation {
 public:
  RetrieveOperation(Ref<CacheView> cache, MirrorView view, const na_retrieve& retrieve, int64_t segment_rows,
                    const MirrorShape& shape)
      : Operation(NA_OP_RETRIEVE), cache_(std::move(cache)), view_(std::move(view)), retrieve_(retrieve) {
    retrieve_.k = &cache_->k()->view;
    retrieve_.v = &cache_->v()->view;
    retrieve_.pages = cache_->pages();
    retrieve_.mirror = view_.mirror(segment_rows, shape);
    args = &retrieve_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(retrieve_.q), false);
    for (const Ref<Tensor>& slab : cache_->slabs()) visit(context, slab.get(), false);
    for (const Ref<Tensor>& slab : view_.slabs) visit(context, slab.get(), false);
    for (const na_tensor* made : {retrieve_.ids, retrieve_.scores, retrieve_.out, retrieve_.lse, retrieve_.touched}) {
      if (made) visit(context, Tensor::of(made), true);
    }
  }
  Operation* clone() const override { return nullptr; }

 private:
  const Ref<CacheView> cache_;
  const MirrorView view_;
  na_retrieve retrieve_;
};

Status check_query(const Tensor& q, const KvCache& cache) {
  const na_tensor& view = q.view;
  const CacheShape& s = cache.shape;
  if (view.rank != 4 || view.shape[0] != s.batch || view.shape[1] != 1 || view.shape[2] < 1 ||
      view.shape[2] % s.kv_heads != 0 || view.shape[3] != s.head_dim) {
    return error(NA_ERR_SHAPE, "q has shape %s; this index takes [%lld, 1, heads, %lld], heads a multiple of %lld",
                 shape_text(view).c_str(), Count(s.batch), Count(s.head_dim), Count(s.kv_heads));
  }
  if (view.dtype != s.dtype) {
    return error(NA_ERR_DTYPE, "q is %s but the cache is %s; convert it with to()", dtype_name(view.dtype),
                 dtype_name(s.dtype));
  }
  if (q.device() != cache.device) {
    return error(NA_ERR_DEVICE, "q is on %s but the cache is on %s; move it with to()", q.device()->name.c_str(),
                 cache.device->name.c_str());
  }
  if (view.stride[3] != 1 && view.shape[3] > 1) {
    return error(NA_ERR_SHAPE, "q has stride %lld on its last axis; it must be 1: copy it with to()",
                 Count(view.stride[3]));
  }
  return {};
}

}  // namespace

Status KvIndex::create(KvCache* cache, const MirrorShape& shape, Ref<KvIndex>* index) {
  if (shape.block < 1 || shape.block > 64 || 64 % shape.block != 0) {
    return error(NA_ERR_OPTION, "KvIndex: pageSize is %d; it must be a power of two from 1 to 64", shape.block);
  }
  if (!(shape.probe > 0 && shape.probe <= 1)) {
    return error(NA_ERR_OPTION, "KvIndex: probe is %g; it must be above 0 and at most 1", shape.probe);
  }
  if (shape.bounds && shape.block == 1) {
    return error(NA_ERR_OPTION, "KvIndex: bounds of a page of one key are that key; use a larger pageSize");
  }
  const int64_t rows = kSegmentTokens / shape.block;
  const MirrorLayout layout{rows, (shape.bounds ? 2 : 1) * cache->shape.head_dim};
  const int64_t most = cache->shape.batch * std::max<int64_t>(1, cache->shape.capacity / kSegmentTokens);
  Ref<PagePool> pool(new PagePool(cache->device, layout.head_bytes() * cache->shape.kv_heads, most));
  Ref<Watermark> mark = cache->watch();
  std::fill(mark->tokens.begin(), mark->tokens.end(), 0);
  *index = Ref<KvIndex>(new KvIndex(shape, rows, std::move(pool), std::move(mark)));
  return {};
}

Status KvIndex::follow(KvCache* cache, const Ref<CacheView>& view, Stream* stream) {
  const std::vector<int64_t> lengths = cache->lengths();
  int64_t missing = 0;
  for (size_t b = 0; b < sequences_.size(); b++) {
    Sequence& sequence = sequences_[b];
    while (static_cast<int64_t>(sequence.segments.size()) > mark_->tokens[b] / kSegmentTokens) {
      pool_->give_back(sequence.segments.back());
      sequence.segments.pop_back();
    }
    missing += lengths[b] / kSegmentTokens - static_cast<int64_t>(sequence.segments.size());
  }
  if (missing == 0) {
    mark_->tokens = lengths;
    return {};
  }
  NA_TRY(pool_->reserve(missing));
  auto* const operation = new ReflectOperation(view);
  std::vector<Sequence> next = sequences_;
  for (size_t b = 0; b < next.size(); b++) {
    Sequence& to = next[b];
    const auto first = static_cast<int64_t>(to.segments.size()), count = lengths[b] / kSegmentTokens;
    for (int64_t s = first; s < count; s++) {
      to.segments.push_back(pool_->take());
      to.table = PageTable::with(to.table, s, pool_->address(to.segments.back()));
    }
    operation->first.push_back(first);
    operation->view.add(to.table, count);
  }
  operation->view.slabs = pool_->slabs();
  operation->finish(segment_rows_, shape_);
  const Status status = stream->run(operation);
  if (!status.ok()) {
    for (size_t b = 0; b < next.size(); b++) {
      for (size_t s = sequences_[b].segments.size(); s < next[b].segments.size(); s++) {
        pool_->give_back(next[b].segments[s]);
      }
    }
    return status;
  }
  sequences_ = std::move(next);
  mark_->tokens = lengths;
  return {};
}

Status KvIndex::retrieve(KvCache* cache, const RetrieveArguments& a, Stream* stream, RetrieveResult* result) {
  if (mark_->cache != cache) {
    return error(NA_ERR_OPTION, "KvIndex: this is not the cache that the index was made for");
  }
  if (stream->device != cache->device) {
    return error(NA_ERR_DEVICE, "stream is on %s but the cache is on %s", stream->device->name.c_str(),
                 cache->device->name.c_str());
  }
  if (stream->capturing()) {
    return error(NA_ERR_OPTION, "capture: a KvIndex cannot be used in it yet; call search and attend outside");
  }
  NA_TRY(check_query(*a.q, *cache));
  const struct {
    const char* name;
    int64_t value, least;
  } counts[] = {{"topK", a.top, 1}, {"sink", a.sink, 0}, {"window", a.window, 0}};
  for (const auto& count : counts) {
    if (count.value < count.least || count.value > kMostTop) {
      return error(NA_ERR_OPTION, "KvIndex: %s is %lld; it must be in %lld ... %lld", count.name, Count(count.value),
                   Count(count.least), Count(kMostTop));
    }
  }
  if (a.has_scale && !std::isfinite(static_cast<float>(a.scale))) {
    return error(NA_ERR_OPTION, "scale is %g; it must be a finite float32 number", a.scale);
  }
  NA_TRY(stream->room(7));  // to attend: what is below, attention over the window, to merge and to read `touched`
  const CacheShape& s = cache->shape;
  const int64_t heads = a.q->view.shape[2];
  na_retrieve call{};
  RetrieveResult made;
  const auto make = [&](int32_t dtype, const Shape& shape, Ref<Tensor>* tensor, const na_tensor** view) -> Status {
    NA_TRY(Tensor::allocate(cache->device, dtype, shape, false, false, tensor));
    *view = &(*tensor)->view;
    return {};
  };
  NA_TRY(make(NA_INT64, {s.batch, s.kv_heads}, &made.touched, &call.touched));
  if (a.attend) {
    NA_TRY(make(s.dtype, {s.batch, 1, heads, s.value_dim}, &made.out, &call.out));
    NA_TRY(make(NA_FLOAT32, {s.batch, 1, heads}, &made.lse, &call.lse));
  } else {
    NA_TRY(make(NA_INT32, {s.batch, heads, a.top}, &made.ids, &call.ids));
    NA_TRY(make(NA_FLOAT32, {s.batch, heads, a.top}, &made.scores, &call.scores));
  }
  const Ref<CacheView> cached = cache->view();
  NA_TRY(follow(cache, cached, stream));
  Ref<Tensor> q;
  NA_TRY(cache->rotate_queries(a.q, stream, &q));
  MirrorView view;
  for (const Sequence& sequence : sequences_) {
    view.add(sequence.table, static_cast<int64_t>(sequence.segments.size()));
  }
  view.slabs = pool_->slabs();
  call.q = &q->view;
  call.sink = a.sink;
  call.window = a.window;
  call.top = a.top;
  call.probe = shape_.probe;
  call.scale = static_cast<float>(a.has_scale ? a.scale : 1.0 / std::sqrt(static_cast<double>(s.head_dim)));
  NA_TRY(stream->run(new RetrieveOperation(cached, std::move(view), call, segment_rows_, shape_)));
  *result = std::move(made);
  return {};
}

}  // namespace na
