// Finds the keys of a cache that matter to a query, by a graph of them (core/key_graph.h) or by a mirror: small copies
// of all keys, or of means or bounds of some that follow each other, or of the means of clusters.
//
// A segment of the mirror is made of so many tokens once they are all there, and never changed. So appending costs
// nothing, and truncating only gives segments up; the tokens behind the last segment are looked at themselves. The
// mirror follows the cache when something is to be found: what was appended is mirrored first. So do means of keys and
// values, by which a query may estimate what it does not look at; the first such query has them made.
#pragma once

#include <optional>

#include "core/key_graph.h"

namespace na {

struct MirrorShape {
  int32_t block = 1;      // tokens of a row: a divisor of 64
  bool bounds = false;    // rows are bounds, not means
  bool clusters = false;  // the tokens of a row are any of its segment, `block` of them on average
  double probe = 1;       // share of the rows whose tokens are looked at, unless a row is a token
};

// On the device of the cache, but for what is to be read at once.
struct RetrieveResult {
  Ref<Tensor> ids, scores, out, lse;
  Ref<Tensor> touched;  // int64 [batch, kv_heads], on the CPU
  Ref<Tensor> keys;     // to attend inside capture: int64 [1], the keys of which `touched` counts some
};

struct RetrieveArguments {
  Tensor* q = nullptr;
  int64_t sink = 0, window = 0, top = 1;
  std::optional<std::vector<int64_t>> tops;  // to attend: of each key head, in place of top
  double scale = 0;
  bool has_scale = false;  // otherwise 1/sqrt(headDim)
  bool attend = false;     // wants out and lse, not ids and scores
  bool estimate = false;   // and rows that are not looked at to count as their means
  RetrieveResult into;     // made unless given; by recorded calls alone
};

// What an operation sees of some segments, from its call on.
struct SegmentsView {
  std::vector<Ref<PageTable>> held;
  std::vector<void* const*> tables;
  std::vector<int64_t> counts;
  std::vector<Ref<Tensor>> slabs;
};

// Memory for segments of the sequences of a cache.
class Segments {
 public:
  Segments(Ref<PagePool> pool, size_t batch) : pool_(std::move(pool)), sequences_(batch) {}

  SegmentsView view() const { return view_of(sequences_); }
  // Gives up those of sequence b from `count` on.
  void truncate(size_t b, int64_t count);
  // Adds what is missing to counts[b] of each sequence b, which the operation of make(view, first) is to write: those
  // from first[b] on. ERR_OUT_OF_MEMORY leaves everything as it was.
  template <class Make>
  Status grow(const std::vector<int64_t>& counts, Stream* stream, const Make& make);
  int64_t bytes() const { return pool_->bytes(); }

 private:
  struct Sequence {
    Ref<PageTable> table;
    std::vector<int32_t> pages;
  };

  SegmentsView view_of(const std::vector<Sequence>& sequences) const;

  const Ref<PagePool> pool_;
  std::vector<Sequence> sequences_;
};

class KvIndex : public RefCounted {
 public:
  static Status create(KvCache* cache, const MirrorShape& shape, Ref<KvIndex>* index);
  // Finds keys by walking a graph, and mirrors none.
  static Status create(KvCache* cache, Ref<KeyGraph> graph, Ref<KvIndex>* index);

  // `cache` is the one that the index was made for. `search` is `stream` unless the cache has a resident part: then it
  // is one of the CPU, where keys are searched once `stream`, on the GPU, has brought q. All that a call asks for is
  // enqueued or, but for what the index takes up of the cache, nothing.
  Status retrieve(KvCache* cache, const RetrieveArguments& arguments, Stream* stream, Stream* search,
                  RetrieveResult* result);
  int64_t bytes() const { return mirror_.bytes() + means_.bytes() + (graph_ ? graph_->bytes() : 0); }

 private:
  KvIndex(const MirrorShape& shape, int64_t segment_rows, Segments mirror, Segments means, Ref<Watermark> mark)
      : shape_(shape),
        segment_rows_(segment_rows),
        mark_(std::move(mark)),
        mirror_(std::move(mirror)),
        means_(std::move(means)) {}

  // Gives up segments of what was truncated, and has those made whose tokens are all there; of means, if `estimate`.
  Status follow(KvCache* cache, const Ref<CacheView>& view, bool estimate, Stream* stream);

  const MirrorShape shape_;
  const int64_t segment_rows_;
  const Ref<Watermark> mark_;
  Segments mirror_, means_;
  Ref<KeyGraph> graph_;  // null: a mirror
};

}  // namespace na
