#include "core/kv_index.h"

#include <algorithm>
#include <array>

#include "core/merge.h"
#include "core/mirror.h"

namespace na {
namespace {

using Count = long long;

constexpr int64_t kSegmentTokens = 1024;
constexpr int64_t kMostTop = int64_t{1} << 30;

na_mirror mirror_of(const SegmentsView& view, int64_t segment_rows, const MirrorShape& shape) {
  return {segment_rows, shape.block, shape.bounds, shape.clusters, view.tables.data(), view.counts.data()};
}

class ReflectOperation final : public Operation {
 public:
  ReflectOperation(Ref<CacheView> cache, SegmentsView view, std::vector<int64_t> first, int64_t segment_rows,
                   const MirrorShape& shape)
      : Operation(NA_OP_REFLECT), cache_(std::move(cache)), view_(std::move(view)), first_(std::move(first)) {
    reflect_ = {&cache_->k()->view, cache_->pages(), mirror_of(view_, segment_rows, shape), first_.data()};
    args = &reflect_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    for (const Ref<Tensor>& slab : cache_->slabs()) visit(context, slab.get(), false);
    for (const Ref<Tensor>& slab : view_.slabs) visit(context, slab.get(), true);
  }
  // Only graphs clone, and none has caches.
  Operation* clone() const override { return nullptr; }

 private:
  const Ref<CacheView> cache_;
  const SegmentsView view_;
  const std::vector<int64_t> first_;
  na_reflect reflect_{};
};

class AverageOperation final : public Operation {
 public:
  AverageOperation(Ref<CacheView> cache, SegmentsView mirror, SegmentsView means, std::vector<int64_t> first,
                   int64_t segment_rows, const MirrorShape& shape)
      : Operation(NA_OP_AVERAGE),
        cache_(std::move(cache)),
        mirror_(std::move(mirror)),
        means_(std::move(means)),
        first_(std::move(first)) {
    average_ = {&cache_->k()->view, &cache_->v()->view,  cache_->pages(), mirror_of(mirror_, segment_rows, shape),
                first_.data(),      means_.tables.data()};
    args = &average_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    for (const Ref<Tensor>& slab : cache_->slabs()) visit(context, slab.get(), false);
    for (const Ref<Tensor>& slab : mirror_.slabs) visit(context, slab.get(), false);
    for (const Ref<Tensor>& slab : means_.slabs) visit(context, slab.get(), true);
  }
  Operation* clone() const override { return nullptr; }

 private:
  const Ref<CacheView> cache_;
  const SegmentsView mirror_, means_;
  const std::vector<int64_t> first_;
  na_average average_{};
};

class RetrieveOperation final : public Operation {
 public:
  RetrieveOperation(Ref<CacheView> cache, SegmentsView mirror, SegmentsView means, Ref<KeyGraphView> graph,
                    const na_retrieve& retrieve, std::vector<int64_t> tops, int64_t segment_rows,
                    const MirrorShape& shape)
      : Operation(NA_OP_RETRIEVE),
        cache_(std::move(cache)),
        mirror_(std::move(mirror)),
        means_(std::move(means)),
        graph_view_(std::move(graph)),
        tops_(std::move(tops)),
        retrieve_(retrieve) {
    retrieve_.k = &cache_->k()->view;
    retrieve_.v = &cache_->v()->view;
    retrieve_.pages = cache_->pages();
    retrieve_.mirror = mirror_of(mirror_, segment_rows, shape);
    retrieve_.tops = tops_.empty() ? nullptr : tops_.data();
    retrieve_.means = means_.tables.empty() ? nullptr : means_.tables.data();
    if (graph_view_) {
      graph_ = graph_view_->graph();
      retrieve_.graph = &graph_;
    }
    args = &retrieve_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(retrieve_.q), false);
    for (const auto* slabs : {&cache_->slabs(), &mirror_.slabs, &means_.slabs}) {
      for (const Ref<Tensor>& slab : *slabs) visit(context, slab.get(), false);
    }
    if (graph_view_) {
      for (const Ref<Tensor>& links : graph_view_->links()) {
        if (links) visit(context, links.get(), false);
      }
    }
    for (const na_tensor* made : {retrieve_.ids, retrieve_.scores, retrieve_.out, retrieve_.lse, retrieve_.touched}) {
      if (made) visit(context, Tensor::of(made), true);
    }
  }
  Operation* clone() const override { return nullptr; }

