// Sparse plans: made of lists of blocks or of words, combined, inspected.
#include "core/sparse_plan.h"

#include <iterator>

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

// planBuild(geometry, offsets, blocks, stream | undefined): plan
Napi::Value plan_build(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  PlanGeometry geometry;
  Ref<Tensor> offsets, blocks;
  Ref<Stream> stream;
  Ref<SparsePlan> plan;
  NA_REFUSE(env, read_geometry(info[0], &geometry));
  NA_REFUSE(env, unwrap<Tensor>(info[1], "offsets", &offsets));
  NA_REFUSE(env, unwrap<Tensor>(info[2], "blocks", &blocks));
  NA_REFUSE(env, stream_of(env, info[3], offsets->device(), &stream));
  NA_REFUSE(env, build_plan(geometry, offsets.get(), blocks.get(), stream.get(), &plan));
  return wrap_plan(env, std::move(plan));
}

// planOver(geometry, { offsets?, entries, bitmaps? }): plan
Napi::Value plan_over(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  PlanGeometry geometry;
  Ref<Tensor> offsets, entries, bitmaps;
  Ref<SparsePlan> plan;
  NA_REFUSE(env, read_geometry(info[0], &geometry));
  if (!info[1].IsObject()) return refuse(env, error(NA_ERR_OPTION, "planOver needs words"));
  const auto words = info[1].As<Napi::Object>();
  NA_REFUSE(env, unwrap<Tensor>(words.Get("entries"), "entries", &entries));
  if (!words.Get("offsets").IsUndefined()) {
    NA_REFUSE(env, unwrap<Tensor>(words.Get("offsets"), "offsets", &offsets));
  }
  if (!words.Get("bitmaps").IsUndefined()) {
    NA_REFUSE(env, unwrap<Tensor>(words.Get("bitmaps"), "bitmaps", &bitmaps));
  }
  NA_REFUSE(env, SparsePlan::over(geometry, offsets, entries, bitmaps, &plan));
  return wrap_plan(env, std::move(plan));
}

// planCombine(a, b, union, stream | undefined): plan
Napi::Value plan_combine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<SparsePlan> a, b, plan;
  Ref<Stream> stream, host;
  Device* cpu = nullptr;
  NA_REFUSE(env, unwrap<SparsePlan>(info[0], "this plan", &a));
  NA_REFUSE(env, unwrap<SparsePlan>(info[1], "the other plan", &b));
  NA_REFUSE(env, stream_of(env, info[3], a->device(), &stream));
  NA_REFUSE(env, find_device("cpu", &cpu));
  NA_REFUSE(env, Environment::of(env)->default_stream(cpu, &host));
  const na_plan_source source = read_flag(info[2]) ? NA_PLAN_UNION : NA_PLAN_INTERSECTION;
  NA_REFUSE(env, combine_plans(a.get(), b.get(), source, stream.get(), host.get(), &plan));
  return wrap_plan(env, std::move(plan));
}

// planReport(plan, stream | undefined): tensor
Napi::Value plan_report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<SparsePlan> plan;
  Ref<Stream> stream;
  Ref<Tensor> tensor;
  NA_REFUSE(env, unwrap<SparsePlan>(info[0], "this plan", &plan));
  NA_REFUSE(env, stream_of(env, info[1], plan->device(), &stream));
  NA_REFUSE(env, inspect_plan(plan.get(), stream.get(), &tensor));
  return wrap_tensor(env, std::move(tensor));
}

// planDense(plan, heads, stream | undefined): tensor
Napi::Value plan_dense(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<SparsePlan> plan;
  int64_t heads = 0;
  Ref<Stream> stream;
  Ref<Tensor> tensor;
  NA_REFUSE(env, unwrap<SparsePlan>(info[0], "this plan", &plan));
  NA_REFUSE(env, read_integer(info[1], "heads", NA_ERR_OPTION, &heads));
  NA_REFUSE(env, stream_of(env, info[2], plan->device(), &stream));
  NA_REFUSE(env, dense_plan(plan.get(), heads, stream.get(), &tensor));
  return wrap_tensor(env, std::move(tensor));
}

// planWords(plan): { offsets?, entries, bitmaps? }
Napi::Value plan_words(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<SparsePlan> plan;
  NA_REFUSE(env, unwrap<SparsePlan>(info[0], "this plan", &plan));
  Napi::Object words = Napi::Object::New(env);
  if (plan->offsets()) words.Set("offsets", wrap(env, plan->offsets()));
  words.Set("entries", wrap(env, plan->entries()));
  if (plan->bitmaps()) words.Set("bitmaps", wrap(env, plan->bitmaps()));
  return words;
}

// planInfo(plan): { geometry, bytes, device }
Napi::Value plan_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<SparsePlan> plan;
  NA_REFUSE(env, unwrap<SparsePlan>(info[0], "this plan", &plan));
  const na_plan& view = plan->view;
  const int64_t geometry[] = {view.batch,     view.heads,  view.queries,  view.keys,   view.query_tile,
                              view.key_block, view.causal, view.estimate, view.levels, plan->complete};
  Napi::Object result = Napi::Object::New(env);
  result.Set("geometry", numbers(env, geometry, std::size(geometry)));
  result.Set("bytes", Napi::Number::New(env, static_cast<double>(plan->bytes())));
  result.Set("device", Napi::String::New(env, plan->device()->name));
  return result;
}

}  // namespace

void export_sparse_plan(Napi::Env env, Napi::Object exports) {
  export_function<plan_build>(env, exports, "planBuild");
  export_function<plan_over>(env, exports, "planOver");
  export_function<plan_combine>(env, exports, "planCombine");
  export_function<plan_report>(env, exports, "planReport");
  export_function<plan_dense>(env, exports, "planDense");
  export_function<plan_words>(env, exports, "planWords");
  export_function<plan_info>(env, exports, "planInfo");
  export_function<dispose<SparsePlan>>(env, exports, "planDispose");
}

}  // namespace na
