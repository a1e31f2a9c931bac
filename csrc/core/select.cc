#include "core/select.h"

#include <algorithm>

#include "core/hip_stages.h"
#include "core/plan_rows.h"
#include "core/summaries.h"

namespace na {
namespace {

using Count = long long;

constexpr int64_t kMostWords = (int64_t{1} << 31) - 1;

// What the arguments of an operation point to; the cache and the summaries may be null.
struct Attached {
  std::vector<int64_t> budgets;
  Ref<SparsePlan> plan;
  Ref<CacheView> cache;
  Ref<Summaries> pooled;
};

class SelectOperation final : public Operation {
 public:
  SelectOperation(const na_select& select, Attached attached)
      : Operation(NA_OP_SELECT), select_(select), attached_(std::move(attached)) {
    finish();
  }
  SelectOperation(const SelectOperation& other) : Operation(other), select_(other.select_), attached_(other.attached_) {
    finish();
  }
  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(select_.q), false);
    visit(context, Tensor::of(select_.k), false);
    if (attached_.cache) {
      attached_.cache->each_tensor([&](Tensor* tensor) { visit(context, tensor, false); });
    }
    if (attached_.pooled) attached_.pooled->each_tensor([&](Tensor* tensor, bool) { visit(context, tensor, false); });
    if (select_.kept && select_.refreshed_from > 0) visit(context, Tensor::of(select_.kept), false);
    if (select_.kept && select_.refreshed_from < select_.stages) visit(context, Tensor::of(select_.kept), true);
    attached_.plan->each_tensor([&](const Ref<Tensor>& tensor) { visit(context, tensor.get(), true); });
  }
  Operation* clone() const override { return new SelectOperation(*this); }

 private:
  void** workspace() override { return &select_.workspace; }
  void finish() {
    select_.budgets = attached_.budgets.data();
    args = &select_;
    retain_tensors();
  }
  na_select select_;
  const Attached attached_;
};

Status copied(Tensor* tensor, Submission* call, Ref<Tensor>* copy) {
  const na_tensor& view = tensor->view;
  NA_TRY(Tensor::allocate(tensor->device(), view.dtype, shape_of(view), false, false, copy));
  call->add(new CopyOperation(tensor, copy->get()));
  return {};
}

// The tensor, or a copy of it where its tokens are not evenly spaced along all of their axes: a search goes from any
// token to any other, and tokens of one stride are found without a division for each axis.
Status even_tokens(Tensor* tensor, Submission* call, Ref<Tensor>* even) {
  const na_tensor& view = tensor->view;
  *even = Ref<Tensor>(tensor);
  const int last = view.rank - 3;
  bool spaced = true;
  for (int64_t axis = last - 1, step = view.stride[last] * view.shape[last]; axis > 0; axis--) {
    spaced &= view.shape[axis] == 1 || view.stride[axis] == step;
    step *= view.shape[axis];
  }
  return spaced ? Status() : copied(tensor, call, even);
}

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

// Of queries that select for themselves.
Status check_queries(const SelectArguments& a) {
  if (!a.per_query) return {};
  if (a.selector == NA_SELECT_POOLED && a.query_pooling < 0) return {};
  return error(NA_ERR_OPTION, "only pooledPlan has queries that select for themselves, each of them");
}

// Of keys that count by their means.
Status check_levels(const SelectArguments& a) {
  if (a.levels.empty()) return {};
  if (a.selector != NA_SELECT_POOLED || a.per_query || a.top_p < 1 || a.threshold > 0) {
    return error(
        NA_ERR_OPTION,
        "pooledPlan: levels are of keys beyond the budget, and not with queries 'own', topP or threshold; leave these "
        "or levels out");
  }
  if (a.levels.size() + 1 >= NA_LEVELS || int64_t{2} << a.levels.size() > a.geometry.key_block) {
    return error(
        NA_ERR_OPTION,
        "pooledPlan: levels has %zu numbers, for means of 2, 4, 8 keys and so on; of blocks of %lld these are at "
        "most %lld: give fewer, or a larger keyBlock",
        a.levels.size(), Count(a.geometry.key_block), Count(a.geometry.key_block / 2));
  }
  return {};
}

