// Sparse plans: which blocks of keys each tile of queries sees. Immutable; built and read by operations on streams.
#pragma once

#include "core/stream.h"

namespace na {

struct PlanGeometry {
  int64_t batch = 1, heads = 1, queries = 0, keys = 0, query_tile = 64, key_block = 64;
  bool causal = false;
  bool estimate = false;  // blocks that are not listed count as their means: see na_plan
  int64_t levels = 0;     // of means that entries may have: see na_plan
  bool complete = false;  // known here, whoever writes it: each row lists all blocks that it may see, with no bitmap
};

class SparsePlan : public RefCounted {
 public:
  // Refuses a geometry that no plan can have.
  static Status check(const PlanGeometry& geometry);
  // Of int32 tensors that hold the plan's own words; `bitmaps` may be absent, and `offsets` where all rows have as many
  // words.
  static Status over(const PlanGeometry& geometry, Ref<Tensor> offsets, Ref<Tensor> entries, Ref<Tensor> bitmaps,
                     Ref<SparsePlan>* plan);
  // With room for so many words and bitmaps, for an operation to write.
  static Status allocate(Device* device, const PlanGeometry& geometry, int64_t words, int64_t bitmaps,
                         Ref<SparsePlan>* plan);
  // With so many words in each row.
  static Status allocate_even(Device* device, const PlanGeometry& geometry, int64_t row_words, Ref<SparsePlan>* plan);

  Device* device() const { return entries_->device(); }
  int64_t bytes() const;
  template <class Visit>
  void each_tensor(const Visit& visit) const {
    for (const Ref<Tensor>* tensor : {&offsets_, &entries_, &bitmaps_}) {
      if (*tensor) visit(*tensor);
    }
  }
  const Ref<Tensor>& offsets() const { return offsets_; }  // may be null
  const Ref<Tensor>& entries() const { return entries_; }
  const Ref<Tensor>& bitmaps() const { return bitmaps_; }  // may be null

  const na_plan view;
  const bool complete;  // attention over it is dense, as causal as the plan

 private:
  SparsePlan(const na_plan& view, bool complete, Ref<Tensor> offsets, Ref<Tensor> entries, Ref<Tensor> bitmaps)
      : view(view),
        complete(complete),
        offsets_(std::move(offsets)),
        entries_(std::move(entries)),
        bitmaps_(std::move(bitmaps)) {}
  const Ref<Tensor> offsets_, entries_, bitmaps_;
};

// The plan of lists of blocks: int32 tensors, the blocks of row r being those from offsets[r] to offsets[r + 1]. Their
// values are read when the operation runs; what is wrong with them is told by inspect().
Status build_plan(const PlanGeometry& geometry, Tensor* offsets, Tensor* blocks, Stream* stream, Ref<SparsePlan>* plan);

// What either of two plans of the same geometry shows, or what both do: plans without levels. `stream` is one of their
// device; if that is not the CPU, `host`, which is, combines copies.
Status combine_plans(SparsePlan* a, SparsePlan* b, na_plan_source source, Stream* stream, Stream* host,
                     Ref<SparsePlan>* plan);

// The report of na_inspect.
Status inspect_plan(SparsePlan* plan, Stream* stream, Ref<Tensor>* report);
// The plan as a dense mask of so many heads, which share its patterns evenly.
Status dense_plan(SparsePlan* plan, int64_t heads, Stream* stream, Ref<Tensor>* dense);

}  // namespace na
