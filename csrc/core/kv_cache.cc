#include "core/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/summaries.h"

namespace na {
namespace {

using Count = long long;

constexpr int64_t kMostSequences = 1024, kMostHeads = 1 << 16, kMostHeadDim = 512;
constexpr int64_t kMostTokens = int64_t{1} << 30, kMostPageTokens = int64_t{1} << 20;
constexpr int64_t kAlignment = 64;
constexpr int64_t kLeastSlabBytes = int64_t{1} << 20;
constexpr int64_t kMostSpareBytes = int64_t{1}
                                    << 26;  // of pinned memory, which takes the caller time for each page of it
constexpr int64_t kMostBytes = int64_t{1} << 53;
constexpr int64_t kMostDeviceHeadDim = 256;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Keys of a page, and from there its values.
int64_t value_offset(const CacheShape& s) { return aligned(s.page_tokens * s.kv_heads * s.row_bytes(s.head_dim)); }
int64_t page_bytes(const CacheShape& s) {
  return value_offset(s) + aligned(s.page_tokens * s.kv_heads * s.row_bytes(s.value_dim));
}

// The tokens of k or v from the first one on.
Ref<Tensor> tokens_from(const Tensor& tensor, int64_t first) {
  na_tensor view = tensor.view;
  view.data = static_cast<char*>(view.data) + first * view.stride[1] * dtype_size(view.dtype);
  view.shape[1] -= first;
  return Ref<Tensor>(new Tensor(view, tensor.storage));
}

Status check_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return {};
  return error(NA_ERR_OPTION, "KvCache: %s is %lld; it must be in %lld ... %lld", name, Count(value), Count(least),
               Count(most));
}

class AppendOperation final : public Operation {
 public:
  AppendOperation(Tensor* k, Tensor* v, const std::vector<Ref<Tensor>>& slabs) : Operation(NA_OP_APPEND), slabs(slabs) {
    append_.k = &k->view;
    append_.v = &v->view;
  }

  // To be called once what follows is set.
  void finish(const CacheShape& shape) {
    for (const Ref<PageTable>& table : tables) entries_.push_back(table ? table->entries() : nullptr);
    append_.pages = {shape.page_tokens, value_offset(shape), shape.int8,
                     entries_.data(),   lengths.data(),      device_tables ? &device_tables->view : nullptr};
    append_.counts = counts.data();
    append_.copies = copies.data();
    append_.copy_count = static_cast<int64_t>(copies.size());
    args = &append_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(append_.k), false);
    visit(context, Tensor::of(append_.v), false);
    for (const Ref<Tensor>& slab : slabs) visit(context, slab.get(), true);
    if (device_tables) visit(context, device_tables.get(), false);
  }
  // Only graphs clone, and none has an append.
  Operation* clone() const override { return nullptr; }

  const std::vector<Ref<Tensor>> slabs;
  std::vector<Ref<PageTable>> tables;
  Ref<Tensor> device_tables;
  std::vector<int64_t> lengths, counts;
  std::vector<na_page_copy> copies;

 private:
  na_append append_{};
  std::vector<void* const*> entries_;
};

class CopyRowsOperation final : public Operation {
 public:
  CopyRowsOperation(Tensor* bytes, const std::vector<Ref<Tensor>>& slabs, std::vector<na_row_run> runs,
                    int64_t row_bytes, int64_t pitch, bool write)
      : Operation(NA_OP_COPY_ROWS),
        slabs_(slabs),
        runs_(std::move(runs)),
        copy_{&bytes->view, runs_.data(), static_cast<int64_t>(runs_.size()), row_bytes, pitch, write} {
    args = &copy_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(copy_.bytes), !copy_.write);
    for (const Ref<Tensor>& slab : slabs_) visit(context, slab.get(), copy_.write);
  }
  Operation* clone() const override { return nullptr; }

 private:
  const std::vector<Ref<Tensor>> slabs_;
  const std::vector<na_row_run> runs_;
  const na_copy_rows copy_;
};

class RotateOperation final : public Operation {
 public:
  RotateOperation(Tensor* source, Tensor* target, std::vector<int64_t> first, const RotaryEmbedding& rotary)
      : Operation(NA_OP_ROTATE),
        first_(std::move(first)),
        rotate_{&source->view, &target->view, first_.data(), rotary.theta, rotary.columns, rotary.interleaved} {
    args = &rotate_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(rotate_.src), false);
    visit(context, Tensor::of(rotate_.dst), true);
  }
  Operation* clone() const override { return nullptr; }

 private:
  const std::vector<int64_t> first_;
  const na_rotate rotate_;
};

// append(), as a graph makes it.
class RecordedAppend final : public RecordedCall {
 public:
  RecordedAppend(KvCache* cache, Tensor* k, Tensor* v, const std::vector<int64_t>* counts)
      : cache_(cache), k_(k), v_(v), counts_(counts ? *counts : std::vector<int64_t>()) {}
  Status check(Growth* growth) const override {
    std::vector<int64_t>& added = (*growth)[cache_.get()];
    added.resize(static_cast<size_t>(cache_->shape.batch));
    for (size_t b = 0; b < added.size(); b++) added[b] += counts_.empty() ? k_->view.shape[1] : counts_[b];
    return cache_->check_growth(added);
  }
  Status make(Stream* stream) const override {
    return cache_->append(k_.get(), v_.get(), counts_.empty() ? nullptr : &counts_, stream);
  }