 private:
  void** workspace() override { return &retrieve_.workspace; }

  const Ref<CacheView> cache_;
  const SegmentsView mirror_, means_;
  const Ref<KeyGraphView> graph_view_;
  const std::vector<int64_t> tops_;
  na_key_graph graph_{};
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
  NA_TRY(cache.check_queries(q));
  if (view.stride[3] != 1 && view.shape[3] > 1) {
    return error(NA_ERR_SHAPE, "q has stride %lld on its last axis; it must be 1: copy it with to()",
                 Count(view.stride[3]));
  }
  return {};
}

// Numbers of keys for each key head.
Status check_tops(const std::vector<int64_t>& tops, int64_t kv_heads) {
  if (static_cast<int64_t>(tops.size()) != kv_heads) {
    return error(NA_ERR_OPTION,
                 "attend: topK has %zu entries; the cache has %lld key heads: give one number for each, or a single "
                 "one for all",
                 tops.size(), Count(kv_heads));
  }
  for (size_t h = 0; h < tops.size(); h++) {
    if (tops[h] >= 0 && tops[h] <= kMostTop) continue;
    return error(NA_ERR_OPTION, "attend: topK[%zu] is %lld; it must be in 0 ... %lld, or Infinity", h, Count(tops[h]),
                 Count(kMostTop));
  }
  return {};
}

// Whether anything is to be found: nothing is by heads that attend to all keys, or to none beside sink and window
// unless the others are estimated.
bool searches(const RetrieveArguments& a, const std::vector<int64_t>& lengths) {
  if (!a.attend) return true;
  const std::vector<int64_t> tops = a.tops ? *a.tops : std::vector<int64_t>{a.top};
  for (int64_t length : lengths) {
    const int64_t others = length - a.sink - a.window;
    const auto finds = [&](int64_t top) { return top < others && (top > 0 || a.estimate); };
    if (std::any_of(tops.begin(), tops.end(), finds)) return true;
  }
  return false;
}

// retrieve(), as a graph makes it: the index follows its cache with each launch.
class RecordedRetrieve final : public RecordedCall {
 public:
  RecordedRetrieve(KvIndex* index, KvCache* cache, const RetrieveArguments& arguments, const RetrieveResult& into)
      : index_(index), cache_(cache), q_(arguments.q), arguments_(arguments) {
    arguments_.into = into;
  }
  Status check(Growth*) const override { return {}; }
  Status make(Stream* stream) const override {
    RetrieveResult result;
    return index_->retrieve(cache_.get(), arguments_, stream, stream, &result);
  }

