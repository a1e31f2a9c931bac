#include "core/attention.h"

#include <cmath>

#include "core/kv_cache.h"
#include "core/summaries.h"

namespace na {
namespace {

constexpr int64_t kMostHeadDim = 512;
// Positions, and twice their number, are 32-bit inside the kernels.
constexpr int64_t kMostTokens = int64_t{1} << 30;

// What the arguments of an operation point to, beside tensors; any of it may be null.
struct Attached {
  Ref<ScoreMod> mod;
  Ref<CacheView> cache;
  Ref<Tensor> touched;
  Ref<Summaries> pooled_k[NA_LEVELS], pooled_v[NA_LEVELS];
};

class AttentionOperation final : public Operation {
 public:
  AttentionOperation(const na_attention& attention, const Attached& attached)
      : Operation(NA_OP_ATTENTION), attention_(attention), attached_(attached) {
    args = &attention_;
    retain_tensors();
  }
  AttentionOperation(const AttentionOperation& other)
      : Operation(other), attention_(other.attention_), attached_(other.attached_) {
    args = &attention_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override {
    const na_attention& a = attention_;
    for (const na_tensor* read : {a.q, a.k, a.v, a.sinks, a.extra_k, a.extra_v, a.cu_q, a.cu_k}) {
      if (read) visit(context, Tensor::of(read), false);
    }
    if (attached_.mod) {
      for (const Ref<Tensor>& tensor : attached_.mod->tensors()) visit(context, tensor.get(), false);
    }
    if (attached_.cache) {
      attached_.cache->each_tensor([&](Tensor* tensor) { visit(context, tensor, false); });
    }
    if (attached_.touched) visit(context, attached_.touched.get(), true);
    for (const auto* pooled : {&attached_.pooled_k, &attached_.pooled_v}) {
      for (const Ref<Summaries>& means : *pooled) {
        if (means) means->each_tensor([&](Tensor* tensor, bool) { visit(context, tensor, false); });
      }
    }
    visit(context, Tensor::of(a.out), true);
    visit(context, Tensor::of(a.lse), true);
  }
  Operation* clone() const override { return new AttentionOperation(*this); }

 private:
  void** workspace() override { return &attention_.workspace; }
  na_attention attention_;
  const Attached attached_;
};

struct Named {
  const char* name;
  Tensor* tensor;
};

Shape token_axes(const na_tensor& view) { return Shape(view.shape + 1, view.shape + view.rank - 2); }

int64_t product(const Shape& shape) {
  int64_t result = 1;
  for (int64_t length : shape) result *= length;
  return result;
}

Status check_same(const char* what, const Named& a, int64_t a_value, const Named& b, int64_t b_value) {
  if (a_value == b_value) return {};
  return error(NA_ERR_SHAPE, "%s of %s is %lld but %s of %s is %lld; %s is %s, %s is %s", what, a.name,
               static_cast<long long>(a_value), what, b.name, static_cast<long long>(b_value), a.name,
               shape_text(a.tensor->view).c_str(), b.name, shape_text(b.tensor->view).c_str());
}

// A tensor [batch, tokens..., heads, headDim] of the dtype and device of q.
Status check_tokens(const Named& given, const Named& q, int32_t least_rank, int32_t most_rank) {
  const na_tensor& view = given.tensor->view;
  if (view.rank < least_rank || view.rank > most_rank) {
    return error(NA_ERR_SHAPE,
                 "%s has shape %s; expected [batch, tokens..., heads, headDim] with one to three token axes",
                 given.name, shape_text(view).c_str());
  }
  if (!dtype_is_float(view.dtype)) {
    return error(NA_ERR_DTYPE, "%s is %s; attention takes float32, float16 or bfloat16", given.name,
                 dtype_name(view.dtype));
  }
  if (view.dtype != q.tensor->view.dtype) {
    return error(NA_ERR_DTYPE, "%s is %s but q is %s; convert one with to()", given.name, dtype_name(view.dtype),
                 dtype_name(q.tensor->view.dtype));
  }
  if (given.tensor->device() != q.tensor->device()) {
    return error(NA_ERR_DEVICE, "%s is on %s but q is on %s; move one with to()", given.name,
                 given.tensor->device()->name.c_str(), q.tensor->device()->name.c_str());
  }
  const int32_t last = view.rank - 1;
  if (view.stride[last] != 1 && view.shape[last] > 1) {
    return error(NA_ERR_SHAPE, "%s has stride %lld on its last axis; it must be 1: copy it with to()", given.name,
                 static_cast<long long>(view.stride[last]));
  }
  if (view.shape[last] < 1 || view.shape[last] > kMostHeadDim) {
    return error(NA_ERR_SHAPE, "headDim of %s is %lld; it must be in 1 ... %lld", given.name,
                 static_cast<long long>(view.shape[last]), static_cast<long long>(kMostHeadDim));
  }
  if (product(token_axes(view)) > kMostTokens) {
    return error(NA_ERR_SHAPE, "%s has %lld tokens; at most %lld are supported", given.name,
                 static_cast<long long>(product(token_axes(view))), static_cast<long long>(kMostTokens));
  }
  return {};
}

// k and v, or extra.k and extra.v, against q and against each other.
Status check_keys(const Named& q, const Named& k, const Named& v) {
  const na_tensor &qv = q.tensor->view, &kv = k.tensor->view, &vv = v.tensor->view;
  NA_TRY(check_same("batch", q, qv.shape[0], k, kv.shape[0]));
  NA_TRY(check_same("batch", q, qv.shape[0], v, vv.shape[0]));
  NA_TRY(check_same("headDim", q, qv.shape[qv.rank - 1], k, kv.shape[kv.rank - 1]));
  NA_TRY(check_same("kvHeads", k, kv.shape[kv.rank - 2], v, vv.shape[vv.rank - 2]));
  if (token_axes(kv) != token_axes(vv)) {
    return error(NA_ERR_SHAPE, "%s has token axes %s but %s has %s", k.name, shape_text(token_axes(kv)).c_str(), v.name,
                 shape_text(token_axes(vv)).c_str());
  }
  const int64_t heads = qv.shape[qv.rank - 2], kv_heads = kv.shape[kv.rank - 2];
  if (heads < 1 || kv_heads < 1 || heads % kv_heads != 0) {
    return error(
        NA_ERR_SHAPE,
        "q has %lld heads and %s has %lld: each key head serves a whole number of query heads, so heads must be a "
        "multiple of kvHeads",
        static_cast<long long>(heads), k.name, static_cast<long long>(kv_heads));
  }
  return {};
}

Status check_device(const Named& given, const Device* device) {
  if (given.tensor->device() == device) return {};
  return error(NA_ERR_DEVICE, "%s is on %s but q is on %s; move one with to()", given.name,
               given.tensor->device()->name.c_str(), device->name.c_str());
}

// A one-axis tensor of a given dtype and, where known, length.
Status check_vector(const Named& given, int32_t dtype, int64_t length, const Device* device) {
  const na_tensor& view = given.tensor->view;
  if (view.dtype != dtype) {
    return error(NA_ERR_DTYPE, "%s is %s; it must be %s", given.name, dtype_name(view.dtype), dtype_name(dtype));
  }
  if (view.rank != 1 || view.shape[0] < 1 || (length >= 0 && view.shape[0] != length)) {
    return error(NA_ERR_SHAPE, "%s has shape %s; expected [%s]", given.name, shape_text(view).c_str(),
                 length >= 0 ? std::to_string(length).c_str() : "sequences + 1");
  }
  return check_device(given, device);
}

Status check_ragged(const AttentionArguments& a) {
  const Device* device = a.q->device();
  if (!a.cu_q || !a.cu_k) {
    return error(NA_ERR_OPTION, "cuSeqlens needs both q and k; %s is missing", a.cu_q ? "k" : "q");
  }
  NA_TRY(check_vector({"cuSeqlens.q", a.cu_q}, NA_INT32, -1, device));
  NA_TRY(check_vector({"cuSeqlens.k", a.cu_k}, NA_INT32, a.cu_q->view.shape[0], device));
  for (const Named& packed : {Named{"q", a.q}, Named{"k", a.k}}) {
    const na_tensor& view = packed.tensor->view;
    if (view.rank != 4 || view.shape[0] != 1) {
      return error(NA_ERR_SHAPE, "cuSeqlens: %s has shape %s; packed sequences need batch 1 and one token axis",
                   packed.name, shape_text(view).c_str());
    }
  }
  return {};
}

// What cannot be said of a cache's keys.
Status check_cached(const AttentionArguments& a) {
  NA_TRY(a.cache->check_queries(*a.q));
  if (a.cu_q || a.cu_k) {
    return error(NA_ERR_OPTION, "cuSeqlens cannot be used with a KvCache, which has a length for each sequence");
  }
  for (const MaskSpec& mask : a.masks) {
    if (mask.kind == NA_MASK_NEIGHBORHOOD) {
      return error(NA_ERR_OPTION, "mask: neighborhood needs a grid and cannot be used with a KvCache; use window()");
    }
  }
  return {};
}

// What fits a cache of one length only cannot be recorded.
Status check_recorded(const AttentionArguments& a) {
  for (const MaskSpec& mask : a.masks) {
    if (mask.kind != NA_MASK_PLAN) continue;
    return error(
        NA_ERR_OPTION,
        "capture: a sparse plan over the keys of a KvCache, whose number changes from launch to launch, cannot "
        "be recorded; call attention outside of capture");
  }
  for (const BiasSpec& bias : a.biases) {
    if (bias.kind == BiasSpec::kAlibi) continue;
    return error(NA_ERR_OPTION,
                 "capture: a bias over the keys of a KvCache, whose number changes from launch to launch, cannot be "
                 "recorded; alibi() can, and attention outside of capture");
  }
  return {};
}

// attention() over a cache, as a graph makes it.
class CachedAttention final : public RecordedCall {
 public:
  CachedAttention(const AttentionArguments& arguments, const AttentionResult& result)
      : arguments_(arguments), cache_(arguments.cache) {
    arguments_.out = result.out.get();
    arguments_.lse = result.lse.get();
    const AttentionArguments& a = arguments_;
    for (Tensor* tensor : {a.q, a.sinks, a.extra_k, a.extra_v, a.out, a.lse}) held_.emplace_back(tensor);
    for (const BiasSpec& bias : a.biases) held_.emplace_back(bias.tensor);  // slopes
  }
  Status check(Growth*) const override { return {}; }
  Status make(Stream* stream) const override {
    AttentionResult result;
    return attention(arguments_, stream, &result);
  }