 private:
  const Ref<KvCache> cache_;
  const Ref<Tensor> k_, v_;
  const std::vector<int64_t> counts_;
};

}  // namespace

int64_t CacheShape::row_bytes(int64_t columns) const { return page_row_bytes(dtype, int8, columns); }

Status PagePool::reserve(int64_t pages) {
  const int64_t missing = pages - static_cast<int64_t>(free_.size());
  if (missing <= 0) return {};
  const auto have = static_cast<int64_t>(addresses_.size());
  // Some more than needed, so that slabs stay few, but none that a single cache could not use.
  int64_t more = std::max({have / 4, kLeastSlabBytes / page_bytes_, int64_t{1}});
  if (pinned_) more = std::min(more, std::max(kMostSpareBytes / page_bytes_, int64_t{1}));
  int64_t count = std::max(missing, std::min(more, most_ - have));
  if (have + count > std::numeric_limits<int32_t>::max()) {
    return error(NA_ERR_OUT_OF_MEMORY, "KvCache: %lld pages; at most 2^31 are possible: use a larger pageSize",
                 Count(have + count));
  }
  if (missing > kMostBytes / page_bytes_) {
    return error(NA_ERR_OUT_OF_MEMORY, "KvCache: %lld pages of %s are more than any memory", Count(missing),
                 bytes_text(page_bytes_).c_str());
  }
  count = std::min(count, kMostBytes / page_bytes_);
  if (have < modest_until_ && device_->bytes + count * page_bytes_ > held_when_refused_) count = missing;
  Ref<Tensor> slab;
  Status status = Tensor::allocate(device_, NA_UINT8, {count * page_bytes_}, pinned_, false, &slab);
  if (!status.ok() && count > missing) {
    modest_until_ = have + count;
    held_when_refused_ = device_->bytes;
    count = missing;
    status = Tensor::allocate(device_, NA_UINT8, {count * page_bytes_}, pinned_, false, &slab);
  }
  NA_TRY(status);
  addresses_.reserve(static_cast<size_t>(have + count));
  users_.reserve(static_cast<size_t>(have + count));
  free_.reserve(static_cast<size_t>(have + count));
  char* const data = static_cast<char*>(slab->view.data);
  slabs_.push_back(std::move(slab));
  // The first page is the first to be taken.
  for (int64_t i = 0; i < count; i++) {
    addresses_.push_back(data + i * page_bytes_);
    users_.push_back(0);
    free_.push_back(static_cast<int32_t>(have + count - 1 - i));
  }
  return {};
}

int32_t PagePool::take() {
  const int32_t page = free_.back();
  free_.pop_back();
  users_[page] = 1;
  return page;
}

bool PagePool::failed() const {
  return std::any_of(slabs_.begin(), slabs_.end(), [](const Ref<Tensor>& slab) { return slab->storage->failure(); });
}

Status KvCache::create(Device* device, const CacheShape& shape, Ref<KvCache>* cache) {
  NA_TRY(device->status());
  if (!dtype_is_float(shape.dtype)) {
    return error(NA_ERR_DTYPE, "KvCache: dtype is %s; it must be float32, float16 or bfloat16",
                 dtype_name(shape.dtype));
  }
  NA_TRY(check_range("batch", shape.batch, 1, kMostSequences));
  NA_TRY(check_range("kvHeads", shape.kv_heads, 1, kMostHeads));
  NA_TRY(check_range("headDim", shape.head_dim, 1, kMostHeadDim));
  NA_TRY(check_range("valueDim", shape.value_dim, 1, kMostHeadDim));
  if (!device->host && std::max(shape.head_dim, shape.value_dim) > kMostDeviceHeadDim) {
    return error(NA_ERR_SHAPE, "KvCache: %s is %lld; CUDA takes 1 to %lld, device 'cpu' more",
                 shape.head_dim > kMostDeviceHeadDim ? "headDim" : "valueDim",
                 Count(std::max(shape.head_dim, shape.value_dim)), Count(kMostDeviceHeadDim));
  }
  NA_TRY(check_range("pageSize", shape.page_tokens, 1, kMostPageTokens));
  NA_TRY(check_range("capacity", shape.capacity, 1, kMostTokens));
  const RotaryEmbedding& rotary = shape.rotary;
  if (rotary.theta != 0) {
    if (!std::isfinite(rotary.theta) || rotary.theta <= 0) {
      return error(NA_ERR_OPTION, "KvCache: rope.theta is %g; it must be a finite number above 0", rotary.theta);
    }
    NA_TRY(check_range("rope.dim", rotary.columns, 2, shape.head_dim));
    if (rotary.columns % 2 != 0) {
      return error(NA_ERR_OPTION, "KvCache: rope.dim is %lld; it must be even", Count(rotary.columns));
    }
  }
  const ResidentPart& resident = shape.resident;
  const int64_t pages = (shape.capacity - 1) / shape.page_tokens + 1;
  Device* page_device = device;
  Ref<PagePool> copies;
  if (resident.any()) {
    if (device->host) {
      return error(
          NA_ERR_OPTION,
          "KvCache: resident is the part that a GPU has of a cache in host memory, and all of this one is on the "
          "CPU: leave it out, or use device 'cuda'");
    }
    NA_TRY(check_range("resident.sink", resident.sink, 0, kMostTokens));
    NA_TRY(check_range("resident.window", resident.window, 1, kMostTokens));
    NA_TRY(check_range("resident.pages", resident.pages, 0, kMostTokens));
    NA_TRY(find_device("cpu", &page_device));
    const int64_t most = (resident.sink + shape.page_tokens - 1) / shape.page_tokens +
                         (resident.window + shape.page_tokens - 2) / shape.page_tokens + 1 + resident.pages;
    copies = Ref<PagePool>(new PagePool(device, page_bytes(shape), shape.batch * std::min(most, pages)));
  }
  Ref<PagePool> pool(new PagePool(page_device, page_bytes(shape), shape.batch * pages, resident.any()));
  Ref<Storage> nothing;
  NA_TRY(Storage::allocate(device, 0, false, false, &nothing));
  auto summaries = std::make_unique<CacheSummaries>(device, shape);
  *cache = Ref<KvCache>(new KvCache(device, page_device, shape, std::move(pool), std::move(copies), std::move(nothing),
                                    std::move(summaries)));
  return {};
}

