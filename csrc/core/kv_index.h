// Finds the keys of a cache that matter to a query, by a mirror of them: small copies of all keys, or of means or
// bounds of some that follow each other.
//
// A segment of the mirror is made of so many tokens once they are all there, and never changed. So appending costs
// nothing, and truncating only gives segments up; the tokens behind the last segment are looked at themselves. The
// mirror follows the cache when a query comes: what was appended is mirrored first.
#pragma once

#include "core/kv_cache.h"

namespace na {

struct MirrorShape {
  int32_t block = 1;    // tokens of a row: a divisor of 64
  bool bounds = false;  // rows are bounds, not means
  double probe = 1;     // share of the rows whose tokens are looked at, unless a row is a token
};

struct RetrieveArguments {
  Tensor* q = nullptr;
  int64_t sink = 0, window = 0, top = 1;
  double scale = 0;
  bool has_scale = false;  // otherwise 1/sqrt(headDim)
  bool attend = false;     // wants out and lse, not ids and scores
};

struct RetrieveResult {
  Ref<Tensor> ids, scores, out, lse, touched;
};

class KvIndex : public RefCounted {
 public:
  static Status create(KvCache* cache, const MirrorShape& shape, Ref<KvIndex>* index);

  // `cache` is the one that the index was made for.
  Status retrieve(KvCache* cache, const RetrieveArguments& arguments, Stream* stream, RetrieveResult* result);
  int64_t bytes() const { return pool_->bytes(); }

 private:
  struct Sequence {
    Ref<PageTable> table;
    std::vector<int32_t> segments;  // pages of the pool
  };

  KvIndex(const MirrorShape& shape, int64_t segment_rows, Ref<PagePool> pool, Ref<Watermark> mark)
      : shape_(shape),
        segment_rows_(segment_rows),
        pool_(std::move(pool)),
        mark_(std::move(mark)),
        sequences_(mark_->tokens.size()) {}

  // Gives up segments of what was truncated, and has those made whose tokens are all there.
  Status follow(KvCache* cache, const Ref<CacheView>& view, Stream* stream);

  const MirrorShape shape_;
  const int64_t segment_rows_;
  const Ref<PagePool> pool_;
  const Ref<Watermark> mark_;
  std::vector<Sequence> sequences_;
};

}  // namespace na
