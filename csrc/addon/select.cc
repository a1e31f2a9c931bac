// Selectors: reads the call that lib/selectors.ts has put into plain form.
#include "core/select.h"

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

Status read_number(const Napi::Object& call, const char* name, double* number) {
  const Napi::Value value = call.Get(name);
  if (!value.IsNumber()) return error(NA_ERR_OPTION, "%s must be a number", name);
  *number = value.As<Napi::Number>().DoubleValue();
  return {};
}

Status read_select(const Napi::Object& call, SelectArguments* a) {
  int64_t selector = 0, pooling = 0;
  NA_TRY(read_integer(call.Get("selector"), "selector", NA_ERR_OPTION, &selector));
  NA_TRY(read_integer(call.Get("pooling"), "pooling", NA_ERR_OPTION, &pooling));
  if (selector < NA_SELECT_HIP || selector > NA_SELECT_POOLED) return error(NA_ERR_OPTION, "selector is not known");
  if (pooling < NA_POOL_MEAN || pooling > NA_POOL_BOUNDS) return error(NA_ERR_OPTION, "pooling is not known");
  NA_TRY(read_integer(call.Get("queryPooling"), "queryPooling", NA_ERR_OPTION, &a->query_pooling));
  if (a->query_pooling < -1 || a->query_pooling > NA_POOL_MIN) return error(NA_ERR_OPTION, "queryPooling is not known");
  a->selector = static_cast<na_selector>(selector);
  a->pooling = static_cast<na_pooling>(pooling);
  NA_TRY(read_geometry(call.Get("geometry"), &a->geometry));
  NA_TRY(read_integer(call.Get("sink"), "sink", NA_ERR_OPTION, &a->sink));
  NA_TRY(read_integer(call.Get("window"), "window", NA_ERR_OPTION, &a->window));
  NA_TRY(read_integers(call.Get("budgets"), "budget", NA_ERR_OPTION, &a->budgets));
  NA_TRY(read_integers(call.Get("levels"), "levels", NA_ERR_OPTION, &a->levels));
  NA_TRY(read_integers(call.Get("chunk"), "chunk", NA_ERR_OPTION, &a->chunk));
  NA_TRY(read_integers(call.Get("keep"), "keep", NA_ERR_OPTION, &a->keep));
  // What follows is computed with: twice a number of keys must be one.
  for (int64_t keys : {a->sink, a->window}) {
    if (keys < 0 || keys > int64_t{1} << 40) return error(NA_ERR_OPTION, "always is out of range");
  }
  for (const auto* list : {&a->budgets, &a->levels, &a->keep}) {
    for (int64_t keys : *list) {
      if (keys < 0) return error(NA_ERR_OPTION, "a number of keys is negative");
    }
  }
  a->first = read_flag(call.Get("first"));
  a->per_query = read_flag(call.Get("perQuery"));
  a->pooled = read_flag(call.Get("pooled"));
  NA_TRY(read_number(call, "scale", &a->scale));
  NA_TRY(read_number(call, "topP", &a->top_p));
  return read_number(call, "threshold", &a->threshold);
}

// select(call): plan
Napi::Value call_select(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) return refuse(env, error(NA_ERR_OPTION, "select needs a call"));
  const auto call = info[0].As<Napi::Object>();
  SelectArguments arguments;
  Ref<Tensor> q, k;
  Ref<KvCache> cache;
  Ref<Stream> stream;
  Ref<SparsePlan> plan;
  Ref<HipState> state;
  NA_REFUSE(env, unwrap<Tensor>(call.Get("q"), "q", &q));
  const Napi::Value of = call.Get("cache");
  if (of.IsUndefined()) {
    NA_REFUSE(env, unwrap<Tensor>(call.Get("k"), "k", &k));
  } else {
    NA_REFUSE(env, unwrap<KvCache>(of, "cache", &cache));
  }
  arguments.q = q.get();
  arguments.k = k.get();
  arguments.cache = cache.get();
  NA_REFUSE(env, read_select(call, &arguments));
  const Napi::Value given = call.Get("state");
  if (!given.IsUndefined()) {
    NA_REFUSE(env, unwrap<HipState>(given, "state", &state));
    arguments.state = state.get();
  }
  NA_REFUSE(env, stream_of(env, call.Get("stream"), q->device(), &stream));
  NA_REFUSE(env, select(arguments, stream.get(), &plan));
  return wrap_plan(env, std::move(plan));
}

// hipStateCreate(refresh): state
Napi::Value hip_state_create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::vector<int64_t> refresh;
  NA_REFUSE(env, read_integers(info[0], "refresh", NA_ERR_OPTION, &refresh));
  bool sound = !refresh.empty() && refresh.size() <= NA_MAX_STAGES;
  for (int64_t calls : refresh) sound &= calls >= 1;
  if (!sound) return refuse(env, error(NA_ERR_OPTION, "refresh needs 1 to %d numbers of at least 1", NA_MAX_STAGES));
  return wrap(env, Ref<HipState>(new HipState(std::move(refresh))));
}

// hipStateRuns(state): how often each stage has run
Napi::Value hip_state_runs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<HipState> state;
  NA_REFUSE(env, unwrap<HipState>(info[0], "this state", &state));
  return numbers(env, state->runs().data(), state->runs().size());
}

}  // namespace

void export_select(Napi::Env env, Napi::Object exports) {
  export_function<call_select>(env, exports, "select");
  export_function<hip_state_create>(env, exports, "hipStateCreate");
  export_function<hip_state_runs>(env, exports, "hipStateRuns");
  export_function<dispose<HipState>>(env, exports, "hipStateDispose");
}

}  // namespace na