KvCache::KvCache(Device* device, Device* page_device, const CacheShape& shape, Ref<PagePool> pool, Ref<PagePool> copies,
                 Ref<Storage> nothing, std::unique_ptr<CacheSummaries> summaries)
    : device(device),
      page_device(page_device),
      shape(shape),
      pool_(std::move(pool)),
      copies_(std::move(copies)),
      nothing_(std::move(nothing)),
      summaries_(std::move(summaries)),
      sequences_(shape.batch),
      device_tables_(device, shape.batch, shape.page_tokens, shape.capacity) {
  for (Sequence& sequence : sequences_) sequence.room = shape.resident.pages;
}

KvCache::~KvCache() {
  for (const Ref<Watermark>& mark : watermarks_) mark->cache = nullptr;
  for (const Sequence& sequence : sequences_) {
    for (int32_t page : sequence.pages) pool_->give_back(page);
    for (int32_t copy : sequence.copies) {
      if (copy >= 0) copies_->give_back(copy);
    }
  }
}

Status KvCache::check_queries(const Tensor& q) const {
  if (q.view.rank != 4) {
    return error(NA_ERR_SHAPE, "q has shape %s; with a KvCache it is [batch, n, heads, headDim]",
                 shape_text(q.view).c_str());
  }
  if (q.view.dtype != shape.dtype) {
    const char* const wanted = dtype_name(shape.dtype);
    return error(NA_ERR_DTYPE, "q is %s but the cache is %s; convert q with to('%s')", dtype_name(q.view.dtype), wanted,
                 wanted);
  }
  if (q.device() != device) {
    const char* const wanted = device->name.c_str();
    return error(NA_ERR_DEVICE, "q is on %s but the cache is on %s; move q with to('%s')", q.device()->name.c_str(),
                 wanted, wanted);
  }
  return {};
}

Status KvCache::check_tokens(const Tensor& tensor, const char* name, int64_t last_axis) const {
  const na_tensor& view = tensor.view;
  if (view.rank != 4 || view.shape[0] != shape.batch || view.shape[2] != shape.kv_heads || view.shape[3] != last_axis) {
    return error(NA_ERR_SHAPE, "append: %s has shape %s; this cache takes [%lld, n, %lld, %lld]", name,
                 shape_text(view).c_str(), Count(shape.batch), Count(shape.kv_heads), Count(last_axis));
  }
  if (view.dtype != shape.dtype) {
    return error(NA_ERR_DTYPE, "append: %s is %s but the cache is %s; convert it with to()", name,
                 dtype_name(view.dtype), dtype_name(shape.dtype));
  }
  if (tensor.device() != device) {
    return error(NA_ERR_DEVICE, "append: %s is on %s but the cache is on %s; move it with to()", name,
                 tensor.device()->name.c_str(), device->name.c_str());
  }
  if (view.stride[3] != 1 && view.shape[3] > 1) {
    return error(NA_ERR_SHAPE, "append: %s has stride %lld on its last axis; it must be 1: copy it with to()", name,
                 Count(view.stride[3]));
  }
  return {};
}

// What a sequence becomes by an append.
struct KvCache::Growth {
  Ref<PageTable> table;
  int32_t own = -1;  // its copy of what was the last page
  std::vector<int32_t> added;
  std::vector<int64_t> copied;  // pages that got a copy on the device
};