// Of queries and keys that are pooled already.
Status check_pooled(const SelectArguments& a, const PlanGeometry& g) {
  if (!a.pooled) return {};
  if (a.selector != NA_SELECT_POOLED || a.pooling == NA_POOL_BOUNDS || a.query_pooling >= 0 || a.per_query) {
    return error(NA_ERR_OPTION, "pooled: only pooledPlan takes rows that are pooled already, and pools no more");
  }
  if (a.cache) {
    return error(NA_ERR_OPTION, "pooledPlan: pooled says that k is a tensor with a row for each block, not a KvCache");
  }
  const auto check = [](const char* name, const na_tensor& view, int64_t tokens, int64_t each, const char* what) {
    const int64_t rows = (tokens + each - 1) / each;
    if (view.rank == 4 && view.shape[1] == rows) return Status();
    return error(NA_ERR_SHAPE,
                 "%s has shape %s; with pooled it is [batch, %lld, heads, features]: a row for each %lld of %lld %s",
                 name, shape_text(view).c_str(), Count(rows), Count(each), Count(tokens), what);
  };
  NA_TRY(check("q", a.q->view, g.queries, g.query_tile, "queries"));
  return check("k", a.k->view, g.keys, g.key_block, "keys");
}

}  // namespace

// One call with a HipState, which follows only once the call is enqueued.
class HipStep {
 public:
  // `lengths`: keys of all sequences, or of each sequence of a cache.
  static Status begin(const SelectArguments& a, const PlanGeometry& g, const std::vector<int64_t>& lengths,
                      const Stream& stream, HipStep* step) {
    HipState* state = a.state;
    if (!state) return {};
    if (a.selector != NA_SELECT_HIP || state->refresh_.size() != a.chunk.size()) {
      return error(NA_ERR_OPTION, "hipPlan: state has %zu numbers of calls to refresh; give one for each of %zu stages",
                   state->refresh_.size(), a.chunk.size());
    }
    if (stream.capturing()) {
      return error(NA_ERR_OPTION, "hipPlan: a state counts calls, and so cannot be used in capture");
    }
    step->state_ = state;
    step->cache_ = a.cache;
    const na_tensor &q = a.q->view, &k = a.k->view;
    step->call_ = {q.dtype,
                   g.batch,
                   g.heads,
                   g.queries,
                   q.shape[q.rank - 2],
                   k.shape[k.rank - 2],
                   q.shape[q.rank - 1],
                   a.sink,
                   a.window,
                   g.query_tile,
                   g.causal,
                   a.first,
                   a.cache != nullptr,
                   reinterpret_cast<intptr_t>(a.q->device())};
    for (const auto* list : {&a.budgets, &a.chunk, &a.keep}) {
      step->call_.insert(step->call_.end(), list->begin(), list->end());
    }
    const bool failed = state->kept_ && state->kept_->storage->failure();
    const bool other = failed || step->call_ != state->call_ || a.cache != state->cache() || state->lost(lengths);
    step->calls_ = other ? 0 : state->calls_;
    step->keys_ = lengths;
    while (step->from_ < a.chunk.size() && step->calls_ % state->refresh_[step->from_] != 0) step->from_++;
    step->first_keys_ = step->from_ == 0 ? lengths : state->first_keys_;
    return {};
  }

  // How far the window reaches back beyond that of the call.
  int64_t appended() const {
    int64_t most = 0;
    for (size_t i = 0; i < keys_.size(); i++) most = std::max(most, keys_[i] - first_keys_[i]);
    return most;
  }

