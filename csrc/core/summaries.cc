#include "core/summaries.h"

#include <algorithm>

namespace na {
namespace {

constexpr int64_t kSegmentTokens = 256;  // a multiple of every block
constexpr int64_t kAlignment = 64;

}  // namespace

Ref<PagePool> SummaryPools::pool_of(const SummaryKind& kind, Device* device, int64_t segment_bytes, int64_t most) {
  const auto of_kind = [&](const Entry& entry) { return entry.kind == kind; };
  const auto found = std::find_if(entries_.begin(), entries_.end(), of_kind);
  if (found != entries_.end()) {
    if (!found->pool->failed()) return found->pool;
    entries_.erase(found);
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
  const auto of_kind = [&](const Kept& kept) { return kept.kind == kind; };
  const auto found = std::find_if(kept_.begin(), kept_.end(), of_kind);
  if (found != kept_.end()) {
    if (!found->pool->failed()) return *found;
    kept_.erase(found);  // nobody takes a segment of that pool any more
  }
  const int64_t row = kind.spec.features(columns(kind)) * dtype_size(kind.spec.dtype);
  const int64_t bytes = kSegmentTokens / kind.spec.block * shape_.kv_heads * row;
  const int64_t most = shape_.batch * std::max<int64_t>(1, shape_.capacity / kSegmentTokens);
  Ref<PagePool> pool = pools_->pool_of(kind, device_, (bytes + kAlignment - 1) / kAlignment * kAlignment, most);
  kept_.push_back({kind, std::move(pool), std::vector<Sequence>(static_cast<size_t>(shape_.batch)), empty_list()});
  return kept_.back();
}

DeviceTables CacheSummaries::empty_list() const {
  return DeviceTables(device_, shape_.batch, 1, shape_.capacity / kSegmentTokens);
}

Status CacheSummaries::make(const SummaryKind& kind, const Ref<CacheView>& view, Submission* call,
                            Ref<Summaries>* summaries) {
  Kept& kept = kept_of(kind);
  const size_t batch = kept.sequences.size();
  std::vector<int64_t> counts(batch);
  int64_t missing = 0;
  for (size_t b = 0; b < batch; b++) {
    counts[b] = view->pages().lengths[b] / kSegmentTokens;
    missing += counts[b] - static_cast<int64_t>(kept.sequences[b].segments.size());
  }
  const int64_t blocks = kSegmentTokens / kind.spec.block;
  const Shape rows{shape_.batch, blocks, shape_.kv_heads, kind.spec.features(columns(kind))};
  Ref<Tensor> rest;
  NA_TRY(Tensor::allocate(device_, kind.spec.dtype, rows, false, false, &rest));
  NA_TRY(kept.pool->reserve(missing));
  NA_TRY(kept.list.reserve(counts));
  Ref<Summaries> made(new Summaries(std::move(rest)));
  std::vector<std::vector<int32_t>> added(batch);
  for (size_t b = 0; b < batch; b++) {
    const Sequence& sequence = kept.sequences[b];
    const auto first = static_cast<int64_t>(sequence.segments.size());
    Ref<PageTable> table = sequence.table;
    for (int64_t segment = first; segment < counts[b]; segment++) {
      added[b].push_back(kept.pool->take());
      table = PageTable::with(std::move(table), segment, kept.pool->address(added[b].back()));
    }
    made->add_segments(std::move(table), first, counts[b]);
  }
  made->keep_segments(blocks, kept.pool->slabs(), missing > 0, kept.list.tensor());
  const auto address_of = [&](size_t b, int64_t segment) { return made->tables()[b]->entries()[segment]; };
  if (Operation* list = kept.list.make_list(counts, address_of)) call->add(list);
  pool_cache(view, kind.values, kind.spec, made, call);
  call->then([this, made, pool = kept.pool, counts = std::move(counts), added = std::move(added)](bool enqueued) {
    // Found by its pool: work may have failed by now, for which kept_of() would begin anew.
    const auto same = [&](const Kept& kept) { return kept.pool.get() == pool.get(); };
    Kept& kept = *std::find_if(kept_.begin(), kept_.end(), same);
    for (size_t b = 0; b < added.size(); b++) {
      Sequence& sequence = kept.sequences[b];
      if (enqueued) {
        sequence.table = made->tables()[b];
        sequence.segments.insert(sequence.segments.end(), added[b].begin(), added[b].end());
      } else {
        for (int32_t segment : added[b]) pool->give_back(segment);
      }
    }
    if (enqueued) kept.list.note_listed(counts);
  });
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
      kept.list.forget_from(b, static_cast<int64_t>(segments.size()));
    }
  }
}

int64_t CacheSummaries::bytes() const {
  int64_t total = pools_->bytes();
  for (const Kept& kept : kept_) total += kept.list.bytes();
  return total;
}

std::unique_ptr<CacheSummaries> CacheSummaries::fork() const {
  auto copy = std::make_unique<CacheSummaries>(device_, shape_);
  copy->pools_ = pools_;
  for (const Kept& kept : kept_) {
    copy->kept_.push_back({kept.kind, kept.pool, kept.sequences, empty_list()});
    for (const Sequence& sequence : kept.sequences) {
      for (int32_t segment : sequence.segments) kept.pool->share(segment);
    }
  }
  return copy;
}

}  // namespace na