Status KvCache::append(Tensor* k, Tensor* v, const std::vector<int64_t>* counts, Stream* stream) {
  NA_TRY(stream->check_device(device, "the cache"));
  NA_TRY(check_tokens(*k, "k", shape.head_dim));
  NA_TRY(check_tokens(*v, "v", shape.value_dim));
  const int64_t tokens = k->view.shape[1];
  if (v->view.shape[1] != tokens) {
    return error(NA_ERR_SHAPE, "append: k has %lld tokens but v has %lld", Count(tokens), Count(v->view.shape[1]));
  }
  if (counts && static_cast<int64_t>(counts->size()) != shape.batch) {
    return error(NA_ERR_OPTION, "append: lengths has %zu entries for a batch of %lld", counts->size(),
                 Count(shape.batch));
  }
  const size_t batch = sequences_.size();
  std::vector<int64_t> growth(batch, tokens);
  int64_t pages = 0, all = 0;
  for (size_t b = 0; b < batch; b++) {
    if (counts) growth[b] = (*counts)[b];
    if (growth[b] < 0 || growth[b] > tokens) {
      return error(NA_ERR_OPTION, "append: lengths[%zu] is %lld; it must be in 0 ... %lld, the tokens of k", b,
                   Count(growth[b]), Count(tokens));
    }
  }
  if (stream->capturing()) {
    stream->record(std::make_unique<RecordedAppend>(this, k, v, counts));
    return {};
  }
  NA_TRY(check_growth(growth));
  for (size_t b = 0; b < batch; b++) {
    const Sequence& sequence = sequences_[b];
    all += growth[b];
    pages += pages_for(sequence.length + growth[b]) - static_cast<int64_t>(sequence.pages.size());
    if (writes_shared(sequence, growth[b])) pages++;
  }
  if (all == 0) return {};
  std::vector<int64_t> grown = lengths();
  for (size_t b = 0; b < batch; b++) grown[b] += growth[b];
  // All memory is there before anything is changed or enqueued. But copies that the window leaves are dropped first, to
  // make room: where an append is refused then, their pages are read from the host.
  NA_TRY(stream->room(4 + kListing));
  NA_TRY(pool_->reserve(pages));
  NA_TRY(reserve_copies(grown));
  NA_TRY(device_tables_.reserve(grown));
  Ref<Tensor> targets = device_tables_.tensor();
  if (copies_) NA_TRY(allocate_targets(grown, &targets));
  Submission call(stream);
  Ref<Tensor> keys(k);
  if (shape.rotary.theta != 0) NA_TRY(rotate(k, lengths(), &call, &keys));

  auto* const operation = new AppendOperation(keys.get(), v, pool_->slabs());
  std::vector<int64_t> places, values;  // of targets
  std::vector<Growth> next(batch);
  for (size_t b = 0; b < batch; b++) {
    const Sequence& sequence = sequences_[b];
    Growth& to = next[b];
    to.table = sequence.table;
    if (writes_shared(sequence, growth[b])) {
      const int32_t last = sequence.pages.back();
      to.own = pool_->take();
      device_tables_.forget(b, static_cast<int64_t>(sequence.pages.size()) - 1);
      operation->copies.push_back({pool_->address(last), pool_->address(to.own), pool_->page_bytes()});
      to.table = PageTable::with(to.table, static_cast<int64_t>(sequence.pages.size()) - 1, pool_->address(to.own));
    }
    const int64_t count = pages_for(sequence.length + growth[b]);
    for (auto i = static_cast<int64_t>(sequence.pages.size()); i < count; i++) {
      to.added.push_back(pool_->take());
      to.table = PageTable::with(to.table, i, pool_->address(to.added.back()));
    }
    operation->tables.push_back(to.table);
    operation->lengths.push_back(copies_ ? sequence.length % shape.page_tokens : sequence.length);
    operation->counts.push_back(growth[b]);
    if (!copies_ || growth[b] == 0) continue;
    const int64_t first = sequence.length / shape.page_tokens;
    for (int64_t i = first; i < count; i++) {
      places.push_back(static_cast<int64_t>(b) * targets->view.stride[0] + 1 + i - first);
      values.push_back(number_of(to.table->entries()[i]));
    }
  }
  operation->device_tables = targets;
  operation->finish(shape);
  Operation* const copied = copies_ ? append_copies(keys.get(), v, operation->tables, grown, &next) : nullptr;
  if (Operation* list = make_list(operation->tables, grown)) call.add(list);
  if (copied) call.add(new PutOperation(targets.get(), std::move(places), std::move(values)));
  call.add(operation);
  if (copied) call.add(copied);
  const Status status = call.run();
  if (status.ok()) device_tables_.note_listed(grown);
  for (size_t b = 0; b < batch; b++) {
    Sequence& sequence = sequences_[b];
    Growth& to = next[b];
    if (!status.ok()) {
      if (to.own >= 0) pool_->give_back(to.own);
      for (int32_t page : to.added) pool_->give_back(page);
      for (int64_t page : to.copied) drop_copy(b, page);
      if (copies_) sequence.copies.resize(sequence.pages.size());
      continue;
    }
    sequence.table = std::move(to.table);
    if (to.own >= 0) pool_->give_back(std::exchange(sequence.pages.back(), to.own));
    sequence.pages.insert(sequence.pages.end(), to.added.begin(), to.added.end());
    sequence.length += growth[b];
  }
  return status;
}

