// attention(): reads the call that lib/attention.ts has put into plain form.
#include "core/attention.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

// What the call reads, held until it is enqueued.
struct Held {
  std::vector<Ref<Tensor>> tensors;
  Ref<KvCache> cache;

  Status take(const Napi::Value& value, const char* name, Tensor** tensor) {
    Ref<Tensor> held;
    NA_TRY(unwrap<Tensor>(value, name, &held));
    *tensor = held.get();
    tensors.push_back(std::move(held));
    return {};
  }
  // Absent (undefined) is legal.
  Status take_optional(const Napi::Value& value, const char* name, Tensor** tensor) {
    return value.IsUndefined() ? Status{} : take(value, name, tensor);
  }
};

Status read_setting(const Napi::Value& value, NeighborhoodSpec* setting) {
  if (!value.IsObject()) return error(NA_ERR_OPTION, "neighborhood: settings must be objects");
  const auto object = value.As<Napi::Object>();
  const struct {
    const char* name;
    PerAxis* values;
  } fields[] = {{"window", &setting->window},
                {"stride", &setting->stride},
                {"dilation", &setting->dilation},
                {"causal", &setting->causal},
                {"wrap", &setting->wrap}};
  for (const auto& field : fields) {
    NA_TRY(read_integers(object.Get(field.name), field.name, NA_ERR_OPTION, field.values));
  }
  return {};
}

Status read_mask(const Napi::Value& value, MaskSpec* mask) {
  if (!value.IsObject()) return error(NA_ERR_OPTION, "mask is not a mask");
  const auto object = value.As<Napi::Object>();
  const Napi::Value plan = object.Get("plan");
  if (!plan.IsUndefined()) {
    mask->kind = NA_MASK_PLAN;
    return unwrap<SparsePlan>(plan, "mask", &mask->plan);
  }
  const Napi::Value settings = object.Get("settings");
  if (settings.IsUndefined()) {
    mask->kind = NA_MASK_WINDOW;
    NA_TRY(read_integer(object.Get("left"), "left", NA_ERR_OPTION, &mask->left));
    return read_integer(object.Get("right"), "right", NA_ERR_OPTION, &mask->right);
  }
  mask->kind = NA_MASK_NEIGHBORHOOD;
  Napi::Array array;
  NA_TRY(read_list(settings, "neighborhood: settings", NA_ERR_OPTION, &array));
  mask->settings.resize(array.Length());
  for (uint32_t i = 0; i < mask->settings.size(); i++) NA_TRY(read_setting(array.Get(i), &mask->settings[i]));
  return {};
}

Status read_path(const Napi::Value& value, na_low_rank_path* path) {
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (name == "matrix") {
    *path = NA_LOW_RANK_MATRIX;
  } else if (name == "vector") {
    *path = NA_LOW_RANK_VECTOR;
  } else if (name != "auto") {
    return error(NA_ERR_OPTION, "bias: unknown path '%s'", name.c_str());
  }
  return {};
}

Status read_bias(const Napi::Value& value, Held* held, BiasSpec* bias) {
  static const struct {
    const char* name;
    BiasSpec::Kind kind;
  } kKinds[] = {{"key", BiasSpec::kKey},     {"dense", BiasSpec::kDense},       {"lowRank", BiasSpec::kLowRank},
                {"alibi", BiasSpec::kAlibi}, {"distance", BiasSpec::kDistance}, {"relative", BiasSpec::kRelative}};
  if (!value.IsObject()) return error(NA_ERR_OPTION, "bias is not a bias");
  const auto object = value.As<Napi::Object>();
  const Napi::Value given = object.Get("kind");
  const std::string name = given.IsString() ? given.As<Napi::String>().Utf8Value() : "";
  const auto* known = std::find_if(std::begin(kKinds), std::end(kKinds), [&](auto& one) { return name == one.name; });
  if (known == std::end(kKinds)) return error(NA_ERR_OPTION, "bias of unknown kind '%s'", name.c_str());
  bias->kind = known->kind;
  const bool factors = bias->kind == BiasSpec::kLowRank || bias->kind == BiasSpec::kDistance;
  const bool needed = !factors && bias->kind != BiasSpec::kAlibi;
  NA_TRY(needed ? held->take(object.Get("tensor"), "bias", &bias->tensor)
                : held->take_optional(object.Get("tensor"), "bias", &bias->tensor));
  if (factors) {
    NA_TRY(held->take(object.Get("query"), "bias", &bias->query));
    NA_TRY(held->take(object.Get("key"), "bias", &bias->key));
  }
  if (bias->kind == BiasSpec::kLowRank) NA_TRY(read_path(object.Get("path"), &bias->path));
  const Napi::Value heads = object.Get("heads");
  if (bias->kind == BiasSpec::kDense && !heads.IsUndefined()) {
    NA_TRY(read_integers(heads, "heads", NA_ERR_OPTION, &bias->heads));
  }
  if (bias->kind != BiasSpec::kRelative) return {};
  return read_integers(object.Get("step"), "dilation", NA_ERR_OPTION, &bias->step);
}