 private:
  const Ref<KvIndex> index_;
  const Ref<KvCache> cache_;
  const Ref<Tensor> q_;
  RetrieveArguments arguments_;
};

// What a search writes.
struct Output {
  Ref<Tensor> RetrieveResult::* tensor;
  const na_tensor* na_retrieve::* view;
  int32_t dtype;
  Shape shape;
};

std::array<Output, 2> outputs_of(const RetrieveArguments& a, const CacheShape& s) {
  const int64_t heads = a.q->view.shape[2];
  if (a.attend) {
    return {Output{&RetrieveResult::out, &na_retrieve::out, s.dtype, {s.batch, 1, heads, s.value_dim}},
            Output{&RetrieveResult::lse, &na_retrieve::lse, NA_FLOAT32, {s.batch, 1, heads}}};
  }
  return {Output{&RetrieveResult::ids, &na_retrieve::ids, NA_INT32, {s.batch, heads, a.top}},
          Output{&RetrieveResult::scores, &na_retrieve::scores, NA_FLOAT32, {s.batch, heads, a.top}}};
}

// Attention over the last keys.
Status attend_to_window(KvCache* cache, const RetrieveArguments& a, Submission* call, AttentionResult* result) {
  AttentionArguments near;
  near.q = a.q;
  near.cache = cache;
  near.scale = a.scale;
  near.has_scale = a.has_scale;
  MaskSpec& last_keys = near.masks.emplace_back();
  last_keys.left = a.window - 1;
  last_keys.right = 0;
  return attention(near, call, result);
}

// Has a launch say how many keys there are by then. Its number is written here, since what is recorded is of the CPU.
Status tell_keys(const KvCache& cache, Tensor* keys, Submission* call) {
  Ref<Tensor> now;
  NA_TRY(Tensor::allocate(cache.device, NA_INT64, {1}, false, false, &now));
  int64_t sum = 0;
  for (int64_t length : cache.lengths()) sum += length;
  *static_cast<int64_t*>(now->view.data) = sum * cache.shape.kv_heads;
  call->add(new CopyOperation(now.get(), keys));
  return {};
}

}  // namespace

SegmentsView Segments::view_of(const std::vector<Sequence>& sequences) const {
  SegmentsView view;
  for (const Sequence& sequence : sequences) {
    view.held.push_back(sequence.table);
    view.tables.push_back(sequence.table ? sequence.table->entries() : nullptr);
    view.counts.push_back(static_cast<int64_t>(sequence.pages.size()));
  }
  view.slabs = pool_->slabs();
  return view;
}

void Segments::truncate(size_t b, int64_t count) {
  std::vector<int32_t>& pages = sequences_[b].pages;
  for (; static_cast<int64_t>(pages.size()) > count; pages.pop_back()) pool_->give_back(pages.back());
}

template <class Make>
Status Segments::grow(const std::vector<int64_t>& counts, Stream* stream, const Make& make) {
  std::vector<int64_t> first;
  int64_t missing = 0;
  for (size_t b = 0; b < counts.size(); b++) {
    first.push_back(static_cast<int64_t>(sequences_[b].pages.size()));
    missing += counts[b] - first[b];
  }
  if (missing == 0) return {};
  NA_TRY(pool_->reserve(missing));
  std::vector<Sequence> next = sequences_;
  for (size_t b = 0; b < next.size(); b++) {
    for (int64_t s = first[b]; s < counts[b]; s++) {
      next[b].pages.push_back(pool_->take());
      next[b].table = PageTable::with(next[b].table, s, pool_->address(next[b].pages.back()));
    }
  }
  const Status status = stream->run(make(view_of(next), first));
  if (status.ok()) {
    sequences_ = std::move(next);
    return status;
  }
  for (size_t b = 0; b < next.size(); b++) {
    for (auto s = static_cast<size_t>(first[b]); s < next[b].pages.size(); s++) pool_->give_back(next[b].pages[s]);
  }
  return status;
}