  // Points the call to what is kept, with memory for it.
  Status attach(Device* device, int64_t rows, const std::vector<int64_t>& budgets, na_select* call) {
    if (!state_) return {};
    call->refreshed_from = static_cast<int32_t>(from_);
    kept_ = state_->kept_;
    rooms_ = state_->rooms_;
    if (from_ == 0) NA_TRY(make_room(device, rows, budgets, *call));
    std::copy(rooms_.begin(), rooms_.end(), call->kept_room);
    call->kept = &kept_->view;
    return {};
  }

  // Follows once the call is enqueued.
  void end() {
    if (!state_) return;
    for (size_t stage = from_; stage < state_->runs_.size(); stage++) state_->runs_[stage]++;
    state_->call_ = std::move(call_);
    state_->calls_ = calls_ + 1;
    if (state_->cache() != cache_ || !cache_) state_->mark_ = cache_ ? cache_->watch() : Ref<Watermark>();
    if (cache_) state_->mark_->tokens = keys_;
    state_->keys_ = std::move(keys_);
    state_->first_keys_ = std::move(first_keys_);
    state_->kept_ = std::move(kept_);
    state_->rooms_ = std::move(rooms_);
  }

 private:
  // For what each stage may keep of the keys that there are now: later calls choose among no more.
  Status make_room(Device* device, int64_t rows, const std::vector<int64_t>& budgets, const na_select& call) {
    const int64_t most = *std::max_element(budgets.begin(), budgets.end());
    const int64_t all = *std::max_element(keys_.begin(), keys_.end());
    int64_t words = 0;
    rooms_.assign(static_cast<size_t>(call.stages), most);
    for (int32_t stage = 0; stage < call.stages; stage++) {
      int64_t& room = rooms_[static_cast<size_t>(stage)];
      if (stage + 1 < call.stages) {
        const int64_t kept =
            call.keep[stage] > 0 ? call.keep[stage] : std::min(all, most * hip_keep_times(call, stage));
        room = (kept + call.chunk[stage] - 1) / call.chunk[stage];
      }
      words += 1 + room;
    }
    if (rows > kMostWords / words) {
      return error(NA_ERR_OPTION, "hipPlan: state would have to keep %lld numbers for each of %lld rows", Count(words),
                   Count(rows));
    }
    return Tensor::allocate(device, NA_INT32, {rows, words}, false, false, &kept_);
  }

  HipState* state_ = nullptr;
  KvCache* cache_ = nullptr;
  std::vector<int64_t> call_, keys_, first_keys_;
  size_t from_ = 0;
  int64_t calls_ = 0;
  Ref<Tensor> kept_;
  std::vector<int64_t> rooms_;
};

const KvCache* HipState::cache() const { return mark_ ? mark_->cache : nullptr; }

bool HipState::lost(const std::vector<int64_t>& keys) const {
  const std::vector<int64_t>& stayed = mark_ ? mark_->tokens : keys;
  for (size_t i = 0; i < keys_.size(); i++) {
    if (stayed[i] < keys_[i]) return true;
  }
  return false;
}

