#include "core/key_graph.h"

#include <algorithm>

namespace na {
namespace {

using Count = long long;

constexpr int64_t kMostDegree = 256, kMostEffort = int64_t{1} << 30;
constexpr int64_t kNearest = 200;                   // keys of a sample query
constexpr int64_t kMostNearest = int64_t{1} << 31;  // of all sample queries of a key head
constexpr int64_t kLeastTail = 1024,
                  kTailShare = 16;  // keys that are scored themselves: so many, or 1/16 of the graph's

class LinkOperation final : public Operation {
 public:
  LinkOperation(Ref<CacheView> cache, Tensor* samples, Tensor* nearest, Tensor* products, Ref<KeyGraphView> made,
                std::vector<int64_t> kept)
      : Operation(NA_OP_LINK), cache_(std::move(cache)), made_(std::move(made)), kept_(std::move(kept)) {
    link_.k = &cache_->k()->view;
    link_.pages = cache_->pages();
    link_.queries = &samples->view;
    link_.nearest = &nearest->view;
    link_.products = &products->view;
    link_.kept = kept_.data();
    link_.graph = made_->graph();
    args = &link_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    for (const Ref<Tensor>& slab : cache_->slabs()) visit(context, slab.get(), false);
    visit(context, Tensor::of(link_.queries), false);
    visit(context, Tensor::of(link_.nearest), true);
    visit(context, Tensor::of(link_.products), true);
    for (const Ref<Tensor>& links : made_->links()) {
      if (links) visit(context, links.get(), true);
    }
  }
  // Only graphs clone, and none has caches.
  Operation* clone() const override { return nullptr; }

 private:
  void** workspace() override { return &link_.workspace; }