Status KvIndex::create(KvCache* cache, const MirrorShape& shape, Ref<KvIndex>* index) {
  NA_TRY(check_index_device(*cache));
  const char* const size = shape.clusters ? "clusterSize" : "pageSize";
  const int32_t least = shape.clusters ? 4 : 1;
  if (shape.block < least || shape.block > 64 || 64 % shape.block != 0) {
    return error(NA_ERR_OPTION, "KvIndex: %s is %d; it must be a power of two from %d to 64", size, shape.block, least);
  }
  if (!(shape.probe > 0 && shape.probe <= 1)) {
    return error(NA_ERR_OPTION, "KvIndex: probe is %g; it must be above 0 and at most 1", shape.probe);
  }
  if (shape.bounds && (shape.block == 1 || shape.clusters)) {
    return error(NA_ERR_OPTION, "KvIndex: bounds are those of a page of several keys; use a larger pageSize");
  }
  const CacheShape& s = cache->shape;
  const int64_t rows = kSegmentTokens / shape.block;
  const MirrorLayout layout(rows, shape.block, shape.bounds, shape.clusters, s.head_dim);
  const MeansLayout means{rows, s.head_dim, s.value_dim};
  const int64_t most = s.batch * std::max<int64_t>(1, s.capacity / kSegmentTokens);
  const auto segments = [&](int64_t head_bytes) {
    return Segments(Ref<PagePool>(new PagePool(cache->page_device, head_bytes * s.kv_heads, most)),
                    static_cast<size_t>(s.batch));
  };
  Ref<Watermark> mark = cache->watch();
  std::fill(mark->tokens.begin(), mark->tokens.end(), 0);
  *index = Ref<KvIndex>(
      new KvIndex(shape, rows, segments(layout.head_bytes()), segments(means.head_bytes()), std::move(mark)));
  return {};
}

Status KvIndex::create(KvCache* cache, Ref<KeyGraph> graph, Ref<KvIndex>* index) {
  NA_TRY(create(cache, MirrorShape{}, index));
  (*index)->graph_ = std::move(graph);
  return {};
}

Status KvIndex::follow(KvCache* cache, const Ref<CacheView>& view, bool estimate, Stream* stream) {
  for (size_t b = 0; b < mark_->tokens.size(); b++) {
    for (Segments* segments : {&mirror_, &means_}) segments->truncate(b, mark_->tokens[b] / kSegmentTokens);
  }
  std::vector<int64_t> counts = cache->lengths();
  mark_->tokens = counts;
  for (int64_t& count : counts) count /= kSegmentTokens;
  NA_TRY(mirror_.grow(counts, stream, [&](SegmentsView made, std::vector<int64_t> first) {
    return new ReflectOperation(view, std::move(made), std::move(first), segment_rows_, shape_);
  }));
  if (!estimate) return {};
  return means_.grow(counts, stream, [&](SegmentsView made, std::vector<int64_t> first) {
    return new AverageOperation(view, mirror_.view(), std::move(made), std::move(first), segment_rows_, shape_);
  });
}

