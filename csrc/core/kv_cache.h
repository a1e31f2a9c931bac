// Keys and values of a batch of sequences, in pages of memory that forks share.
//
// Which token lies in which page is known at call time and kept by the JavaScript thread; what pages hold is written
// and read by operations, in the order of tensors: the memory of all pages counts as one tensor for each slab.
//
// With a resident part, the pages of a GPU's cache are in pinned memory of the host, where kernels reach them too, and
// the GPU has copies of some. What kernels read is a list of addresses, which names the copy where there is one. So a
// copy can be dropped at any moment, and nobody but this file need know of them.
#pragma once

#include <algorithm>
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

// What of each sequence a GPU has copies of while the pages are in memory of the host.
struct ResidentPart {
  int64_t sink = 0, window = 0;  // tokens: the first ones, and the last ones
  int64_t pages = 0;             // further ones, at most: those that were needed last
  bool any() const { return sink != 0 || window != 0 || pages != 0; }  // else there is no such part
};

struct CacheShape {
  int64_t batch = 0, kv_heads = 0, head_dim = 0, value_dim = 0, page_tokens = 0, capacity = 0;
  int32_t dtype = NA_FLOAT32;  // of what is appended, and of queries
  bool int8 = false;           // how it is held
  RotaryEmbedding rotary;
  ResidentPart resident;

  // Of a token and head, as pages hold them.
  int64_t row_bytes(int64_t columns) const;
};

// The pages of a cache and of its forks. Memory comes in slabs of many pages and goes with the last of the caches.
class PagePool : public RefCounted {
 public:
  // A single cache has `most` pages at most. `pinned`: in memory of the host that GPUs reach.
  PagePool(Device* device, int64_t page_bytes, int64_t most, bool pinned = false)
      : device_(device), page_bytes_(page_bytes), most_(most), pinned_(pinned) {}

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
  const bool pinned_;
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
  // All that a reader of the pages reads on the device of the cache.
  template <class Visit>
  void each_tensor(const Visit& visit) const {
    for (const auto* slabs : {&slabs_, &resident_slabs_}) {
      for (const Ref<Tensor>& slab : *slabs) visit(slab.get());
    }
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
  std::vector<Ref<Tensor>> slabs_, resident_slabs_;
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
  // Whether queries have the axes that it takes, its type, and are on its device.
  Status check_queries(const Tensor& q) const;
  // Where attention over a plan is to note which pages it touches; null while nobody asks. What it notes is looked at
  // by the first append after it has ended.
  Status note_touched(const SparsePlan& plan, Submission* call, Ref<Tensor>* touched);
  // q with the rotary embedding of the positions at which the queries of a call stand; q itself if there is none.
  Status rotate_queries(Tensor* q, Submission* call, Ref<Tensor>* rotated) const;

  // A mark that truncate() lowers as long as anybody else holds it.
  Ref<Watermark> watch();

  // What stands for the blocks of its keys and values: see core/summaries.h.
  CacheSummaries& summaries() const { return *summaries_; }

  std::vector<int64_t> lengths() const;
  int64_t bytes() const;         // of pages, their copies and summaries, and of this cache's lists of them on a device
  int64_t device_bytes() const;  // of these, in memory of a GPU

  Device* const device;
  Device* const page_device;  // whose memory has all pages: `device`, or with a resident part the CPU
  const CacheShape shape;

 private:
  struct Sequence {
    Ref<PageTable> table;
    std::vector<int32_t> pages;
    std::vector<int32_t> copies;  // with a resident part: of each page that on the device, or -1
    std::vector<int64_t> recent;  // pages between sink and window that have a copy; what was needed last comes first
    int64_t room = 0;             // for so many of them
    int64_t length = 0;
  };
  struct Growth;

  KvCache(Device* device, Device* page_device, const CacheShape& shape, Ref<PagePool> pool, Ref<PagePool> copies,
          Ref<Storage> nothing, std::unique_ptr<CacheSummaries> summaries);
  ~KvCache() override;

  // What device_tables_ lack of these; null where nothing.
  Operation* make_list(const std::vector<Ref<PageTable>>& tables, const std::vector<int64_t>& lengths) const;

  // The resident part, when sequences have grown to these lengths. Copies that are no longer of it are dropped, and
  // there is room for those to come.
  Status allocate_targets(const std::vector<int64_t>& grown, Ref<Tensor>* targets) const;
  Status reserve_copies(const std::vector<int64_t>& grown);
  void choose_recent(size_t sequence, int64_t grown, const Tensor* touched);
  template <class Test>
  static void drop_recent(Sequence* sequence, const Test& test) {
    std::vector<int64_t>& recent = sequence->recent;
    recent.erase(std::remove_if(recent.begin(), recent.end(), test), recent.end());
  }
  void drop_copy(size_t sequence, int64_t page);
  // The first page of which there is a copy for the sake of the window.
  int64_t window_page(int64_t length) const {
    return std::max<int64_t>(0, length - shape.resident.window) / shape.page_tokens;
  }
  // Visits the pages of which there are to be copies, once choose_recent() has chosen for that length.
  template <class Visit>
  void each_resident(const Sequence& sequence, int64_t length, const Visit& visit) const {
    const int64_t window = window_page(length);
    for (int64_t page = 0, sink = pages_for(shape.resident.sink); page < std::min(sink, window); page++) visit(page);
    for (int64_t page : sequence.recent) visit(page);
    for (int64_t page = window; page < pages_for(length); page++) visit(page);
  }
  // What brings copies up to an append whose tokens are in their pages: takes those that are missing.
  Operation* append_copies(Tensor* k, Tensor* v, const std::vector<Ref<PageTable>>& tables,
                           const std::vector<int64_t>& grown, std::vector<Growth>* growths);
  std::vector<Ref<Tensor>> all_slabs() const;
  Status check_tokens(const Tensor& tensor, const char* name, int64_t last_axis) const;
  Status rotate(Tensor* source, std::vector<int64_t> first, Submission* call, Ref<Tensor>* result) const;
  // Whether so many more tokens begin in a page that others have too.
  bool writes_shared(const Sequence& sequence, int64_t tokens) const;
  // Those that nobody else holds.
  void drop_watermarks();
  int64_t pages_for(int64_t tokens) const { return (tokens + shape.page_tokens - 1) / shape.page_tokens; }

  const Ref<PagePool> pool_;
  const Ref<PagePool> copies_;  // of some of its pages, on the device; null without a resident part
  const Ref<Storage> nothing_;  // no bytes: what k and v of a view belong to
  const std::unique_ptr<CacheSummaries> summaries_;
  std::vector<Sequence> sequences_;
  DeviceTables device_tables_;  // see na_pages; this cache's own
  Ref<Tensor> touched_;         // see na_attention; null unless an append is to look at it
  // The device has refused room for copies that can be done without. Until the library holds no more of it than this,
  // sequences have no more room for them than they had then: asking anew takes long, and would with each append.
  int64_t scarce_above_ = -1;  // bytes; -1: it has not
  std::vector<Ref<Watermark>> watermarks_;
};

}  // namespace na