// A list, for one append, of the pages that it writes to: device_tables_ name copies.
Status KvCache::allocate_targets(const std::vector<int64_t>& grown, Ref<Tensor>* targets) const {
  int64_t most = 0;
  for (size_t b = 0; b < grown.size(); b++) {
    most = std::max(most, pages_for(grown[b]) - sequences_[b].length / shape.page_tokens);
  }
  return Tensor::allocate(device, NA_INT64, {shape.batch, 1 + most}, false, false, targets);
}

Status KvCache::reserve_copies(const std::vector<int64_t>& grown) {
  if (!copies_) return {};
  Ref<Tensor> touched;
  if (touched_ && !touched_->storage->pending()) touched = std::exchange(touched_, {});
  if (touched && touched->storage->failure()) touched = {};
  if (device->bytes <= scarce_above_) {
    for (Sequence& sequence : sequences_) sequence.room = shape.resident.pages;
    scarce_above_ = -1;
  }
  int64_t missing = 0;
  for (size_t b = 0; b < grown.size(); b++) {
    Sequence& sequence = sequences_[b];
    if (grown[b] == sequence.length) continue;
    const auto pages = static_cast<int64_t>(sequence.pages.size());
    choose_recent(b, grown[b], touched.get());
    // Of a page that others have too, the copy is theirs as well.
    if (writes_shared(sequence, grown[b] - sequence.length)) drop_copy(b, pages - 1);
    each_resident(sequence, grown[b], [&](int64_t i) {
      if (i >= pages || sequence.copies[static_cast<size_t>(i)] < 0) missing++;
    });
  }
  const Status status = copies_->reserve(missing);
  int64_t spared = 0;
  for (size_t b = 0; b < grown.size() && !status.ok(); b++) {
    Sequence& sequence = sequences_[b];
    if (grown[b] == sequence.length) continue;
    const size_t wanted = sequence.recent.size();
    drop_recent(&sequence, [&](int64_t page) { return sequence.copies[static_cast<size_t>(page)] < 0; });
    sequence.room = static_cast<int64_t>(sequence.recent.size());
    spared += static_cast<int64_t>(wanted) - sequence.room;
  }
  if (spared == 0) return status;
  scarce_above_ = std::max<int64_t>(0, device->bytes - spared * copies_->page_bytes());
  return copies_->reserve(missing - spared);
}

// What leaves the window counts as needed, since the last tokens mostly are; but what calls touch comes before it.
void KvCache::choose_recent(size_t b, int64_t grown, const Tensor* touched) {
  Sequence& sequence = sequences_[b];
  std::vector<int64_t>& recent = sequence.recent;
  const auto copied = [&](int64_t page) { return sequence.copies[static_cast<size_t>(page)] >= 0; };
  const auto room = static_cast<size_t>(sequence.room);
  const auto pages = static_cast<int64_t>(sequence.pages.size());
  const int64_t sink_end = pages_for(shape.resident.sink), window = window_page(sequence.length);
  const int64_t next_window = std::min(window_page(grown), pages);
  // After a truncation the window has some of them; an append that failed has dropped its copies.
  drop_recent(&sequence, [&](int64_t page) { return page >= window || !copied(page); });
  std::vector<int64_t> left;
  for (int64_t page = next_window - 1; page >= std::max(sink_end, window); page--) {
    if (copied(page)) left.push_back(page);
  }
  recent.insert(recent.begin(), left.begin(), left.end());
  if (touched) {
    const na_tensor& noted = touched->view;  // of a plan that all sequences share it has one row
    const auto* const row =
        static_cast<const uint8_t*>(noted.data) + (noted.shape[0] == 1 ? 0 : static_cast<int64_t>(b)) * noted.stride[0];
    const auto needed = [&](int64_t page) { return page < noted.shape[1] && row[page] != 0; };
    // Those that are there stay first: where calls touch more pages than there is room for, they find the same ones
    // each time, which are no fewer than any other choice would have.
    const auto further = std::stable_partition(recent.begin(), recent.end(), needed);
    std::vector<int64_t> added;
    for (int64_t page = next_window - 1; page >= sink_end && added.size() < room; page--) {
      if (needed(page) && !copied(page)) added.push_back(page);
    }
    recent.insert(further, added.begin(), added.end());
  }
  for (; recent.size() > room; recent.pop_back()) drop_copy(b, recent.back());
}

void KvCache::drop_copy(size_t b, int64_t page) {
  int32_t& copy = sequences_[b].copies[static_cast<size_t>(page)];
  if (copy < 0) return;
  copies_->give_back(std::exchange(copy, -1));
  device_tables_.forget(b, page);
}