Status KvIndex::retrieve(KvCache* cache, const RetrieveArguments& a, Stream* stream, Stream* search,
                         RetrieveResult* result) {
  if (mark_->cache != cache) {
    return error(NA_ERR_OPTION, "KvIndex: this is not the cache that the index was made for");
  }
  NA_TRY(stream->check_device(cache->device, "the cache"));
  NA_TRY(search->check_device(cache->page_device, "the memory of the cache"));
  const bool apart = cache->shape.resident.any();
  if (search != stream && (stream->capturing() || search->capturing())) {
    return error(
        NA_ERR_OPTION,
        "capture: a KvIndex over a cache with a resident part works on two devices, which is not recorded: call it "
        "outside");
  }
  NA_TRY(check_query(*a.q, *cache));
  const struct {
    const char* name;
    int64_t value, least;
  } counts[] = {{"topK", a.top, a.attend ? 0 : 1}, {"sink", a.sink, 0}, {"window", a.window, 0}};
  for (const auto& count : counts) {
    if (count.value < count.least || count.value > kMostTop) {
      return error(NA_ERR_OPTION, "KvIndex: %s is %lld; it must be in %lld ... %lld", count.name, Count(count.value),
                   Count(count.least), Count(kMostTop));
    }
  }
  if (a.tops) NA_TRY(check_tops(*a.tops, cache->shape.kv_heads));
  float scale = 0;
  NA_TRY(scale_of(a.has_scale, a.scale, cache->shape.head_dim, &scale));
  if (a.estimate && shape_.block == 1) {
    return error(
        NA_ERR_OPTION,
        "attend: estimate is for the methods 'pages' and 'clusters'; a scan looks at every key, and a graph has "
        "no means, so make an index of one of these");
  }
  for (const Stream* each : {stream, search}) NA_TRY(each->room(RecordedCall::kMostOperations));
  const CacheShape& s = cache->shape;
  const std::array<Output, 2> outputs = outputs_of(a, s);
  const auto make = [&](Device* device, RetrieveResult* into) -> Status {
    for (const Output& output : outputs) {
      Ref<Tensor>& tensor = into->*output.tensor;
      if (!tensor) NA_TRY(Tensor::allocate(device, output.dtype, output.shape, apart && device->host, false, &tensor));
    }
    return {};
  };
  RetrieveResult made = a.into;
  NA_TRY(make(cache->device, &made));
  if (!made.touched) {
    NA_TRY(Tensor::allocate(search->device, NA_INT64, {s.batch, s.kv_heads}, apart, false, &made.touched));
  }
  if (stream->capturing()) {
    // Zero until the first launch.
    if (a.attend) NA_TRY(Tensor::allocate(cache->device, NA_INT64, {1}, false, true, &made.keys));
    stream->record(std::make_unique<RecordedRetrieve>(this, cache, a, made));
    *result = std::move(made);
    return {};
  }
  // What is found where keys are searched, and on the device of the cache, where it may have to be merged yet.
  const bool near = a.attend && a.window > 0;
  RetrieveResult found, there;
  Ref<Tensor> q(a.q);
  if (!near) there = made;
  NA_TRY(make(cache->device, &there));
  if (!apart) found = there;
  NA_TRY(make(search->device, &found));
  if (apart) NA_TRY(Tensor::allocate(search->device, s.dtype, shape_of(a.q->view), true, false, &q));

  // In this order: the search begins as soon as q is there, and the GPU attends to the window before it waits for the
  // search.
  Submission bring(stream), look(search), end(stream);
  if (apart) bring.add(new CopyOperation(a.q, q.get()));
  const Ref<CacheView> cached = cache->view();
  const bool searching = searches(a, cache->lengths());
  if (searching) {
    NA_TRY(graph_ ? graph_->follow(cache, cached, mark_.get(), search) : follow(cache, cached, a.estimate, search));
  }
  Ref<Tensor> rotated;
  NA_TRY(cache->rotate_queries(q.get(), &look, &rotated));
  na_retrieve call{};
  call.q = &rotated->view;
  for (const Output& output : outputs) call.*output.view = &(found.*output.tensor)->view;
  call.touched = &made.touched->view;
  call.sink = a.sink;
  call.window = a.window;
  call.top = a.top;
  call.probe = shape_.probe;
  call.scale = scale;
  SegmentsView means = a.estimate ? means_.view() : SegmentsView{};
  Ref<KeyGraphView> graph;
  if (graph_ && searching) {
    graph = graph_->view();
    call.effort = graph_->shape.effort;
  }
  look.add(new RetrieveOperation(cached, mirror_.view(), std::move(means), std::move(graph), call,
                                 a.tops.value_or(std::vector<int64_t>()), segment_rows_, shape_));
  if (made.keys) NA_TRY(tell_keys(*cache, made.keys.get(), &look));
  AttentionResult last;
  if (near) NA_TRY(attend_to_window(cache, a, &end, &last));
  for (const Output& output : outputs) {
    if (apart) end.add(new CopyOperation((found.*output.tensor).get(), (there.*output.tensor).get()));
  }
  if (near) {
    AttentionResult merged{made.out, made.lse};
    NA_TRY(merge({{there.out.get(), there.lse.get()}, {last.out.get(), last.lse.get()}}, &end, &merged));
  }
  for (Submission* each : {&bring, &look, &end}) NA_TRY(each->prepare());
  for (Submission* each : {&bring, &look, &end}) each->enqueue();
  *result = std::move(made);
  return {};
}

}  // namespace na
