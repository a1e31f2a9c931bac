// Keys and values of a batch of sequences, in pages of memory that forks share.
//
// Which token lies in which page is known at call time and kept by the JavaScript thread; what pages hold is written
// and read by operations, in the order of tensors: the memory of all pages counts as one tensor for each slab.
#pragma once

#include <memory>

#include "core/attention.h"
#include "core/page_table.h"
#include "core/submission.h"

namespace na {

struct RotaryEmbedding {
  double theta = 0;     // 0: none
  int64_t columns = 0;  // of a head that are rotated, an even number
  bool interleaved = false;
};

struct CacheShape {
  int64_t batch = 0, kv_heads = 0, head_dim = 0, value_dim = 0, page_tokens = 0, capacity = 0;
  int32_t dtype = NA_FLOAT32;  // of what is appended, and of queries
  bool int8 = false;           // how it is held
  RotaryEmbedding rotary;

  // Of a token and head, as pages hold them.
  int64_t row_bytes(int64_t columns) const;
};

// The pages of a cache and of its forks. Memory comes in slabs of many pages and goes with the last of the caches.
class PagePool : public RefCounted {
 public:
  // A single cache has `most` pages at most.
  PagePool(Device* device, int64_t page_bytes, int64_t most) : device_(device), page_bytes_(page_bytes), most_(most) {}

  // Sees to it that so many pages can be taken; ERR_OUT_OF_MEMORY leaves everything as it was.
  Status reserve(int64_t pages);

  // A reserved page, with one user.
  int32_t take();
  void share(int32_t page) { users_[page]++; }
  void give_back(int32_t page) {
    if (--users_[page] == 0) free_.push_back(page);
  }
  bool shared(int32_t page) const { return users_[page] > 1; }
  void* address(int32_t page) const { return addresses_[page]; }

  int64_t page_bytes() const { return page_bytes_; }
  int64_t bytes() const { return static_cast<int64_t>(addresses_.size()) * page_bytes_; }
  const std::vector<Ref<Tensor>>& slabs() const { return slabs_; }
  // Whether work that was to write pages has failed: then nobody can tell what is in any of them.
  bool failed() const;

 private:
  Device* const device_;
  const int64_t page_bytes_, most_;
  std::vector<Ref<Tensor>> slabs_;
  std::vector<void*> addresses_;  // of each page
  std::vector<int32_t> users_;    // sequences that have it
  std::vector<int32_t> free_;
  // A device that refused more pages than were needed had given back all that it kept for reuse, and waited for its
  // work to end, and would do so each time. So none but those needed are asked for until there is reason to think that
  // more would fit: what this library holds on the device, with them, is no more than it held then; or, since nobody
  // tells what others give back, so many pages have come one by one as were refused.
  int64_t modest_until_ = 0;  // pages
  int64_t held_when_refused_ = 0;
};

// What an operation sees of a cache, from its call on.
class CacheView : public RefCounted {
 public:
  const na_pages& pages() const { return pages_; }
  const std::vector<Ref<Tensor>>& slabs() const { return slabs_; }
  // All that a reader of the pages reads.
  template <class Visit>
  void each_tensor(const Visit& visit) const {
    for (const Ref<Tensor>& slab : slabs_) visit(slab.get());
    if (device_tables_) visit(device_tables_.get());
  }
  // [batch, the longest length, kv_heads, head_dim or value_dim], with the strides of a page and without data.
  Tensor* k() const { return k_.get(); }
  Tensor* v() const { return v_.get(); }

 private:
  friend class KvCache;
  na_pages pages_{};
  std::vector<Ref<PageTable>> held_;
  std::vector<void* const*> tables_;
  std::vector<int64_t> lengths_;
  std::vector<Ref<Tensor>> slabs_;
  Ref<Tensor> device_tables_;  // see KvCache::list_pages()
  Ref<Tensor> k_, v_;
};

// Rows of a sequence as pages hold them, of keys or of values. A row is a head of a token; those of a token follow each
// other.
struct CachedRows {
  int64_t sequence = 0, first = 0, count = 0;
  bool values = false;
  bool units = false;  // of int8: what the elements of each row count, instead of the elements
};

// How many tokens of each sequence have stayed since somebody last looked.
struct Watermark : RefCounted {
  const class KvCache* cache = nullptr;  // until it is gone
  std::vector<int64_t> tokens;
};

class CacheSummaries;

class KvCache : public RefCounted {
 public:
  static Status create(Device* device, const CacheShape& shape, Ref<KvCache>* cache);

  // Adds counts[b] tokens, the first of k and v, to sequence b; without counts, all of them to each.
  Status append(Tensor* k, Tensor* v, const std::vector<int64_t>* counts, Stream* stream);
  // Whether there is room for so many more tokens of each sequence.
  Status check_growth(const std::vector<int64_t>& growth) const;
  // Forgets what is beyond the given lengths.
  Status truncate(const std::vector<int64_t>& lengths);
  // A cache of the same tokens. Pages are shared until one of the two writes to them.
  Ref<KvCache> fork() const;

  // Gives an empty cache sequences of these lengths. What their rows hold is for copy_rows() to write.
  Status restore(const std::vector<int64_t>& lengths);
  // Copies rows, bit by bit and side by side, to the beginning of a uint8 tensor, or from there into the cache.
  Status copy_rows(const CachedRows& rows, bool write, Tensor* bytes, Stream* stream) const;

  Ref<CacheView> view() const;
  // Lets kernels of a device know the pages of a view that was just made; on a device of the host they do. Operations
  // that it takes: kListing at most.
  Status list_pages(CacheView* view, Submission* call);
  static constexpr uint64_t kListing = 1;
  // q with the rotary embedding of the positions at which the queries of a call stand; q itself if there is none.
  Status rotate_queries(Tensor* q, Submission* call, Ref<Tensor>* rotated) const;

  // A mark that truncate() lowers as long as anybody else holds it.
  Ref<Watermark> watch();

  // What stands for the blocks of its keys and values: see core/summaries.h.
  CacheSummaries& summaries() const { return *summaries_; }

  std::vector<int64_t> lengths() const;
  int64_t bytes() const;  // of pages and summaries, and of this cache's lists of them on a device

  Device* const device;
  const CacheShape shape;

 private:
  struct Sequence {
    Ref<PageTable> table;
    std::vector<int32_t> pages;
    int64_t length = 0;
  };
  struct Growth;

  KvCache(Device* device, const CacheShape& shape, Ref<PagePool> pool, Ref<Storage> nothing,
          std::unique_ptr<CacheSummaries> summaries);
  ~KvCache() override;

  Status check_tokens(const Tensor& tensor, const char* name, int64_t last_axis) const;
  Status rotate(Tensor* source, std::vector<int64_t> first, Submission* call, Ref<Tensor>* result) const;
  // Whether so many more tokens begin in a page that others have too.
  bool writes_shared(const Sequence& sequence, int64_t tokens) const;
  // Those that nobody else holds.
  void drop_watermarks();
  int64_t pages_for(int64_t tokens) const { return (tokens + shape.page_tokens - 1) / shape.page_tokens; }

  const Ref<PagePool> pool_;
  const Ref<Storage> nothing_;  // no bytes: what k and v of a view belong to
  const std::unique_ptr<CacheSummaries> summaries_;
  std::vector<Sequence> sequences_;
  DeviceTables device_tables_;  // see na_pages; this cache's own
  std::vector<Ref<Watermark>> watermarks_;
};

}  // namespace na
