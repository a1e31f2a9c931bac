// KvCache.
#include "core/kv_cache.h"

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

// kvCacheCreate({ batch, kvHeads, headDim, valueDim, pageSize, capacity, dtype, int8, device, theta, columns,
// interleaved, sink, window, pages }); theta is 0 without rotary embedding, the last three without a resident part
Napi::Value create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) return refuse(env, error(NA_ERR_OPTION, "KvCache needs options"));
  const auto options = info[0].As<Napi::Object>();
  CacheShape shape;
  const struct {
    const char* name;
    int64_t* value;
  } fields[] = {{"batch", &shape.batch},
                {"kvHeads", &shape.kv_heads},
                {"headDim", &shape.head_dim},
                {"valueDim", &shape.value_dim},
                {"pageSize", &shape.page_tokens},
                {"capacity", &shape.capacity},
                {"columns", &shape.rotary.columns},
                {"sink", &shape.resident.sink},
                {"window", &shape.resident.window},
                {"pages", &shape.resident.pages}};
  for (const auto& field : fields) {
    NA_REFUSE(env, read_integer(options.Get(field.name), field.name, NA_ERR_OPTION, field.value));
  }
  NA_REFUSE(env, read_dtype(options.Get("dtype"), &shape.dtype));
  Device* device = nullptr;
  NA_REFUSE(env, read_device(options.Get("device"), &device));
  const Napi::Value theta = options.Get("theta");
  if (!theta.IsNumber()) return refuse(env, error(NA_ERR_OPTION, "rope.theta must be a number"));
  shape.rotary.theta = theta.As<Napi::Number>().DoubleValue();
  shape.int8 = read_flag(options.Get("int8"));
  shape.rotary.interleaved = read_flag(options.Get("interleaved"));
  if (env.IsExceptionPending()) return Napi::Value();
  Ref<KvCache> cache;
  NA_REFUSE(env, KvCache::create(device, shape, &cache));
  return wrap(env, std::move(cache));
}

// kvCacheAppend(cache, k, v, lengths | undefined, stream | undefined)
Napi::Value append(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<KvCache> cache;
  Ref<Tensor> k, v;
  Ref<Stream> stream;
  std::vector<int64_t> counts;
  NA_REFUSE(env, unwrap<KvCache>(info[0], "cache", &cache));
  NA_REFUSE(env, unwrap<Tensor>(info[1], "k", &k));
  NA_REFUSE(env, unwrap<Tensor>(info[2], "v", &v));
  const bool counted = !info[3].IsUndefined();
  if (counted) NA_REFUSE(env, read_integers(info[3], "lengths", NA_ERR_OPTION, &counts));
  NA_REFUSE(env, stream_of(env, info[4], cache->device, &stream));
  NA_REFUSE(env, cache->append(k.get(), v.get(), counted ? &counts : nullptr, stream.get()));
  return env.Undefined();
}

// kvCacheTruncate(cache, lengths)
Napi::Value truncate(const Napi::CallbackInfo& info) {
  Ref<KvCache> cache;
  std::vector<int64_t> lengths;
  NA_REFUSE(info.Env(), unwrap<KvCache>(info[0], "cache", &cache));
  NA_REFUSE(info.Env(), read_integers(info[1], "lengths", NA_ERR_OPTION, &lengths));
  NA_REFUSE(info.Env(), cache->truncate(lengths));
  return info.Env().Undefined();
}

// kvCacheRestore(cache, lengths)
Napi::Value restore(const Napi::CallbackInfo& info) {
  Ref<KvCache> cache;
  std::vector<int64_t> lengths;
  NA_REFUSE(info.Env(), unwrap<KvCache>(info[0], "cache", &cache));
  NA_REFUSE(info.Env(), read_integers(info[1], "lengths", NA_ERR_OPTION, &lengths));
  NA_REFUSE(info.Env(), cache->restore(lengths));
  return info.Env().Undefined();
}

// kvCacheCopyRows(cache, { sequence, first, count, values, units }, write, bytes, stream)
Napi::Value copy_rows(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<KvCache> cache;
  Ref<Tensor> bytes;
  Ref<Stream> stream;
  NA_REFUSE(env, unwrap<KvCache>(info[0], "cache", &cache));
  if (!info[1].IsObject()) return refuse(env, error(NA_ERR_OPTION, "copy_rows needs rows"));
  const auto given = info[1].As<Napi::Object>();
  CachedRows rows;
  NA_REFUSE(env, read_integer(given.Get("sequence"), "sequence", NA_ERR_OPTION, &rows.sequence));
  NA_REFUSE(env, read_integer(given.Get("first"), "first", NA_ERR_OPTION, &rows.first));
  NA_REFUSE(env, read_integer(given.Get("count"), "count", NA_ERR_OPTION, &rows.count));
  rows.values = read_flag(given.Get("values"));
  rows.units = read_flag(given.Get("units"));
  if (env.IsExceptionPending()) return Napi::Value();
  NA_REFUSE(env, unwrap<Tensor>(info[3], "bytes", &bytes));
  NA_REFUSE(env, unwrap<Stream>(info[4], "stream", &stream));
  NA_REFUSE(env, cache->copy_rows(rows, read_flag(info[2]), bytes.get(), stream.get()));
  return env.Undefined();
}

// kvCacheFork(cache): another
Napi::Value fork(const Napi::CallbackInfo& info) {
  Ref<KvCache> cache;
  NA_REFUSE(info.Env(), unwrap<KvCache>(info[0], "cache", &cache));
  return wrap(info.Env(), cache->fork());
}

// kvCacheLengths(cache): number[]
Napi::Value lengths(const Napi::CallbackInfo& info) {
  Ref<KvCache> cache;
  NA_REFUSE(info.Env(), unwrap<KvCache>(info[0], "cache", &cache));
  const std::vector<int64_t> all = cache->lengths();
  return numbers(info.Env(), all.data(), all.size());
}

// kvCacheBytes(cache)
Napi::Value bytes(const Napi::CallbackInfo& info) {
  Ref<KvCache> cache;
  NA_REFUSE(info.Env(), unwrap<KvCache>(info[0], "cache", &cache));
  return Napi::Number::New(info.Env(), static_cast<double>(cache->bytes()));
}

// kvCacheDeviceBytes(cache)
Napi::Value device_bytes(const Napi::CallbackInfo& info) {
  Ref<KvCache> cache;
  NA_REFUSE(info.Env(), unwrap<KvCache>(info[0], "cache", &cache));
  return Napi::Number::New(info.Env(), static_cast<double>(cache->device_bytes()));
}

}  // namespace

void export_kv_cache(Napi::Env env, Napi::Object exports) {
  export_function<create>(env, exports, "kvCacheCreate");
  export_function<append>(env, exports, "kvCacheAppend");
  export_function<truncate>(env, exports, "kvCacheTruncate");
  export_function<restore>(env, exports, "kvCacheRestore");
  export_function<copy_rows>(env, exports, "kvCacheCopyRows");
  export_function<fork>(env, exports, "kvCacheFork");
  export_function<lengths>(env, exports, "kvCacheLengths");
  export_function<bytes>(env, exports, "kvCacheBytes");
  export_function<device_bytes>(env, exports, "kvCacheDeviceBytes");
  export_function<dispose<KvCache>>(env, exports, "kvCacheDispose");
}

}  // namespace na