// The tokens of the window are written to their copies as to their pages. A copy that lacks tokens before these is made
// of the page as it is by then: so whatever a truncation, a fork or a prefill longer than the window left without a
// copy gets one here. And where a sequence has so many more tokens before its window than another that to write these
// again, to their pages, would take longer, its copies are made of the pages as well.
Operation* KvCache::append_copies(Tensor* k, Tensor* v, const std::vector<Ref<PageTable>>& tables,
                                  const std::vector<int64_t>& grown, std::vector<Growth>* growths) {
  const auto window_begin = [&](size_t b) { return window_page(grown[b]) * shape.page_tokens; };
  const auto before_window = [&](size_t b) {  // of the tokens that are appended
    return std::max<int64_t>(0, window_begin(b) - sequences_[b].length);
  };
  int64_t skipped = k->view.shape[1];  // tokens before the window of every sequence
  for (size_t b = 0; b < grown.size(); b++) {
    if (grown[b] > sequences_[b].length) skipped = std::min(skipped, before_window(b));
  }
  const Ref<Tensor> keys = tokens_from(*k, skipped), values = tokens_from(*v, skipped);
  auto* const operation = new AppendOperation(keys.get(), values.get(), all_slabs());
  for (size_t b = 0; b < grown.size(); b++) {
    Sequence& sequence = sequences_[b];
    const bool grows = grown[b] > sequence.length;
    const bool written = grows && before_window(b) - skipped <= grown[b] - window_begin(b);
    operation->tables.push_back(tables[b]);
    operation->lengths.push_back(sequence.length + skipped);
    operation->counts.push_back(written ? grown[b] - sequence.length - skipped : 0);
    if (!grows) continue;
    const int64_t first = written ? sequence.length + skipped : grown[b];  // that is written
    sequence.copies.resize(static_cast<size_t>(pages_for(grown[b])), -1);
    each_resident(sequence, grown[b], [&](int64_t i) {
      int32_t& copy = sequence.copies[static_cast<size_t>(i)];
      if (copy < 0) {
        copy = copies_->take();
        device_tables_.forget(b, i);
        (*growths)[b].copied.push_back(i);
      } else if (first == sequence.length || i != sequence.length / shape.page_tokens) {
        return;  // it lacks none of the tokens before those
      }
      if (i * shape.page_tokens >= first) return;
      operation->copies.push_back({tables[b]->entries()[i], copies_->address(copy), copies_->page_bytes()});
    });
  }
  operation->device_tables = device_tables_.tensor();
  operation->finish(shape);
  return operation;
}

std::vector<Ref<Tensor>> KvCache::all_slabs() const {
  std::vector<Ref<Tensor>> all = pool_->slabs();
  if (copies_) all.insert(all.end(), copies_->slabs().begin(), copies_->slabs().end());
  return all;
}

Status KvCache::check_growth(const std::vector<int64_t>& growth) const {
  for (size_t b = 0; b < growth.size(); b++) {
    if (growth[b] <= shape.capacity - sequences_[b].length) continue;
    return error(NA_ERR_OUT_OF_MEMORY,
                 "append: %lld tokens to the %lld of sequence %zu exceed its capacity of %lld: truncate() it, or make "
                 "a cache with a larger one",
                 Count(growth[b]), Count(sequences_[b].length), b, Count(shape.capacity));
  }
  return {};
}

bool KvCache::writes_shared(const Sequence& sequence, int64_t tokens) const {
  return tokens > 0 && sequence.length % shape.page_tokens != 0 && pool_->shared(sequence.pages.back());
}

Status KvCache::truncate(const std::vector<int64_t>& lengths) {
  if (lengths.size() != sequences_.size()) {
    return error(NA_ERR_OPTION, "truncate: %zu lengths for a batch of %lld", lengths.size(), Count(shape.batch));
  }
  for (size_t b = 0; b < lengths.size(); b++) {
    if (lengths[b] < 0 || lengths[b] > sequences_[b].length) {
      return error(NA_ERR_OPTION, "truncate: %lld tokens of sequence %zu; it has %lld", Count(lengths[b]), b,
                   Count(sequences_[b].length));
    }
  }
  drop_watermarks();
  summaries_->truncate(lengths);
  for (size_t b = 0; b < lengths.size(); b++) {
    for (const Ref<Watermark>& mark : watermarks_) mark->tokens[b] = std::min(mark->tokens[b], lengths[b]);
    Sequence& sequence = sequences_[b];
    sequence.length = lengths[b];
    while (static_cast<int64_t>(sequence.pages.size()) > pages_for(sequence.length)) {
      if (copies_) {
        drop_copy(b, static_cast<int64_t>(sequence.pages.size()) - 1);
        sequence.copies.pop_back();
      }
      pool_->give_back(sequence.pages.back());
      sequence.pages.pop_back();
    }
    device_tables_.forget_from(b, static_cast<int64_t>(sequence.pages.size()));
  }
  return {};
}

