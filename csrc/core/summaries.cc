#include "core/summaries.h"

#include <algorithm>

namespace na {
namespace {

constexpr int64_t kSegmentTokens = 256;  // a multiple of every block
constexpr int64_t kAlignment = 64;

}  // namespace

Ref<PagePool> SummaryPools::pool_of(const SummaryKind& kind, Device* device, int64_t segment_bytes, int64_t most) {
  for (const Entry& entry : entries_) {
    if (entry.kind == kind) return entry.pool;
  }
  entries_.push_back({kind, Ref<PagePool>(new PagePool(device, segment_bytes, most))});
  return entries_.back().pool;
}

int64_t SummaryPools::bytes() const {
  int64_t total = 0;
  for (const Entry& entry : entries_) total += entry.pool->bytes();
  return total;
}

CacheSummaries::CacheSummaries(Device* device, const CacheShape& shape)
    : device_(device), shape_(shape), pools_(new SummaryPools) {}

CacheSummaries::~CacheSummaries() { truncate(std::vector<int64_t>(static_cast<size_t>(shape_.batch), 0)); }

CacheSummaries::Kept& CacheSummaries::kept_of(const SummaryKind& kind) {
  for (Kept& kept : kept_) {
    if (kept.kind == kind) return kept;
  }
  const int64_t row = kind.spec.features(columns(kind)) * dtype_size(kind.spec.dtype);
  const int64_t bytes = kSegmentTokens / kind.spec.block * shape_.kv_heads * row;
  const int64_t most = shape_.batch * std::max<int64_t>(1, shape_.capacity / kSegmentTokens);
  Ref<PagePool> pool = pools_->pool_of(kind, device_, (bytes + kAlignment - 1) / kAlignment * kAlignment, most);
  kept_.push_back({kind, std::move(pool), std::vector<Sequence>(static_cast<size_t>(shape_.batch))});
  return kept_.back();
}

Status CacheSummaries::make(const SummaryKind& kind, const Ref<CacheView>& view, Submission* call,
                            Ref<Summaries>* summaries) {
  if (!device_->host) return make_all(kind, view, call, summaries);
  Kept& kept = kept_of(kind);
  const int64_t* const lengths = view->pages().lengths;
  const size_t batch = kept.sequences.size();
  int64_t missing = 0;
  for (size_t b = 0; b < batch; b++) {
    missing += lengths[b] / kSegmentTokens - static_cast<int64_t>(kept.sequences[b].segments.size());
  }
  NA_TRY(kept.pool->reserve(missing));
  const int64_t blocks = kSegmentTokens / kind.spec.block;
  Ref<Tensor> rest;
  NA_TRY(Tensor::allocate(device_, kind.spec.dtype,
                          {shape_.batch, blocks, shape_.kv_heads, kind.spec.features(columns(kind))}, false, false,
                          &rest));
  Ref<Summaries> made(new Summaries(std::move(rest)));
  std::vector<std::vector<int32_t>> added(batch);
  for (size_t b = 0; b < batch; b++) {
    const Sequence& sequence = kept.sequences[b];
    const auto first = static_cast<int64_t>(sequence.segments.size()), count = lengths[b] / kSegmentTokens;
    Ref<PageTable> table = sequence.table;
    for (int64_t segment = first; segment < count; segment++) {
      added[b].push_back(kept.pool->take());
      table = PageTable::with(std::move(table), segment, kept.pool->address(added[b].back()));
    }
    made->add_segments(std::move(table), first, count);
  }
  made->keep_segments(blocks, kept.pool->slabs(), missing > 0);
  pool_cache(view, kind.values, kind.spec, made, call);
  call->then([this, kind, made, added = std::move(added)](bool enqueued) {
    Kept& kept = kept_of(kind);
    for (size_t b = 0; b < added.size(); b++) {
      Sequence& sequence = kept.sequences[b];
      if (enqueued) {
        sequence.table = made->table(b);
        sequence.segments.insert(sequence.segments.end(), added[b].begin(), added[b].end());
      } else {
        for (int32_t segment : added[b]) kept.pool->give_back(segment);
      }
    }
  });
  *summaries = std::move(made);
  return {};
}

Status CacheSummaries::make_all(const SummaryKind& kind, const Ref<CacheView>& view, Submission* call,
                                Ref<Summaries>* summaries) {
  const int64_t blocks = (view->k()->view.shape[1] + kind.spec.block - 1) / kind.spec.block;
  Ref<Tensor> rest;
  NA_TRY(Tensor::allocate(device_, kind.spec.dtype,
                          {shape_.batch, blocks, shape_.kv_heads, kind.spec.features(columns(kind))}, false, false,
                          &rest));
  Ref<Summaries> made(new Summaries(std::move(rest)));
  pool_cache(view, kind.values, kind.spec, made, call);
  *summaries = std::move(made);
  return {};
}

void CacheSummaries::truncate(const std::vector<int64_t>& lengths) {
  for (Kept& kept : kept_) {
    for (size_t b = 0; b < lengths.size(); b++) {
      std::vector<int32_t>& segments = kept.sequences[b].segments;
      while (static_cast<int64_t>(segments.size()) > lengths[b] / kSegmentTokens) {
        kept.pool->give_back(segments.back());
        segments.pop_back();
      }
    }
  }
}

std::unique_ptr<CacheSummaries> CacheSummaries::fork() const {
  auto copy = std::make_unique<CacheSummaries>(device_, shape_);
  copy->pools_ = pools_;
  copy->kept_ = kept_;
  for (const Kept& kept : kept_) {
    for (const Sequence& sequence : kept.sequences) {
      for (int32_t segment : sequence.segments) kept.pool->share(segment);
    }
  }
  return copy;
}

}  // namespace na
