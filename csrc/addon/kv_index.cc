// KvIndex.
#include "core/kv_index.h"

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

// A graph of { queries, degree, effort }; none where there are no queries.
Status read_graph(Napi::Env env, const Napi::Object& options, KvCache* cache, Ref<KeyGraph>* graph) {
  const Napi::Value given = options.Get("queries");
  if (given.IsEmpty() || given.IsUndefined()) return {};
  Ref<Tensor> queries;
  Ref<Stream> stream;
  KeyGraphShape shape;
  NA_TRY(unwrap<Tensor>(given, "queries", &queries));
  NA_TRY(read_integer(options.Get("degree"), "degree", NA_ERR_OPTION, &shape.degree));
  NA_TRY(read_integer(options.Get("effort"), "effort", NA_ERR_OPTION, &shape.effort));
  NA_TRY(stream_of(env, env.Undefined(), cache->device, &stream));
  return KeyGraph::create(cache, queries.get(), shape, stream.get(), graph);
}

// kvIndexCreate(cache, { block, bounds, clusters, probe }), or of a graph { queries, degree, effort }
Napi::Value create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<KvCache> cache;
  NA_REFUSE(env, unwrap<KvCache>(info[0], "cache", &cache));
  if (!info[1].IsObject()) return refuse(env, error(NA_ERR_OPTION, "KvIndex needs options"));
  const auto options = info[1].As<Napi::Object>();
  Ref<KvIndex> index;
  Ref<KeyGraph> graph;
  NA_REFUSE(env, read_graph(env, options, cache.get(), &graph));
  if (env.IsExceptionPending()) return Napi::Value();
  if (graph) {
    NA_REFUSE(env, KvIndex::create(cache.get(), std::move(graph), &index));
    return wrap(env, std::move(index));
  }
  int64_t block = 0;
  NA_REFUSE(env, read_integer(options.Get("block"), "pageSize", NA_ERR_OPTION, &block));
  MirrorShape shape;
  shape.block = static_cast<int32_t>(block < 0 || block > 1 << 20 ? 0 : block);
  shape.bounds = read_flag(options.Get("bounds"));
  shape.clusters = read_flag(options.Get("clusters"));
  const Napi::Value probe = options.Get("probe");
  if (!probe.IsNumber()) return refuse(env, error(NA_ERR_OPTION, "KvIndex: probe must be a number"));
  shape.probe = probe.As<Napi::Number>().DoubleValue();
  if (env.IsExceptionPending()) return Napi::Value();
  NA_REFUSE(env, KvIndex::create(cache.get(), shape, &index));
  return wrap(env, std::move(index));
}

// kvIndexRetrieve(index, cache, { q, top, sink, window, scale, attend, estimate, stream, search }): { ids, scores,
// touched } or, to attend, { out, lse, touched }, inside capture with keys; `top` may then be a list, of each key head.
// `search` is the stream of the CPU for a cache with a resident part
Napi::Value retrieve(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<KvIndex> index;
  Ref<KvCache> cache;
  Ref<Tensor> q;
  Ref<Stream> stream;
  NA_REFUSE(env, unwrap<KvIndex>(info[0], "index", &index));
  NA_REFUSE(env, unwrap<KvCache>(info[1], "cache", &cache));
  if (!info[2].IsObject()) return refuse(env, error(NA_ERR_OPTION, "KvIndex needs a call"));
  const auto call = info[2].As<Napi::Object>();
  RetrieveArguments a;
  NA_REFUSE(env, unwrap<Tensor>(call.Get("q"), "q", &q));
  a.q = q.get();
  a.attend = read_flag(call.Get("attend"));
  const Napi::Value top = call.Get("top");
  if (a.attend && top.IsArray()) {
    NA_REFUSE(env, read_integers(top, "topK", NA_ERR_OPTION, &a.tops.emplace()));
  } else {
    NA_REFUSE(env, read_integer(top, "topK", NA_ERR_OPTION, &a.top));
  }
  NA_REFUSE(env, read_integer(call.Get("sink"), "sink", NA_ERR_OPTION, &a.sink));
  NA_REFUSE(env, read_integer(call.Get("window"), "window", NA_ERR_OPTION, &a.window));
  const Napi::Value scale = call.Get("scale");
  a.has_scale = scale.IsNumber();
  if (a.has_scale) a.scale = scale.As<Napi::Number>().DoubleValue();
  a.estimate = a.attend && read_flag(call.Get("estimate"));
  NA_REFUSE(env, stream_of(env, call.Get("stream"), cache->device, &stream));
  Ref<Stream> search = stream;
  const Napi::Value apart = call.Get("search");
  if (!apart.IsEmpty() && !apart.IsUndefined()) NA_REFUSE(env, unwrap<Stream>(apart, "search", &search));
  if (env.IsExceptionPending()) return Napi::Value();
  RetrieveResult result;
  NA_REFUSE(env, index->retrieve(cache.get(), a, stream.get(), search.get(), &result));
  Napi::Object made = Napi::Object::New(env);
  const struct {
    const char* name;
    Ref<Tensor>* tensor;
  } tensors[] = {{"ids", &result.ids}, {"scores", &result.scores},   {"out", &result.out},
                 {"lse", &result.lse}, {"touched", &result.touched}, {"keys", &result.keys}};
  for (const auto& one : tensors) {
    if (*one.tensor) made.Set(one.name, wrap_tensor(env, std::move(*one.tensor)));
  }
  return made;
}

// kvIndexBytes(index)
Napi::Value bytes(const Napi::CallbackInfo& info) {
  Ref<KvIndex> index;
  NA_REFUSE(info.Env(), unwrap<KvIndex>(info[0], "index", &index));
  return Napi::Number::New(info.Env(), static_cast<double>(index->bytes()));
}

}  // namespace

void export_kv_index(Napi::Env env, Napi::Object exports) {
  export_function<create>(env, exports, "kvIndexCreate");
  export_function<retrieve>(env, exports, "kvIndexRetrieve");
  export_function<bytes>(env, exports, "kvIndexBytes");
  export_function<dispose<KvIndex>>(env, exports, "kvIndexDispose");
}

}  // namespace na