Status KvCache::restore(const std::vector<int64_t>& lengths) {
  if (lengths.size() != sequences_.size()) {
    return error(NA_ERR_OPTION, "restore: %zu lengths for a batch of %lld", lengths.size(), Count(shape.batch));
  }
  int64_t pages = 0;
  for (size_t b = 0; b < lengths.size(); b++) {
    if (sequences_[b].length != 0) {
      return error(NA_ERR_OPTION, "restore: sequence %zu has %lld tokens; the cache must be empty", b,
                   Count(sequences_[b].length));
    }
    if (lengths[b] < 0 || lengths[b] > shape.capacity) {
      return error(NA_ERR_OPTION, "restore: %lld tokens of sequence %zu; its capacity is %lld", Count(lengths[b]), b,
                   Count(shape.capacity));
    }
    pages += pages_for(lengths[b]);
  }
  NA_TRY(pool_->reserve(pages));
  for (size_t b = 0; b < lengths.size(); b++) {
    Sequence& sequence = sequences_[b];
    sequence.length = lengths[b];
    for (int64_t i = 0; i < pages_for(lengths[b]); i++) {
      sequence.pages.push_back(pool_->take());
      sequence.table = PageTable::with(std::move(sequence.table), i, pool_->address(sequence.pages.back()));
    }
    if (copies_) sequence.copies.assign(sequence.pages.size(), -1);
  }
  return {};
}

Status KvCache::copy_rows(const CachedRows& rows, bool write, Tensor* bytes, Stream* stream) const {
  if (stream->device != device || !(bytes->device()->host || bytes->device() == device)) {
    return error(NA_ERR_DEVICE,
                 "copy_rows: the stream must be on %s, like the cache, and the bytes there or on the CPU",
                 device->name.c_str());
  }
  if (stream->capturing()) return error(NA_ERR_OPTION, "copy_rows: rows are not copied inside capture");
  if (rows.sequence < 0 || rows.sequence >= shape.batch) {
    return error(NA_ERR_OPTION, "copy_rows: sequence %lld of a batch of %lld", Count(rows.sequence),
                 Count(shape.batch));
  }
  if (rows.units && !shape.int8) return error(NA_ERR_OPTION, "copy_rows: only int8 rows have units");
  const Sequence& sequence = sequences_[static_cast<size_t>(rows.sequence)];
  const int64_t all = sequence.length * shape.kv_heads;
  if (rows.first < 0 || rows.count < 0 || rows.first > all || rows.count > all - rows.first) {
    return error(NA_ERR_OPTION, "copy_rows: %lld rows from %lld on; sequence %lld has %lld", Count(rows.count),
                 Count(rows.first), Count(rows.sequence), Count(all));
  }
  const int64_t columns = rows.values ? shape.value_dim : shape.head_dim, row_bytes = shape.row_bytes(columns);
  const int64_t each = rows.units ? NA_UNIT_BYTES : shape.int8 ? columns : row_bytes;
  if (bytes->view.dtype != NA_UINT8 || !bytes->contiguous() || bytes->elements() < rows.count * each) {
    return error(NA_ERR_SHAPE, "copy_rows: %s; these rows need uint8 [%lld], contiguous", bytes->describe().c_str(),
                 Count(rows.count * each));
  }

  std::vector<na_row_run> runs;
  const int64_t page_rows = shape.page_tokens * shape.kv_heads;
  const int64_t offset = (rows.values ? value_offset(shape) : 0) + (rows.units ? columns : 0);
  for (int64_t row = rows.first, end = rows.first + rows.count; row < end;) {
    const int64_t slot = row % page_rows, count = std::min(end - row, page_rows - slot);
    const int32_t page = sequence.pages[static_cast<size_t>(row / page_rows)];
    if (write && pool_->shared(page)) {
      return error(NA_ERR_OPTION, "copy_rows: a fork shares a page that is to be written");
    }
    if (write && copies_ && sequence.copies[static_cast<size_t>(row / page_rows)] >= 0) {
      return error(NA_ERR_OPTION, "copy_rows: %s has a copy of a page that is to be written", device->name.c_str());
    }
    runs.push_back({static_cast<char*>(pool_->address(page)) + offset + slot * row_bytes, count});
    row += count;
  }
  NA_TRY(stream->room(2));
  // Between pages and memory of the host they lie side by side on the device, and cross over at once.
  Submission call(stream);
  Ref<Tensor> near(bytes), far;
  if (bytes->device() != device) {
    const Shape size{rows.count * each};
    NA_TRY(Tensor::allocate(device, NA_UINT8, size, false, false, &near));
    far = Tensor::over(bytes->storage, NA_UINT8, size,
                       static_cast<char*>(bytes->view.data) - static_cast<char*>(bytes->storage->data));
  }
  if (far && write) call.add(new CopyOperation(far.get(), near.get()));
  call.add(new CopyRowsOperation(near.get(), pool_->slabs(), std::move(runs), each, row_bytes, write));
  if (far && !write) call.add(new CopyOperation(near.get(), far.get()));
  return call.run();
}

Ref<KvCache> KvCache::fork() const {
  Ref<KvCache> copy(new KvCache(device, page_device, shape, pool_, copies_, nothing_, summaries_->fork()));
  for (size_t b = 0; b < sequences_.size(); b++) {
    const Sequence& from = sequences_[b];
    Sequence& to = copy->sequences_[b];
    to.pages = from.pages;
    to.copies = from.copies;
    to.recent = from.recent;
    to.room = from.room;
    to.length = from.length;
    for (int32_t copy : to.copies) {
      if (copy >= 0) copies_->share(copy);
    }
    for (size_t i = 0; i < to.pages.size(); i++) {
      pool_->share(to.pages[i]);
      to.table = PageTable::with(std::move(to.table), static_cast<int64_t>(i), pool_->address(to.pages[i]));
    }
  }
  return copy;
}