 private:
  AttentionArguments arguments_;
  const Ref<KvCache> cache_;
  std::vector<Ref<Tensor>> held_;
};

// The plan among the masks, or null.
const SparsePlan* plan_among(const std::vector<MaskSpec>& masks) {
  for (const MaskSpec& mask : masks) {
    if (mask.kind == NA_MASK_PLAN) return mask.plan.get();
  }
  return nullptr;
}

// Of the means by which keys of a plan may count: bits of their levels.
uint32_t mean_levels(const SparsePlan& plan) {
  // A block, which is what is estimated, has as many keys as the bit of its level says.
  return static_cast<uint32_t>(plan.view.levels | (plan.view.estimate ? plan.view.key_block : 0));
}

int count_of(uint32_t levels) { return __builtin_popcount(levels); }

// What has no meaning for a key that stands for many.
Status check_means(const AttentionArguments& a) {
  const char* other = a.masks.size() > 1 ? "a further mask" : !a.biases.empty() ? "bias" : nullptr;
  if (a.has_softcap) other = "softcap";
  if (other) {
    return error(NA_ERR_OPTION,
                 "mask: a SparsePlan by which keys count by their means cannot be used with %s; make it without "
                 "estimate and levels",
                 other);
  }
  return {};
}

}  // namespace

Status scale_of(bool given, double scale, int64_t head_dim, float* result) {
  *result = static_cast<float>(given ? scale : 1.0 / std::sqrt(static_cast<double>(head_dim)));
  if (!given || std::isfinite(*result)) return {};
  return error(NA_ERR_OPTION, "scale is %g; it must be a finite float32 number", scale);
}

Status check_out(Tensor* out, const Shape& shape, int32_t dtype, const Device* device,
                 const std::vector<Tensor*>& inputs) {
  const na_tensor& view = out->view;
  if (view.dtype != dtype) {
    return error(NA_ERR_DTYPE, "out is %s; it must be %s", dtype_name(view.dtype), dtype_name(dtype));
  }
  if (shape_of(view) != shape) {
    return error(NA_ERR_SHAPE, "out has shape %s; it must be %s", shape_text(view).c_str(), shape_text(shape).c_str());
  }
  NA_TRY(check_device({"out", out}, device));
  const int32_t last = view.rank - 1;
  if (view.stride[last] != 1 && view.shape[last] > 1) {
    return error(NA_ERR_SHAPE, "out has stride %lld on its last axis; it must be 1",
                 static_cast<long long>(view.stride[last]));
  }
  const char *begin, *end;
  byte_range(view, &begin, &end);
  for (const Tensor* input : inputs) {
    const char *from, *to;
    byte_range(input->view, &from, &to);
    if (input->storage.get() == out->storage.get() && begin < to && from < end) {
      return error(NA_ERR_OPTION, "out shares memory with an input (%s); give it memory of its own",
                   input->describe().c_str());
    }
  }
  return {};
}

Status attention(const AttentionArguments& arguments, Stream* stream, AttentionResult* result) {
  Submission all(stream);
  NA_TRY(attention(arguments, &all, result));
  return all.run();
}

Status attention(const AttentionArguments& arguments, Submission* all, AttentionResult* result) {
  Stream* const stream = all->stream;
  AttentionArguments a = arguments;
  Ref<CacheView> cached;
  if (a.cache) {
    NA_TRY(check_cached(a));
    if (stream->capturing()) NA_TRY(check_recorded(a));
    cached = a.cache->view();
    a.k = cached->k();
    a.v = cached->v();
  }
  const char* const of = a.cache ? "the cache" : nullptr;
  const Named q{"q", a.q}, k{of ? of : "k", a.k}, v{of ? of : "v", a.v};
  Device* device = a.q->device();
  NA_TRY(stream->check_device(device, "q"));
  const SparsePlan* const plan = plan_among(a.masks);
  const uint32_t levels = plan && !plan->complete ? mean_levels(*plan) : 0;
  NA_TRY(stream->room(1 + count_of(levels) * 2 * CacheSummaries::kMaking + (a.cache ? 1 + KvCache::kListing : 0)));
  for (const Named& tensor : {q, k, v}) NA_TRY(check_tokens(tensor, q, 4, 3 + NA_MAX_AXES));
  NA_TRY(check_keys(q, k, v));
  if (plan && mean_levels(*plan) != 0) NA_TRY(check_means(a));  // whatever it lists

  const na_tensor& qv = a.q->view;
  const int64_t heads = qv.shape[qv.rank - 2];
  std::vector<Tensor*> inputs = {a.q, a.k, a.v};
  if (a.extra_k || a.extra_v) {
    if (!a.extra_k || !a.extra_v)
      return error(NA_ERR_OPTION, "extra needs both k and v; %s is missing", a.extra_k ? "v" : "k");
    const Named extra_k{"extra.k", a.extra_k}, extra_v{"extra.v", a.extra_v};
    for (const Named& tensor : {extra_k, extra_v}) NA_TRY(check_tokens(tensor, q, 4, 4));
    NA_TRY(check_keys(q, extra_k, extra_v));
    const na_tensor &kv = a.k->view, &vv = a.v->view, &ekv = a.extra_k->view, &evv = a.extra_v->view;
    NA_TRY(check_same("kvHeads", k, kv.shape[kv.rank - 2], extra_k, ekv.shape[ekv.rank - 2]));
    NA_TRY(check_same("headDim", v, vv.shape[vv.rank - 1], extra_v, evv.shape[evv.rank - 1]));
    inputs.insert(inputs.end(), {a.extra_k, a.extra_v});
  }
  if (a.sinks) {
    NA_TRY(check_vector({"sinks", a.sinks}, NA_FLOAT32, heads, device));
    inputs.push_back(a.sinks);
  }
  const bool ragged = a.cu_q || a.cu_k;
  if (ragged) {
    NA_TRY(check_ragged(a));
    inputs.insert(inputs.end(), {a.cu_q, a.cu_k});
  }
  float scale = 0;
  NA_TRY(scale_of(a.has_scale, a.scale, qv.shape[qv.rank - 1], &scale));
  if (a.has_softcap && !(std::isfinite(static_cast<float>(a.softcap)) && static_cast<float>(a.softcap) > 0)) {
    return error(NA_ERR_OPTION, "softcap is %g; it must be a finite float32 number above 0 (leave it out for no cap)",
                 a.softcap);
  }

  const ScoreShape score_shape{qv.shape[0],
                               heads,
                               a.k->view.shape[a.k->view.rank - 2],
                               product(token_axes(qv)),
                               product(token_axes(a.k->view)),
                               token_axes(qv),
                               token_axes(a.k->view),
                               ragged,
                               device};
  Attached attached;
  attached.cache = cached;
  Ref<ScoreMod>& mod = attached.mod;
  NA_TRY(ScoreMod::make(a.masks, a.biases, score_shape, &mod));
  for (const BiasSpec& bias : a.biases) {
    for (Tensor* tensor : {bias.tensor, bias.query, bias.key}) {
      if (tensor) inputs.push_back(tensor);
    }
  }

  Shape out_shape = shape_of(qv);
  out_shape.back() = a.v->view.shape[a.v->view.rank - 1];
  if (a.out) NA_TRY(check_out(a.out, out_shape, qv.dtype, device, inputs));

  na_attention call{};
  call.q = &a.q->view;
  call.k = &a.k->view;
  call.v = &a.v->view;
  const auto view_of = [](Tensor* tensor) { return tensor ? &tensor->view : nullptr; };
  call.sinks = view_of(a.sinks);
  call.extra_k = view_of(a.extra_k);
  call.extra_v = view_of(a.extra_v);
  call.cu_q = view_of(a.cu_q);
  call.cu_k = view_of(a.cu_k);
  if (mod) {
    call.masks = mod->masks().data();
    call.biases = mod->biases().data();
    call.mask_count = static_cast<int32_t>(mod->masks().size());
    call.bias_count = static_cast<int32_t>(mod->biases().size());
  }
  call.scale = scale;
  call.softcap = a.has_softcap ? static_cast<float>(a.softcap) : 0.0f;
  call.tf32 = a.tf32;

  Shape lse_shape = out_shape;
  lse_shape.pop_back();
  result->out = Ref<Tensor>(a.out);
  if (!a.out) NA_TRY(Tensor::allocate(device, qv.dtype, out_shape, false, false, &result->out));
  result->lse = Ref<Tensor>(a.lse);
  if (!a.lse) NA_TRY(Tensor::allocate(device, NA_FLOAT32, lse_shape, false, false, &result->lse));
  call.out = &result->out->view;
  call.lse = &result->lse->view;
  // Before a graph is made that could not be launched, and before memory is taken for means that nobody would use.
  if (((cached && stream->capturing()) || levels != 0) && !device->host) {
    if (cached) call.pages = &cached->pages();
    int64_t bytes = 0;
    NA_TRY(device->check(NA_OP_ATTENTION, &call, &bytes));
  }
  if (cached && stream->capturing()) {
    stream->record(std::make_unique<CachedAttention>(arguments, *result));
    return {};
  }
  if (cached) NA_TRY(a.cache->list_pages(cached.get(), all));
  for (int level = 1; level < NA_LEVELS; level++) {
    if ((levels >> level & 1) == 0) continue;
    const SummarySpec spec{NA_POOL_MEAN, int64_t{1} << level, qv.dtype};
    const auto means = [&](bool values, Ref<Summaries>* made) {
      if (cached) return a.cache->summaries().make({spec, values}, cached, all, made);
      return pool(values ? a.v : a.k, spec, all, made);
    };
    NA_TRY(means(false, &attached.pooled_k[level]));
    NA_TRY(means(true, &attached.pooled_v[level]));
    call.pooled_k[level] = &attached.pooled_k[level]->view();
    call.pooled_v[level] = &attached.pooled_v[level]->view();
  }
  Ref<Tensor> rotated;
  if (cached) {
    NA_TRY(a.cache->rotate_queries(a.q, all, &rotated));
    call.q = &rotated->view;
    call.pages = &cached->pages();
    if (plan && !plan->complete) NA_TRY(a.cache->note_touched(*plan, all, &attached.touched));
    call.touched = view_of(attached.touched.get());
  }
  all->add(new AttentionOperation(call, attached));
  return {};
}

}  // namespace na
