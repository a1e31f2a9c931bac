#include "core/sparse_plan.h"

#include <algorithm>
#include <vector>

#include "core/plan_entry.h"

namespace na {
namespace {

using Count = long long;

// Positions are 32-bit inside the kernels, and so are the words of a plan.
constexpr int64_t kMostTokens = int64_t{1} << 30, kMostWords = (int64_t{1} << 31) - 1;
constexpr int64_t kMostPatterns = 1 << 20;

bool power_of_two(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

int64_t tiles_of(const PlanGeometry& g) { return (g.queries + g.query_tile - 1) / g.query_tile; }
int64_t rows_of(const PlanGeometry& g) { return g.batch * g.heads * tiles_of(g); }
int64_t query_words(const PlanGeometry& g) { return (g.query_tile + 31) / 32; }
int64_t bitmaps_of(const na_plan& plan) { return plan.bitmaps ? plan.bitmaps->shape[0] : 0; }

}  // namespace

Status SparsePlan::check(const PlanGeometry& g) {
  const struct {
    const char* name;
    int64_t value, most;
  } counts[] = {{"queries", g.queries, kMostTokens},
                {"keys", g.keys, kMostTokens},
                {"batch", g.batch, kMostPatterns},
                {"heads", g.heads, kMostPatterns}};
  for (const auto& count : counts) {
    if (count.value < 1 || count.value > count.most) {
      return error(NA_ERR_OPTION, "sparse plan: %s is %lld; it must be in 1 ... %lld", count.name, Count(count.value),
                   Count(count.most));
    }
  }
  if (!power_of_two(g.query_tile) || g.query_tile < kLeastQueryTile || g.query_tile > kMostQueryTile) {
    return error(NA_ERR_OPTION, "sparse plan: queryTile is %lld; it must be a power of two from %d to %d",
                 Count(g.query_tile), kLeastQueryTile, kMostQueryTile);
  }
  if (!power_of_two(g.key_block) || g.key_block < kLeastKeyBlock || g.key_block > kMostKeyBlock) {
    return error(NA_ERR_OPTION, "sparse plan: keyBlock is %lld; it must be a power of two from %d to %d",
                 Count(g.key_block), kLeastKeyBlock, kMostKeyBlock);
  }
  // Of means at least two make a block, as of keys.
  if (g.levels < 0 || (g.levels & 1) != 0 || g.levels >= g.key_block) {
    return error(NA_ERR_OPTION, "sparse plan: a level is out of range; of %lld keys in a block means have at most %lld",
                 Count(g.key_block), Count(g.key_block / 2));
  }
  if ((g.keys - 1) / g.key_block >= kMostBlocks) {
    return error(NA_ERR_OPTION, "sparse plan: %lld keys are more than %lld blocks of %lld; use a larger keyBlock",
                 Count(g.keys), Count(kMostBlocks), Count(g.key_block));
  }
  if (g.batch * g.heads > kMostWords / tiles_of(g) - 1) {
    return error(NA_ERR_OPTION,
                 "sparse plan: batch %lld, %lld patterns of heads and %lld query tiles are too many rows",
                 Count(g.batch), Count(g.heads), Count(tiles_of(g)));
  }
  return {};
}

namespace {

Status check_words(const char* name, const Tensor& tensor, const Device* device) {
  const na_tensor& view = tensor.view;
  if (view.dtype != NA_INT32) {
    return error(NA_ERR_DTYPE, "sparse plan: %s is %s; it must be int32", name, dtype_name(view.dtype));
  }
  if (!tensor.contiguous()) return error(NA_ERR_SHAPE, "sparse plan: %s must be contiguous: copy it with to()", name);
  if (tensor.device() != device) {
    return error(NA_ERR_DEVICE, "sparse plan: %s is on %s but offsets are on %s", name, tensor.device()->name.c_str(),
                 device->name.c_str());
  }
  return {};
}

Status check_offsets(const PlanGeometry& g, const Tensor& offsets) {
  NA_TRY(check_words("offsets", offsets, offsets.device()));
  if (offsets.view.rank != 1 || offsets.view.shape[0] != rows_of(g) + 1) {
    return error(NA_ERR_SHAPE,
                 "sparse plan: offsets has shape %s; expected [%lld], one for each of batch %lld x heads %lld x %lld "
                 "query tiles and the end of the last",
                 shape_text(offsets.view).c_str(), Count(rows_of(g) + 1), Count(g.batch), Count(g.heads),
                 Count(tiles_of(g)));
  }
  return {};
}

Status check_list(const char* name, const Tensor& words, const Device* device) {
  NA_TRY(check_words(name, words, device));
  if (words.view.rank != 1 || words.view.shape[0] >= kMostWords) {
    return error(NA_ERR_SHAPE, "sparse plan: %s has shape %s; expected one axis of at most %lld elements", name,
                 shape_text(words.view).c_str(), Count(kMostWords));
  }
  return {};
}

// What both kinds of operations on plans have in common: the tensors they hold.
template <class Arguments>
class PlanOperation final : public Operation {
 public:
  PlanOperation(na_operation_kind operation_kind, const Arguments& arguments, std::vector<Ref<SparsePlan>> plans,
                std::vector<Ref<Tensor>> reads, std::vector<Ref<Tensor>> writes)
      : Operation(operation_kind),
        arguments_(arguments),
        plans_(std::move(plans)),
        reads_(std::move(reads)),
        writes_(std::move(writes)) {
    args = &arguments_;
    retain_tensors();
  }
  PlanOperation(const PlanOperation& other)
      : Operation(other),
        arguments_(other.arguments_),
        plans_(other.plans_),
        reads_(other.reads_),
        writes_(other.writes_) {
    args = &arguments_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    for (const Ref<Tensor>& tensor : reads_) visit(context, tensor.get(), false);
    for (const Ref<Tensor>& tensor : writes_) visit(context, tensor.get(), true);
  }
  Operation* clone() const override { return new PlanOperation(*this); }