void KvCache::drop_watermarks() {
  const auto given_up = [](const Ref<Watermark>& mark) { return mark->unique(); };
  watermarks_.erase(std::remove_if(watermarks_.begin(), watermarks_.end(), given_up), watermarks_.end());
}

Ref<Watermark> KvCache::watch() {
  drop_watermarks();
  Ref<Watermark> mark(new Watermark);
  mark->cache = this;
  mark->tokens = lengths();
  watermarks_.push_back(mark);
  return mark;
}

int64_t KvCache::bytes() const {
  return pool_->bytes() + (copies_ ? copies_->bytes() : 0) + summaries_->bytes() + device_tables_.bytes() +
         (touched_ ? touched_->storage->bytes : 0);
}

int64_t KvCache::device_bytes() const {
  if (device->host) return 0;
  return (page_device->host ? copies_ : pool_)->bytes() + summaries_->bytes() + device_tables_.bytes();
}

std::vector<int64_t> KvCache::lengths() const {
  std::vector<int64_t> all;
  for (const Sequence& sequence : sequences_) all.push_back(sequence.length);
  return all;
}

Ref<CacheView> KvCache::view() const {
  Ref<CacheView> made(new CacheView);
  CacheView& view = *made;
  int64_t longest = 0;
  for (const Sequence& sequence : sequences_) {
    view.held_.push_back(sequence.table);
    view.tables_.push_back(sequence.table ? sequence.table->entries() : nullptr);
    view.lengths_.push_back(sequence.length);
    longest = std::max(longest, sequence.length);
  }
  view.pages_ = {shape.page_tokens,   value_offset(shape),  shape.int8,
                 view.tables_.data(), view.lengths_.data(), nullptr};
  view.slabs_ = pool_->slabs();
  if (copies_) view.resident_slabs_ = copies_->slabs();
  const auto tensor = [&](int64_t columns) {
    na_tensor t{};
    t.dtype = shape.dtype;
    t.rank = 4;
    const int64_t axes[4] = {shape.batch, longest, shape.kv_heads, columns};
    const int64_t strides[4] = {0, shape.kv_heads * columns, columns, 1};
    std::copy_n(axes, 4, t.shape);
    std::copy_n(strides, 4, t.stride);
    return Ref<Tensor>(new Tensor(t, nothing_));
  };
  view.k_ = tensor(shape.head_dim);
  view.v_ = tensor(shape.value_dim);
  return made;
}

Status KvCache::list_pages(CacheView* view, Submission* call) {
  if (device->host) return {};
  NA_TRY(device_tables_.reserve(view->lengths_));
  if (Operation* list = make_list(view->held_, view->lengths_)) {
    call->add(list);
    call->then([this, lengths = view->lengths_](bool enqueued) {
      if (enqueued) device_tables_.note_listed(lengths);
    });
  }
  view->device_tables_ = device_tables_.tensor();
  view->pages_.device_tables = &device_tables_.tensor()->view;
  return {};
}

Operation* KvCache::make_list(const std::vector<Ref<PageTable>>& tables, const std::vector<int64_t>& lengths) const {
  return device_tables_.make_list(lengths, [&](size_t b, int64_t page) -> const void* {
    const int32_t copy = copies_ ? sequences_[b].copies[static_cast<size_t>(page)] : -1;
    return copy >= 0 ? copies_->address(copy) : tables[b]->entries()[page];
  });
}

// Calls that follow before the note of one is looked at are not noted.
Status KvCache::note_touched(const SparsePlan& plan, Submission* call, Ref<Tensor>* touched) {
  if (shape.resident.pages == 0 || touched_) return {};
  const std::vector<int64_t> tokens = lengths();
  const int64_t pages = pages_for(*std::max_element(tokens.begin(), tokens.end()));
  NA_TRY(Tensor::allocate(page_device, NA_UINT8, {plan.view.batch, pages}, true, true, touched));
  call->then([this, noted = *touched](bool enqueued) {
    if (enqueued) touched_ = noted;
  });
  return {};
}

Status KvCache::rotate(Tensor* source, std::vector<int64_t> first, Submission* call, Ref<Tensor>* result) const {
  Device* const here = call->stream->device;  // of a search on the CPU not that of the cache
  NA_TRY(Tensor::allocate(here, source->view.dtype, shape_of(source->view), false, false, result));
  call->add(new RotateOperation(source, result->get(), std::move(first), shape.rotary));
  return {};
}

Status KvCache::rotate_queries(Tensor* q, Submission* call, Ref<Tensor>* result) const {
  if (shape.rotary.theta == 0) {
    *result = Ref<Tensor>(q);
    return {};
  }
  std::vector<int64_t> first = lengths();
  for (int64_t& position : first) position -= q->view.shape[1];
  return rotate(q, std::move(first), call, result);
}

}  // namespace na
