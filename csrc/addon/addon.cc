// Registration of the addon: once in every environment (main thread or worker) that loads it.
#include "addon/environment.h"
#include "addon/functions.h"

namespace na {
namespace {

// setErrorClass(AttentionError): what refusals are instances of; its constructor is not run.
Napi::Value set_error_class(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsFunction() || !Environment::of(env)->set_error_class(info[0].As<Napi::Object>())) {
    return refuse(env, error(NA_ERR_OPTION, "setErrorClass needs a class"));
  }
  return env.Undefined();
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  if (!Environment::create(env)) return exports;
  exports.Set("version", NODE_ATTENTION_VERSION);
  exports.Set("build", NODE_ATTENTION_BUILD);
  export_function<set_error_class>(env, exports, "setErrorClass");
  export_attention(env, exports);
  export_devices(env, exports);
  export_kv_cache(env, exports);
  export_kv_index(env, exports);
  export_merge(env, exports);
  export_select(env, exports);
  export_sparse_plan(env, exports);
  export_stream(env, exports);
  export_tensor(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(node_attention, initialise)

}  // namespace na
