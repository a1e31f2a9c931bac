// JavaScript objects that hold native ones: plain objects with a type tag, so that a foreign object is recognised
// and refused. Collected objects let go of what they hold; dispose() does so at once.
#pragma once

#include "addon/environment.h"
#include "core/kv_cache.h"
#include "core/kv_index.h"
#include "core/select.h"

namespace na {

// Made at a point of a stream.
struct Event : RefCounted {
  Event(Device* device, Point point, Ref<Timestamp> timestamp)
      : device(device), point(std::move(point)), timestamp(std::move(timestamp)) {}
  Device* const device;
  const Point point;
  const Ref<Timestamp> timestamp;
};

// An ArrayBuffer that shows a storage's memory.
struct Exposure : RefCounted {
  explicit Exposure(Ref<Storage> storage) : storage(std::move(storage)) {}
  Ref<Storage> storage;  // until the buffer is gone
  bool moved = false;    // into another ArrayBuffer (ArrayBuffer.prototype.transfer)
};

template <class T>
struct HandleType;
template <>
struct HandleType<Tensor> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x74656e736f720001};
  static constexpr const char* name = "Tensor";
};
template <>
struct HandleType<Stream> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x73747265616d0001};
  static constexpr const char* name = "Stream";
};
template <>
struct HandleType<Event> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x6576656e74000001};
  static constexpr const char* name = "Event";
};
template <>
struct HandleType<Graph> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x6772617068000001};
  static constexpr const char* name = "Graph";
};
template <>
struct HandleType<SparsePlan> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x706c616e00000001};
  static constexpr const char* name = "SparsePlan";
};
template <>
struct HandleType<HipState> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x6869707374000001};
  static constexpr const char* name = "HipState";
};
template <>
struct HandleType<Exposure> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x6578706f73650001};
  static constexpr const char* name = "Exposure";
};
template <>
struct HandleType<KvCache> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x6b76636163680001};
  static constexpr const char* name = "KvCache";
};

template <>
struct HandleType<KvIndex> {
  static constexpr napi_type_tag tag = {0x6e6f64652d617474, 0x6b76696e64780001};
  static constexpr const char* name = "KvIndex";
};

inline void handle_made(Tensor& tensor) { tensor.storage->handle_made(); }
inline void handle_gone(Tensor& tensor) { tensor.storage->handle_gone(); }
inline void handle_gone(Stream& stream) { stream.abandon_capture(); }  // nobody else can end it
template <class T>
void handle_made(T&) {}
template <class T>
void handle_gone(T&) {}

// What a handle holds, for those who use it after dispose().
template <class T>
std::string describe(const T&) {
  return std::string("a ") + HandleType<T>::name;
}
inline std::string describe(const SparsePlan& plan) {
  return "a SparsePlan for " + std::to_string(plan.view.queries) + " queries and " + std::to_string(plan.view.keys) +
         " keys on " + plan.device()->name;
}

template <class T>
struct Handle {
  Ref<T> object;
  int64_t external_bytes;  // told to the garbage collector
  const Ref<Environment> environment;
  std::string was{};  // what it held, once it was disposed of

  void clear(napi_env env) {
    if (object) handle_gone(*object);
    object = Ref<T>();
    int64_t total;
    if (external_bytes) napi_adjust_external_memory(env, -std::exchange(external_bytes, 0), &total);
  }
};

template <class T>
Napi::Value wrap(Napi::Env env, Ref<T> object, int64_t external_bytes = 0) {
  napi_value result;
  if (napi_create_object(env, &result) != napi_ok) return Napi::Value();
  auto* handle = new Handle<T>{std::move(object), external_bytes, Ref<Environment>(Environment::of(env))};
  const auto finalize = [](napi_env finalizing, void* data, void*) {
    auto* held = static_cast<Handle<T>*>(data);
    held->clear(finalizing);
    delete held;
  };
  if (napi_wrap(env, result, handle, finalize, nullptr, nullptr) != napi_ok) {
    delete handle;
    return Napi::Value();
  }
  handle_made(*handle->object);
  napi_type_tag_object(env, result, &HandleType<T>::tag);
  int64_t total;
  if (external_bytes) napi_adjust_external_memory(env, external_bytes, &total);
  return Napi::Value(env, result);
}

// With the memory that they hold, which no other handle tells the garbage collector of.
inline Napi::Value wrap_tensor(Napi::Env env, Ref<Tensor> tensor) {
  const int64_t bytes = tensor->storage->bytes;
  return wrap(env, std::move(tensor), bytes);
}
inline Napi::Value wrap_plan(Napi::Env env, Ref<SparsePlan> plan) {
  const int64_t bytes = plan->bytes();
  return wrap(env, std::move(plan), bytes);
}

// ERR_OPTION for what is not such a handle, ERR_DISPOSED for one that was disposed of.
template <class T>
Status handle_of(const Napi::Value& value, const char* name, Handle<T>** handle) {
  bool tagged = false;
  void* data = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &HandleType<T>::tag, &tagged) != napi_ok ||
      !tagged || napi_unwrap(value.Env(), value, &data) != napi_ok) {
    return error(NA_ERR_OPTION, "%s is not a %s", name, HandleType<T>::name);
  }
  *handle = static_cast<Handle<T>*>(data);
  return {};
}

template <class T>
Status unwrap(const Napi::Value& value, const char* name, Ref<T>* object) {
  Handle<T>* handle = nullptr;
  NA_TRY(handle_of<T>(value, name, &handle));
  if (!handle->object) {
    return error(NA_ERR_DISPOSED, "%s, %s, was disposed of; make a new one", name, handle->was.c_str());
  }
  *object = handle->object;
  return {};
}

// The stream of a call: the one given, or the default stream of the device.
inline Status stream_of(Napi::Env env, const Napi::Value& given, Device* device, Ref<Stream>* stream) {
  if (given.IsUndefined()) return Environment::of(env)->default_stream(device, stream);
  return unwrap<Stream>(given, "stream", stream);
}

// { out, lse }; without out when the caller gave it, for then he has its handle.
inline Napi::Value wrap_result(Napi::Env env, AttentionResult result, bool out_given) {
  Napi::Object pair = Napi::Object::New(env);
  if (!out_given) pair.Set("out", wrap_tensor(env, std::move(result.out)));
  pair.Set("lse", wrap_tensor(env, std::move(result.lse)));
  return pair;
}

template <class T>
Napi::Value dispose(const Napi::CallbackInfo& info) {
  Handle<T>* handle = nullptr;
  NA_REFUSE(info.Env(), handle_of<T>(info[0], HandleType<T>::name, &handle));
  if (handle->object) handle->was = describe(*handle->object);
  handle->clear(info.Env());
  return info.Env().Undefined();
}

}  // namespace na