  const Ref<CacheView> cache_;
  const Ref<KeyGraphView> made_;
  const std::vector<int64_t> kept_;
  na_link link_{};
};

Status check_samples(const Tensor& queries, const KvCache& cache) {
  const na_tensor& view = queries.view;
  const CacheShape& s = cache.shape;
  if (view.rank != 4 || (view.shape[0] != 1 && view.shape[0] != s.batch) || view.shape[1] < 1 || view.shape[2] < 1 ||
      view.shape[2] % s.kv_heads != 0 || view.shape[3] != s.head_dim) {
    return error(NA_ERR_SHAPE,
                 "KvIndex: queries has shape %s; it must be [%lld or 1, n, heads, %lld], n at least 1 and heads a "
                 "multiple of %lld",
                 shape_text(view).c_str(), Count(s.batch), Count(s.head_dim), Count(s.kv_heads));
  }
  if (view.dtype != s.dtype) {
    return error(NA_ERR_DTYPE, "KvIndex: queries is %s but the cache is %s; convert it with to()",
                 dtype_name(view.dtype), dtype_name(s.dtype));
  }
  if (queries.device() != cache.device) {
    return error(NA_ERR_DEVICE, "KvIndex: queries is on %s but the cache is on %s; move it with to()",
                 queries.device()->name.c_str(), cache.device->name.c_str());
  }
  const int64_t most = (kMostNearest - 1) / kNearest / (view.shape[2] / s.kv_heads);
  if (view.shape[1] > most) {
    return error(NA_ERR_OPTION, "KvIndex: queries has %lld tokens; at most %lld are possible with %lld heads",
                 Count(view.shape[1]), Count(most), Count(view.shape[2]));
  }
  return {};
}

}  // namespace

void KeyGraphView::add(const Ref<Tensor>& links, int64_t count) {
  links_.push_back(links);
  views_.push_back(links ? &links->view : nullptr);
  counts_.push_back(count);
}

Status check_index_device(const KvCache& cache) {
  if (cache.page_device->host) return {};
  return error(NA_ERR_OPTION,
               "KvIndex: the CPU searches keys in memory of the host, but the cache is on %s: make it with resident: { "
               "window }, which keeps its pages in pinned memory, or on device 'cpu'",
               cache.device->name.c_str());
}

Status KeyGraph::create(KvCache* cache, Tensor* queries, const KeyGraphShape& shape, Stream* stream,
                        Ref<KeyGraph>* graph) {
  NA_TRY(check_index_device(*cache));
  const struct {
    const char* name;
    int64_t value, most;
  } counts[] = {{"degree", shape.degree, kMostDegree}, {"effort", shape.effort, kMostEffort}};
  for (const auto& count : counts) {
    if (count.value >= 1 && count.value <= count.most) continue;
    return error(NA_ERR_OPTION, "KvIndex: %s is %lld; it must be in 1 ... %lld", count.name, Count(count.value),
                 Count(count.most));
  }
  NA_TRY(check_samples(*queries, *cache));
  if (stream->capturing()) {
    return error(NA_ERR_OPTION, "capture: a KvIndex of method 'graph' cannot be made in it yet; make it outside");
  }
  NA_TRY(stream->room());
  Ref<Tensor> samples;
  NA_TRY(Tensor::allocate(cache->page_device, queries->view.dtype, shape_of(queries->view), cache->shape.resident.any(),
                          false, &samples));
  NA_TRY(stream->run(new CopyOperation(queries, samples.get())));
  *graph = Ref<KeyGraph>(new KeyGraph(shape, std::move(samples), static_cast<size_t>(cache->shape.batch)));
  return {};
}

Status KeyGraph::begin(KvCache* cache, Stream* stream) {
  if (nearest_) return {};
  const CacheShape& s = cache->shape;
  na_tensor all = samples_->view;
  if (all.shape[0] != s.batch) all.stride[0] = 0;
  all.shape[0] = s.batch;
  const Shape lists{s.batch, s.kv_heads, all.shape[1] * (all.shape[2] / s.kv_heads), kNearest};
  Ref<Tensor> nearest, products, rotated;
  NA_TRY(Tensor::allocate(cache->page_device, NA_INT32, lists, false, false, &nearest));
  NA_TRY(Tensor::allocate(cache->page_device, NA_FLOAT32, lists, false, false, &products));
  const Ref<Tensor> wide(new Tensor(all, samples_->storage));
  Submission rotation(stream);
  NA_TRY(cache->rotate_queries(wide.get(), &rotation, &rotated));
  NA_TRY(rotation.run());
  samples_ = std::move(rotated);
  nearest_ = std::move(nearest);
  products_ = std::move(products);
  return {};
}

Status KeyGraph::follow(KvCache* cache, const Ref<CacheView>& cached, Watermark* mark, Stream* stream) {
  const std::vector<int64_t> lengths = cache->lengths();
  const Ref<KeyGraphView> made(new KeyGraphView(shape.degree));
  std::vector<int64_t> kept;
  bool any = false;
  for (size_t b = 0; b < sequences_.size(); b++) {
    kept.push_back(std::min(sequences_[b].count, mark->tokens[b]));
    Ref<Tensor> links;
    if (lengths[b] - kept[b] > std::max(kLeastTail, kept[b] / kTailShare)) {
      const Shape rows{cache->shape.kv_heads, lengths[b] + 1, shape.degree};
      NA_TRY(Tensor::allocate(cache->page_device, NA_INT32, rows, false, false, &links));
      any = true;
    }
    made->add(links, lengths[b]);
  }
  if (any) {
    NA_TRY(begin(cache, stream));
    NA_TRY(stream->run(new LinkOperation(cached, samples_.get(), nearest_.get(), products_.get(), made, kept)));
  }
  for (size_t b = 0; b < sequences_.size(); b++) {
    const Ref<Tensor>& links = made->links()[b];
    sequences_[b].count = links ? lengths[b] : kept[b];
    if (links) sequences_[b].links = links;
  }
  mark->tokens = lengths;
  return {};
}

Ref<KeyGraphView> KeyGraph::view() const {
  Ref<KeyGraphView> made(new KeyGraphView(shape.degree));
  for (const Sequence& sequence : sequences_) made->add(sequence.links, sequence.count);
  return made;
}

int64_t KeyGraph::bytes() const {
  int64_t sum = samples_->storage->bytes;
  if (nearest_) sum += nearest_->storage->bytes + products_->storage->bytes;
  for (const Sequence& sequence : sequences_) {
    if (sequence.links) sum += sequence.links->storage->bytes;
  }
  return sum;
}

}  // namespace na
