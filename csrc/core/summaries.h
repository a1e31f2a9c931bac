// What stands for the blocks of a cache's keys or values, kept beside the cache so that decoding need not look at all
// of them for each token.
//
// Summaries come in segments of 256 tokens, which are made once their tokens are all there, and never changed: so
// appending costs nothing, truncating only gives segments up, and forks share them. What is missing is made when
// somebody wants it, and with it, for that call alone, the summaries of the tokens behind the last segment. Kernels of
// a device find segments as they find pages: by a list in its memory.
#pragma once

#include "core/kv_cache.h"
#include "core/pooling.h"

namespace na {

struct SummaryKind {
  SummarySpec spec;
  bool values = false;  // of the values, not of the keys

  bool operator==(const SummaryKind& other) const {
    return spec.pooling == other.spec.pooling && spec.block == other.spec.block && spec.dtype == other.spec.dtype &&
           values == other.values;
  }
};

// The memory of all kinds, shared by the forks of a cache.
class SummaryPools : public RefCounted {
 public:
  // A new pool in place of one with memory that could not be written.
  Ref<PagePool> pool_of(const SummaryKind& kind, Device* device, int64_t segment_bytes, int64_t most);
  int64_t bytes() const;

 private:
  struct Entry {
    SummaryKind kind;
    Ref<PagePool> pool;
  };
  std::vector<Entry> entries_;
};

// The segments of one cache.
class CacheSummaries {
 public:
  CacheSummaries(Device* device, const CacheShape& shape);
  CacheSummaries(const CacheSummaries&) = delete;
  CacheSummaries& operator=(const CacheSummaries&) = delete;
  ~CacheSummaries();

  // Of all tokens that `view`, which is of this cache, has now, its pages listed. What is new is kept once the call is
  // enqueued. Operations that it takes: kMaking at most.
  Status make(const SummaryKind& kind, const Ref<CacheView>& view, Submission* call, Ref<Summaries>* summaries);
  static constexpr uint64_t kMaking = 2;
  void truncate(const std::vector<int64_t>& lengths);
  std::unique_ptr<CacheSummaries> fork() const;
  int64_t bytes() const;  // of all that forks hold together, and of this one's lists

 private:
  struct Sequence {
    Ref<PageTable> table;
    std::vector<int32_t> segments;  // pages of the pool
  };
  struct Kept {
    SummaryKind kind;
    Ref<PagePool> pool;
    std::vector<Sequence> sequences;
    DeviceTables list;
  };

  Kept& kept_of(const SummaryKind& kind);
  DeviceTables empty_list() const;
  int64_t columns(const SummaryKind& kind) const { return kind.values ? shape_.value_dim : shape_.head_dim; }

  Device* const device_;
  const CacheShape shape_;
  Ref<SummaryPools> pools_;
  std::vector<Kept> kept_;
};

}  // namespace na
