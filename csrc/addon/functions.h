// The functions that the addon exports, by the file that holds them. lib/native.ts declares the same list for
// TypeScript.
#pragma once

#include "addon/napi_setup.h"

namespace na {

void export_attention(Napi::Env env, Napi::Object exports);
void export_devices(Napi::Env env, Napi::Object exports);
void export_kv_cache(Napi::Env env, Napi::Object exports);
void export_kv_index(Napi::Env env, Napi::Object exports);
void export_merge(Napi::Env env, Napi::Object exports);
void export_select(Napi::Env env, Napi::Object exports);
void export_sparse_plan(Napi::Env env, Napi::Object exports);
void export_stream(Napi::Env env, Napi::Object exports);
void export_tensor(Napi::Env env, Napi::Object exports);

template <Napi::Value (*kFunction)(const Napi::CallbackInfo&)>
void export_function(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<kFunction>(env, name));
}

}  // namespace na
