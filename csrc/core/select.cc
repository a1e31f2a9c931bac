#include "core/select.h"

#include <algorithm>

#include "core/plan_rows.h"
#include "core/pooling.h"

namespace na {
namespace {

using Count = long long;

constexpr int64_t kMostWords = (int64_t{1} << 31) - 1;

class SelectOperation final : public Operation {
 public:
  SelectOperation(const na_select& select, std::vector<int64_t> budgets, Ref<SparsePlan> plan)
      : Operation(NA_OP_SELECT), select_(select), budgets_(std::move(budgets)), plan_(std::move(plan)) {
    finish();
  }
  SelectOperation(const SelectOperation& other)
      : Operation(other), select_(other.select_), budgets_(other.budgets_), plan_(other.plan_) {
    finish();
  }
  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(select_.q), false);
    visit(context, Tensor::of(select_.k), false);
    if (select_.pooled) visit(context, Tensor::of(select_.pooled), false);
    plan_->each_tensor([&](const Ref<Tensor>& tensor) { visit(context, tensor.get(), true); });
  }
  Operation* clone() const override { return new SelectOperation(*this); }

 private:
  void** workspace() override { return &select_.workspace; }
  void finish() {
    select_.budgets = budgets_.data();
    args = &select_;
    retain_tensors();
  }
  na_select select_;
  const std::vector<int64_t> budgets_;
  const Ref<SparsePlan> plan_;
};

bool power_of_two(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

Status check_stages(const SelectArguments& a) {
  if (a.selector != NA_SELECT_HIP) return {};
  if (a.chunk.empty() || a.chunk.size() > NA_MAX_STAGES) {
    return error(NA_ERR_OPTION, "hipPlan: %zu stages; give 1 to %d", a.chunk.size(), NA_MAX_STAGES);
  }
  for (size_t i = 0; i < a.chunk.size(); i++) {
    if (!power_of_two(a.chunk[i]) || a.chunk[i] > kMostPooledTokens || (i > 0 && a.chunk[i] >= a.chunk[i - 1])) {
      return error(NA_ERR_OPTION, "hipPlan: chunk %lld of stage %zu; chunks must be powers of two that descend",
                   Count(a.chunk[i]), i);
    }
  }
  if (a.chunk.back() != a.geometry.key_block) {
    return error(NA_ERR_OPTION, "hipPlan: the last stage has chunks of %lld keys; they must be keyBlock, %lld",
                 Count(a.chunk.back()), Count(a.geometry.key_block));
  }
  return {};
}

}  // namespace

Status select(const SelectArguments& a, Stream* stream, Ref<SparsePlan>* plan) {
  const na_tensor &q = a.q->view, &k = a.k->view;
  Device* device = a.q->device();
  if (stream->device != device) {
    return error(NA_ERR_DEVICE, "stream is on %s but q is on %s", stream->device->name.c_str(), device->name.c_str());
  }
  NA_TRY(stream->room(2));
  NA_TRY(check_even_tokens("q", *a.q));
  NA_TRY(check_even_tokens("k", *a.k));
  if (a.k->device() != device) {
    return error(NA_ERR_DEVICE, "k is on %s but q is on %s; move one with to()", a.k->device()->name.c_str(),
                 device->name.c_str());
  }
  if (q.dtype != k.dtype) {
    return error(NA_ERR_DTYPE, "k is %s but q is %s; convert one with to()", dtype_name(k.dtype), dtype_name(q.dtype));
  }
  const int64_t heads = q.shape[q.rank - 2], kv_heads = k.shape[k.rank - 2];
  if (q.shape[0] != k.shape[0] || q.shape[q.rank - 1] != k.shape[k.rank - 1] || heads % kv_heads != 0) {
    return error(NA_ERR_SHAPE,
                 "q has shape %s and k %s: batch and headDim must be equal, and heads a multiple of kvHeads",
                 shape_text(q).c_str(), shape_text(k).c_str());
  }
  PlanGeometry g = a.geometry;
  g.batch = q.shape[0];
  g.queries = token_count(q);
  g.keys = token_count(k);
  NA_TRY(check_stages(a));
  if (static_cast<int64_t>(a.budgets.size()) != 1 && static_cast<int64_t>(a.budgets.size()) != g.heads) {
    return error(NA_ERR_OPTION, "budget has %zu numbers; give one, or one for each of the %lld patterns of heads",
                 a.budgets.size(), Count(g.heads));
  }
  // In blocks, and no more than there are.
  std::vector<int64_t> budgets;
  for (int64_t head = 0; head < g.heads; head++) {
    const int64_t keys = std::min(g.keys, a.budgets[a.budgets.size() > 1 ? static_cast<size_t>(head) : 0]);
    budgets.push_back((keys + g.key_block - 1) / g.key_block);
  }
  // Checks the geometry first: it has to be sound before rows are counted.
  na_plan counted{};
  counted.queries = g.queries;
  counted.keys = g.keys;
  counted.query_tile = static_cast<int32_t>(g.query_tile);
  counted.key_block = static_cast<int32_t>(g.key_block);
  counted.causal = g.causal;
  NA_TRY(SparsePlan::check(g));
  const PlanShape shape(counted);
  int64_t words = 0;
  for (int64_t tile = 0; tile < shape.tiles(); tile++) {
    const SelectedRow row(shape, tile, a.sink, a.window);
    for (int64_t budget : budgets) words += g.batch * (row.always_count() + std::min(row.open_count(), budget));
    if (words > kMostWords) {
      return error(NA_ERR_OPTION, "the plan might have more than %lld blocks; give a smaller budget or larger keyBlock",
                   Count(kMostWords));
    }
  }
  Ref<SparsePlan> made;
  NA_TRY(SparsePlan::allocate(device, g, words, 0, &made));

  na_select call{};
  call.selector = a.selector;
  call.out = &made->view;
  call.q = &q;
  call.k = &k;
  call.sink = a.sink;
  call.window = a.window;
  call.stages = static_cast<int32_t>(a.chunk.size());
  for (size_t i = 0; i < a.chunk.size() && i < NA_MAX_STAGES; i++) {
    call.chunk[i] = a.chunk[i];
    call.keep[i] = i < a.keep.size() ? std::min(a.keep[i], g.keys) : 0;
  }
  call.first = a.first;
  call.bounds = a.pooling == NA_POOL_BOUNDS;
  call.mean_query = a.mean_query;
  call.scale = static_cast<float>(a.scale);
  call.top_p = static_cast<float>(a.top_p);
  call.threshold = static_cast<float>(a.threshold);
  Ref<Tensor> pooled;
  if (a.selector == NA_SELECT_POOLED) {
    // Extremes of keys are as exact as these.
    const int32_t dtype = a.pooling == NA_POOL_MEAN ? NA_FLOAT32 : k.dtype;
    NA_TRY(pool(a.k, g.key_block, a.pooling, dtype, stream, &pooled));
    call.pooled = &pooled->view;
  }
  NA_TRY(stream->run(new SelectOperation(call, std::move(budgets), made)));
  *plan = std::move(made);
  return {};
}

}  // namespace na