 private:
  void** workspace() override { return &arguments_.workspace; }
  Arguments arguments_;
  const std::vector<Ref<SparsePlan>> plans_;  // whose views the arguments name
  const std::vector<Ref<Tensor>> reads_, writes_;
};

void add_tensors(const SparsePlan& plan, std::vector<Ref<Tensor>>* tensors) {
  plan.each_tensor([&](const Ref<Tensor>& tensor) { tensors->push_back(tensor); });
}

Status check_stream(const Stream& stream, const Device* device) {
  NA_TRY(stream.check_device(device, "the sparse plan"));
  return stream.room();
}

PlanGeometry geometry_of(const na_plan& plan) {
  PlanGeometry g;
  g.batch = plan.batch;
  g.heads = plan.heads;
  g.queries = plan.queries;
  g.keys = plan.keys;
  g.query_tile = plan.query_tile;
  g.key_block = plan.key_block;
  g.causal = plan.causal != 0;
  g.estimate = plan.estimate != 0;
  g.levels = plan.levels;
  return g;
}

}  // namespace

Status SparsePlan::over(const PlanGeometry& g, Ref<Tensor> offsets, Ref<Tensor> entries, Ref<Tensor> bitmaps,
                        Ref<SparsePlan>* plan) {
  NA_TRY(check(g));
  if (offsets) NA_TRY(check_offsets(g, *offsets));
  NA_TRY(check_list("entries", *entries, (offsets ? offsets : entries)->device()));
  const int64_t words = entries->view.shape[0];
  if (!offsets && words % rows_of(g) != 0) {
    return error(NA_ERR_SHAPE, "sparse plan: %lld words cannot be as many for each of %lld rows", Count(words),
                 Count(rows_of(g)));
  }
  if (bitmaps) {
    NA_TRY(check_words("bitmaps", *bitmaps, entries->device()));
    const na_tensor& view = bitmaps->view;
    if (view.rank != 3 || view.shape[1] != g.key_block || view.shape[2] != query_words(g)) {
      return error(NA_ERR_SHAPE, "sparse plan: bitmaps has shape %s; expected [count, %lld, %lld]",
                   shape_text(view).c_str(), Count(g.key_block), Count(query_words(g)));
    }
  }
  const na_plan view = {offsets ? &offsets->view : nullptr,
                        &entries->view,
                        bitmaps ? &bitmaps->view : nullptr,
                        g.batch,
                        g.heads,
                        g.queries,
                        g.keys,
                        static_cast<int32_t>(g.query_tile),
                        static_cast<int32_t>(g.key_block),
                        g.causal,
                        g.estimate,
                        static_cast<int32_t>(g.levels),
                        offsets ? 0 : words / rows_of(g)};
  *plan = Ref<SparsePlan>(new SparsePlan(view, g.complete, std::move(offsets), std::move(entries), std::move(bitmaps)));
  return {};
}

Status SparsePlan::allocate(Device* device, const PlanGeometry& g, int64_t words, int64_t bitmaps,
                            Ref<SparsePlan>* plan) {
  NA_TRY(check(g));
  Ref<Tensor> offsets, entries, table;
  NA_TRY(Tensor::allocate(device, NA_INT32, {rows_of(g) + 1}, false, false, &offsets));
  NA_TRY(Tensor::allocate(device, NA_INT32, {words}, false, false, &entries));
  if (bitmaps > 0) {
    NA_TRY(Tensor::allocate(device, NA_INT32, {bitmaps, g.key_block, query_words(g)}, false, false, &table));
  }
  return over(g, std::move(offsets), std::move(entries), std::move(table), plan);
}

Status SparsePlan::allocate_even(Device* device, const PlanGeometry& g, int64_t row_words, Ref<SparsePlan>* plan) {
  NA_TRY(check(g));
  Ref<Tensor> entries;
  NA_TRY(Tensor::allocate(device, NA_INT32, {rows_of(g) * row_words}, false, false, &entries));
  return over(g, {}, std::move(entries), {}, plan);
}

int64_t SparsePlan::bytes() const {
  int64_t total = 0;
  each_tensor([&](const Ref<Tensor>& tensor) { total += tensor->storage->bytes; });
  return total;
}

Status build_plan(const PlanGeometry& g, Tensor* offsets, Tensor* blocks, Stream* stream, Ref<SparsePlan>* plan) {
  NA_TRY(SparsePlan::check(g));
  NA_TRY(check_offsets(g, *offsets));
  NA_TRY(check_list("blocks", *blocks, offsets->device()));
  NA_TRY(check_stream(*stream, offsets->device()));
  Ref<SparsePlan> made;
  // One word more, to mark offsets that cannot be.
  NA_TRY(SparsePlan::allocate(offsets->device(), g, blocks->view.shape[0] + 1, 0, &made));
  na_build build{};
  build.source = NA_PLAN_BLOCKS;
  build.out = &made->view;
  build.offsets = &offsets->view;
  build.blocks = &blocks->view;
  std::vector<Ref<Tensor>> writes;
  add_tensors(*made, &writes);
  NA_TRY(stream->run(
      new PlanOperation<na_build>(NA_OP_BUILD, build, {made}, {Ref<Tensor>(offsets), Ref<Tensor>(blocks)}, writes)));
  *plan = std::move(made);
  return {};
}

namespace {

// What the union or the intersection of two plans may become.
struct Combination {
  PlanGeometry geometry;
  int64_t words = 0, bitmaps = 0;
};

// Refuses plans that do not go together.
Status check_pair(const SparsePlan& a, const SparsePlan& b, const char* name, Combination* result) {
  const na_plan &x = a.view, &y = b.view;
  const struct {
    const char* name;
    int64_t a, b;
  } properties[] = {
      {"queries", x.queries, y.queries},      {"keys", x.keys, y.keys},       {"queryTile", x.query_tile, y.query_tile},
      {"keyBlock", x.key_block, y.key_block}, {"causal", x.causal, y.causal}, {"estimate", x.estimate, y.estimate}};
  for (const auto& property : properties) {
    if (property.a != property.b) {
      return error(NA_ERR_OPTION, "%s: %s of one plan is %lld, of the other %lld; they must be equal", name,
                   property.name, Count(property.a), Count(property.b));
    }
  }
  if ((x.levels | y.levels) != 0) {
    return error(
        NA_ERR_OPTION,
        "%s: a plan with levels, by which blocks count by means of their keys, cannot be combined; make it without",
        name);
  }
  PlanGeometry& g = result->geometry;
  g = geometry_of(x);
  g.batch = std::max(x.batch, y.batch);
  g.heads = std::max(x.heads, y.heads);
  for (const na_plan* given : {&x, &y}) {
    if ((given->batch != 1 && given->batch != g.batch) || g.heads % given->heads != 0) {
      return error(
          NA_ERR_OPTION,
          "%s: one plan is for batch %lld and %lld patterns of heads, the other for %lld and %lld; batches must be "
          "equal or 1, and one number of patterns a multiple of the other",
          name, Count(x.batch), Count(x.heads), Count(y.batch), Count(y.heads));
    }
  }
  NA_TRY(SparsePlan::check(g));  // that both together are no more rows than there may be
  if (a.device() != b.device()) {
    return error(NA_ERR_DEVICE, "%s: one plan is on %s, the other on %s; move one with to()", name,
                 a.device()->name.c_str(), b.device()->name.c_str());
  }
  // Each row of the result has at most the entries of both, and every two bitmaps may meet in a new one.
  const auto words_of = [&](const na_plan& given) {
    return given.entries->shape[0] * (g.batch / given.batch) * (g.heads / given.heads);
  };
  result->words = words_of(x) + words_of(y);
  if (result->words > kMostWords) {
    return error(NA_ERR_OPTION, "%s: the plans may have %lld words of entries together; at most %lld are possible",
                 name, Count(result->words), Count(kMostWords));
  }
  result->bitmaps = std::min((bitmaps_of(x) + 1) * (bitmaps_of(y) + 1) - 1, result->words / 2);
  return {};
}

Status combine(SparsePlan* a, SparsePlan* b, na_plan_source source, SparsePlan* made, Stream* stream) {
  na_build build{};
  build.source = source;
  build.out = &made->view;
  build.a = &a->view;
  build.b = &b->view;
  std::vector<Ref<Tensor>> reads, writes;
  add_tensors(*a, &reads);
  add_tensors(*b, &reads);
  add_tensors(*made, &writes);
  return stream->run(new PlanOperation<na_build>(NA_OP_BUILD, build,
                                                 {Ref<SparsePlan>(made), Ref<SparsePlan>(a), Ref<SparsePlan>(b)},
                                                 std::move(reads), std::move(writes)));
}

// Room for a copy of a plan.
Status allocate_like(const SparsePlan& plan, Device* device, Ref<SparsePlan>* copy) {
  const auto like = [&](const Ref<Tensor>& words, Ref<Tensor>* room) -> Status {
    if (!words) return {};
    const na_tensor& view = words->view;
    return Tensor::allocate(device, NA_INT32, {view.shape, view.shape + view.rank}, false, false, room);
  };
  Ref<Tensor> offsets, entries, bitmaps;
  NA_TRY(like(plan.offsets(), &offsets));
  NA_TRY(like(plan.entries(), &entries));
  NA_TRY(like(plan.bitmaps(), &bitmaps));
  return SparsePlan::over(geometry_of(plan.view), std::move(offsets), std::move(entries), std::move(bitmaps), copy);
}

Status copy_words(const SparsePlan& from, const SparsePlan& to, Stream* stream) {
  if (to.offsets()) NA_TRY(stream->run(new CopyOperation(from.offsets().get(), to.offsets().get())));
  NA_TRY(stream->run(new CopyOperation(from.entries().get(), to.entries().get())));
  if (!to.bitmaps()) return {};
  return stream->run(new CopyOperation(from.bitmaps().get(), to.bitmaps().get()));
}

}  // namespace

Status combine_plans(SparsePlan* a, SparsePlan* b, na_plan_source source, Stream* stream, Stream* host,
                     Ref<SparsePlan>* plan) {
  const char* name = source == NA_PLAN_UNION ? "union" : "intersect";
  Device* const device = a->device();
  Combination result;
  NA_TRY(check_pair(*a, *b, name, &result));
  NA_TRY(check_stream(*stream, device));
  if (!device->host && stream->capturing()) {
    return error(NA_ERR_OPTION,
                 "capture: %s of plans on %s is the work of the CPU, which a graph of %s cannot have; call it outside "
                 "of capture",
                 name, device->name.c_str(), device->name.c_str());
  }
  Ref<SparsePlan> made;
  NA_TRY(SparsePlan::allocate(device, result.geometry, result.words, result.bitmaps, &made));
  if (device->host) {
    NA_TRY(combine(a, b, source, made.get(), stream));
    *plan = std::move(made);
    return {};
  }
  // By the CPU, of copies. All memory is there before the first of them is enqueued.
  NA_TRY(stream->room(9));  // three tensors of three plans
  NA_TRY(host->room());
  Ref<SparsePlan> left, right, both;
  NA_TRY(allocate_like(*a, host->device, &left));
  NA_TRY(allocate_like(*b, host->device, &right));
  NA_TRY(allocate_like(*made, host->device, &both));
  NA_TRY(copy_words(*a, *left, stream));
  NA_TRY(copy_words(*b, *right, stream));
  NA_TRY(combine(left.get(), right.get(), source, both.get(), host));
  NA_TRY(copy_words(*both, *made, stream));
  *plan = std::move(made);
  return {};
}

namespace {

Status inspect(SparsePlan* plan, Stream* stream, const Ref<Tensor>& into, bool dense) {
  na_inspect inspect{};
  inspect.plan = &plan->view;
  (dense ? inspect.dense : inspect.report) = &into->view;
  std::vector<Ref<Tensor>> reads;
  add_tensors(*plan, &reads);
  return stream->run(
      new PlanOperation<na_inspect>(NA_OP_INSPECT, inspect, {Ref<SparsePlan>(plan)}, std::move(reads), {into}));
}

}  // namespace

Status inspect_plan(SparsePlan* plan, Stream* stream, Ref<Tensor>* report) {
  NA_TRY(check_stream(*stream, plan->device()));
  NA_TRY(Tensor::allocate(plan->device(), NA_INT64, {6}, false, false, report));
  return inspect(plan, stream, *report, false);
}

Status dense_plan(SparsePlan* plan, int64_t heads, Stream* stream, Ref<Tensor>* dense) {
  const na_plan& view = plan->view;
  NA_TRY(check_stream(*stream, plan->device()));
  if (heads < view.heads || heads % view.heads != 0) {
    return error(NA_ERR_OPTION, "the plan has %lld patterns of heads, which %lld heads cannot share", Count(view.heads),
                 Count(heads));
  }
  Ref<Tensor> patterns, shown;
  NA_TRY(Tensor::allocate(plan->device(), NA_UINT8, {view.batch, view.heads, view.queries, view.keys}, false, false,
                          &patterns));
  shown = patterns;
  if (heads > view.heads) {
    NA_TRY(stream->room(1 + static_cast<uint64_t>(heads)));
    NA_TRY(
        Tensor::allocate(plan->device(), NA_UINT8, {view.batch, heads, view.queries, view.keys}, false, false, &shown));
  }
  NA_TRY(inspect(plan, stream, patterns, true));
  for (int64_t head = 0; heads > view.heads && head < heads; head++) {
    const int64_t pattern = head / (heads / view.heads);
    Ref<Tensor> from, to;
    NA_TRY(patterns->slice({0, pattern, 0, 0}, {view.batch, pattern + 1, view.queries, view.keys}, &from));
    NA_TRY(shown->slice({0, head, 0, 0}, {view.batch, head + 1, view.queries, view.keys}, &to));
    NA_TRY(stream->run(new CopyOperation(from.get(), to.get())));
  }
  *dense = std::move(shown);
  return {};
}

}  // namespace na