Status read_call(const Napi::CallbackInfo& info, Held* held, AttentionArguments* a, Ref<Stream>* stream) {
  size_t next = 0;
  NA_TRY(held->take(info[next++], "q", &a->q));
  const Napi::Value k = info[next++], v = info[next++], cache = info[next++];
  if (cache.IsUndefined()) {
    NA_TRY(held->take(k, "k", &a->k));
    NA_TRY(held->take(v, "v", &a->v));
  } else {
    NA_TRY(unwrap<KvCache>(cache, "cache", &held->cache));
    a->cache = held->cache.get();
  }
  NA_TRY(held->take_optional(info[next++], "sinks", &a->sinks));
  NA_TRY(held->take_optional(info[next++], "extra.k", &a->extra_k));
  NA_TRY(held->take_optional(info[next++], "extra.v", &a->extra_v));
  NA_TRY(held->take_optional(info[next++], "cuSeqlens.q", &a->cu_q));
  NA_TRY(held->take_optional(info[next++], "cuSeqlens.k", &a->cu_k));
  NA_TRY(held->take_optional(info[next++], "out", &a->out));

  Napi::Array masks, biases;
  NA_TRY(read_list(info[next++], "mask", NA_ERR_OPTION, &masks));
  a->masks.resize(masks.Length());
  for (uint32_t i = 0; i < a->masks.size(); i++) NA_TRY(read_mask(masks.Get(i), &a->masks[i]));
  NA_TRY(read_list(info[next++], "bias", NA_ERR_OPTION, &biases));
  for (uint32_t i = 0, count = biases.Length(); i < count; i++) {
    BiasSpec bias;
    NA_TRY(read_bias(biases.Get(i), held, &bias));
    a->biases.push_back(bias);
  }

  const Napi::Value scale = info[next++], softcap = info[next++];
  a->has_scale = scale.IsNumber();
  if (a->has_scale) a->scale = scale.As<Napi::Number>().DoubleValue();
  a->has_softcap = softcap.IsNumber();
  if (a->has_softcap) a->softcap = softcap.As<Napi::Number>().DoubleValue();
  a->tf32 = read_flag(info[next++]);
  NA_TRY(stream_of(info.Env(), info[next++], a->q->device(), stream));
  return info.Env().IsExceptionPending() ? error(NA_ERR_OPTION, "the call cannot be read") : Status{};
}

// attention(q, k, v, cache, sinks, extraK, extraV, cuQ, cuK, out, masks, biases, scale, softcap, tf32, stream):
// { out, lse }. As arguments, since each property of an object would cost a tenth of a microsecond.
Napi::Value call_attention(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Held held;
  AttentionArguments arguments;
  Ref<Stream> stream;
  NA_REFUSE(env, read_call(info, &held, &arguments, &stream));
  AttentionResult result;
  NA_REFUSE(env, attention(arguments, stream.get(), &result));
  return wrap_result(env, std::move(result), arguments.out != nullptr);
}

}  // namespace

void export_attention(Napi::Env env, Napi::Object exports) {
  export_function<call_attention>(env, exports, "attention");
}

}  // namespace na
