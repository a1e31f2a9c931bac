// A graph over the keys of a cache, through which queries are led to the keys that matter to them (Liu et al. 2024,
// RetrievalAttention).
//
// Queries lie elsewhere than keys do, so that keys near each other need not matter to the same queries. What does is
// known of sample queries: keys are linked that are among the best of the same ones (Chen et al. 2024, RoarGraph). And
// every key is linked to the one before it and the one behind it, so that all can be reached, whatever is truncated.
//
// The best keys of each sample query are kept. When a sequence has grown by more than a share they are compared with
// the new keys, and the links made anew: the graph is always that of all the keys that it has, as if it were made at
// once. Until then further keys are scored themselves.
#pragma once

#include "core/kv_cache.h"

namespace na {

struct KeyGraphShape {
  int64_t degree = 0;  // links of a key, beside those to its neighbours in the sequence
  int64_t effort = 0;  // keys that a search keeps in view, for each query head
};

// What an operation sees of a graph, from its call on; or the part of it that it makes.
class KeyGraphView : public RefCounted {
 public:
  explicit KeyGraphView(int64_t degree) : degree_(degree) {}
  // For the next sequence: its links, or null, and how many keys of them are still there.
  void add(const Ref<Tensor>& links, int64_t count);
  na_key_graph graph() const { return {degree_, views_.data(), counts_.data()}; }
  const std::vector<Ref<Tensor>>& links() const { return links_; }

 private:
  const int64_t degree_;
  std::vector<Ref<Tensor>> links_;
  std::vector<const na_tensor*> views_;
  std::vector<int64_t> counts_;
};

// Refuses caches whose keys the CPU does not reach.
Status check_index_device(const KvCache& cache);

class KeyGraph : public RefCounted {
 public:
  // Copies `queries`, [batch or 1, n, heads, headDim].
  static Status create(KvCache* cache, Tensor* queries, const KeyGraphShape& shape, Stream* stream,
                       Ref<KeyGraph>* graph);

  // Has the links made of sequences that have grown enough; `mark` tells what stayed since the last time.
  Status follow(KvCache* cache, const Ref<CacheView>& cached, Watermark* mark, Stream* stream);
  Ref<KeyGraphView> view() const;
  int64_t bytes() const;

  const KeyGraphShape shape;

 private:
  KeyGraph(const KeyGraphShape& shape, Ref<Tensor> samples, size_t sequences)
      : shape(shape), samples_(std::move(samples)), sequences_(sequences) {}
  // Before any links are made.
  Status begin(KvCache* cache, Stream* stream);

  struct Sequence {
    Ref<Tensor> links;
    int64_t count = 0;  // keys of it that are still there
  };

  Ref<Tensor> samples_;             // [batch, n, heads, headDim], rotated as the cache has it, once begun
  Ref<Tensor> nearest_, products_;  // na_link; null until begun
  std::vector<Sequence> sequences_;
};

}  // namespace na