Status select(const SelectArguments& arguments, Stream* stream, Ref<SparsePlan>* plan) {
  SelectArguments a = arguments;
  Attached attached;
  if (a.cache) {
    if (stream->capturing()) {
      return error(NA_ERR_OPTION,
                   "capture: a plan over the keys of a KvCache, whose number changes from launch to launch, cannot be "
                   "recorded; select outside of capture");
    }
    attached.cache = a.cache->view();
    a.k = attached.cache->k();
  }
  const char* const name = a.cache ? "the cache" : "k";
  const na_tensor &q = a.q->view, &k = a.k->view;
  Device* device = a.q->device();
  NA_TRY(stream->check_device(device, "q"));
  // Rotated queries, or copies of q and k; to pool, to select.
  NA_TRY(stream->room(a.cache ? KvCache::kListing + CacheSummaries::kMaking + 2 : 4));
  NA_TRY(check_rows("q", *a.q));
  if (a.cache) NA_TRY(a.cache->check_queries(*a.q));
  NA_TRY(check_rows(name, *a.k));
  if (a.k->device() != device) {
    return error(NA_ERR_DEVICE, "%s is on %s but q is on %s; move one with to()", name, a.k->device()->name.c_str(),
                 device->name.c_str());
  }
  if (q.dtype != k.dtype) {
    return error(NA_ERR_DTYPE, "%s is %s but q is %s; convert one with to()", name, dtype_name(k.dtype),
                 dtype_name(q.dtype));
  }
  const int64_t heads = q.shape[q.rank - 2], kv_heads = k.shape[k.rank - 2];
  if (q.shape[0] != k.shape[0] || q.shape[q.rank - 1] != k.shape[k.rank - 1] || heads % kv_heads != 0) {
    return error(NA_ERR_SHAPE,
                 "q has shape %s and %s %s: batch and headDim must be equal, and heads a multiple of kvHeads",
                 shape_text(q).c_str(), name, shape_text(k).c_str());
  }
  PlanGeometry g = a.geometry;
  g.batch = q.shape[0];
  if (!a.pooled) {
    g.queries = token_count(q);
    g.keys = token_count(k);
  }
  NA_TRY(check_levels(a));
  for (size_t i = 0; i < a.levels.size(); i++) g.levels |= a.levels[i] > 0 ? int64_t{2} << i : 0;
  NA_TRY(SparsePlan::check(g));  // before anything is counted by it
  NA_TRY(check_stages(a));
  NA_TRY(check_queries(a));
  NA_TRY(check_pooled(a, g));
  a.per_query &= g.queries > 1;  // one query is its tile
  if (static_cast<int64_t>(a.budgets.size()) != 1 && static_cast<int64_t>(a.budgets.size()) != g.heads) {
    return error(NA_ERR_OPTION, "budget has %zu numbers; give one, or one for each of the %lld patterns of heads",
                 a.budgets.size(), Count(g.heads));
  }
  // In blocks, and no more than there are.
  const auto blocks_of = [&](int64_t keys) { return (std::min(g.keys, keys) + g.key_block - 1) / g.key_block; };
  std::vector<int64_t>& budgets = attached.budgets;
  for (int64_t head = 0; head < g.heads; head++) {
    budgets.push_back(blocks_of(a.budgets[a.budgets.size() > 1 ? static_cast<size_t>(head) : 0]));
  }
  na_select call{};
  int64_t by_means = 0;  // blocks
  for (size_t i = 0; i < a.levels.size(); i++) by_means += call.level_budgets[i + 1] = blocks_of(a.levels[i]);
  na_plan counted{};
  counted.queries = g.queries;
  counted.keys = g.keys;
  counted.query_tile = static_cast<int32_t>(g.query_tile);
  counted.key_block = static_cast<int32_t>(g.key_block);
  counted.causal = g.causal;
  // Of all sequences, or of each.
  const std::vector<int64_t> lengths = a.cache ? a.cache->lengths() : std::vector<int64_t>{g.keys};
  HipStep step;
  NA_TRY(HipStep::begin(a, g, lengths, *stream, &step));
  const int64_t window = a.window + step.appended();
  const PlanShape shape(counted);
  // Rows of a sequence that has fewer keys than the plan list none of those that it lacks, and with a share nobody
  // knows.
  g.complete = a.top_p >= 1 && a.threshold <= 0 &&
               std::all_of(lengths.begin(), lengths.end(), [&](int64_t own) { return own == g.keys; });
  int64_t blocks = 0, most_of_row = 0;
  const int64_t most_blocks = a.per_query ? kMostWords / kWordsOfBitmap : kMostWords;
  for (int64_t own : lengths) {
    const PlanShape of_own = shape.with_keys(own);
    for (int64_t tile = 0; tile < shape.tiles(); tile++) {
      const int64_t entries = a.cache ? 1 : g.batch;
      const SelectedRow row(of_own, tile, a.sink, window);
      // A query that selects for itself chooses among all that others have always.
      const int64_t open = a.per_query ? of_own.visible_blocks(tile) : row.open_count();
      for (int64_t budget : budgets) {
        const int64_t most =
            a.per_query ? room_of_queries(of_own, tile, a.sink, window, budget) : row.most(budget + by_means);
        most_of_row = std::max(most_of_row, most);
        blocks += entries * most;
        g.complete &= open <= budget;
      }
      if (blocks > most_blocks) {
        return error(NA_ERR_OPTION,
                     "the plan might have more than %lld blocks; give a smaller budget or larger keyBlock",
                     Count(most_blocks));
      }
    }
  }
  // In decoding, rows are even unless sequences are short: nobody has to find out where they begin, nor to close up
  // those that list less in the end.
  const bool even = shape.tiles() == 1 && by_means == 0 && blocks > 0 && most_of_row * g.batch * g.heads == blocks;
  if (a.per_query) {
    // Beside each block the number of its bitmap.
    NA_TRY(SparsePlan::allocate(device, g, kWordsOfBitmap * blocks, blocks, &attached.plan));
  } else if (even) {
    NA_TRY(SparsePlan::allocate_even(device, g, most_of_row, &attached.plan));
  } else {
    NA_TRY(SparsePlan::allocate(device, g, blocks, 0, &attached.plan));
  }

  call.selector = a.selector;
  call.out = &attached.plan->view;
  call.k = &k;
  call.sink = a.sink;
  call.window = window;
  call.stages = static_cast<int32_t>(a.chunk.size());
  for (size_t i = 0; i < a.chunk.size() && i < NA_MAX_STAGES; i++) {
    call.chunk[i] = a.chunk[i];
    call.keep[i] = i < a.keep.size() ? std::min(a.keep[i], g.keys) : 0;
  }
  NA_TRY(step.attach(device, g.batch * g.heads * shape.tiles(), budgets, &call));
  call.first = a.first;
  call.bounds = a.pooling == NA_POOL_BOUNDS;
  call.query_pooling = static_cast<int32_t>(a.query_pooling);
  call.per_query = a.per_query;
  call.tile_queries = a.pooled;
  call.scale = static_cast<float>(a.scale);
  call.top_p = static_cast<float>(a.top_p);
  call.threshold = static_cast<float>(a.threshold);
  call.q = &q;
  call.budgets = budgets.data();
  if (a.cache) call.pages = &attached.cache->pages();
  if (!device->host) {  // before a cache makes room for what is pooled
    int64_t bytes = 0;
    NA_TRY(device->check(NA_OP_SELECT, &call, &bytes));
  }
  Submission all(stream);
  if (a.cache) NA_TRY(a.cache->list_pages(attached.cache.get(), &all));
  if (a.selector == NA_SELECT_POOLED) {
    // Extremes of keys are as exact as these.
    const SummarySpec spec{a.pooling, g.key_block, a.pooling == NA_POOL_MEAN ? NA_FLOAT32 : k.dtype};
    if (a.pooled) {
      Ref<Tensor> rows;
      NA_TRY(copied(a.k, &all, &rows));
      attached.pooled = Ref<Summaries>(new Summaries(std::move(rows)));
    } else if (a.cache) {
      NA_TRY(a.cache->summaries().make({spec, false}, attached.cache, &all, &attached.pooled));
    } else {
      NA_TRY(pool(a.k, spec, &all, &attached.pooled));
    }
    call.pooled = &attached.pooled->view();
  }
  Ref<Tensor> queries, keys;
  if (a.cache) {
    NA_TRY(a.cache->rotate_queries(a.q, &all, &queries));
  } else {
    NA_TRY(even_tokens(a.q, &all, &queries));
    // What was pooled stands for the keys, and pooling takes them as they lie.
    if (a.selector != NA_SELECT_POOLED) NA_TRY(even_tokens(a.k, &all, &keys));
  }
  call.q = &queries->view;
  if (keys) call.k = &keys->view;
  const Ref<SparsePlan> made = attached.plan;
  all.add(new SelectOperation(call, std::move(attached)));
  NA_TRY(all.run());
  step.end();
  *plan = made;
  return {};
}

}  // namespace na
