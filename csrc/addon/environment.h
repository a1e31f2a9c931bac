// What one JavaScript environment (main thread or worker) owns: its streams, its promises and its link from backend
// threads back to JavaScript.
//
// Lifetime. Handles, promises and wrapped memory each hold a reference, so the object outlives whatever may still
// name it. When the environment ends, close() cancels its operations and waits until the backend has let go of all
// of them; only then is the thread-safe function released. Nothing calls it afterwards: every call is made under the
// mutex that guards `closed_`.
#pragma once

#include <map>
#include <mutex>
#include <vector>

#include "addon/napi_setup.h"
#include "core/stream.h"

namespace na {

class Environment : public RefCounted {
 public:
  static bool create(Napi::Env env);  // at module initialisation; false leaves a JavaScript exception
  static Environment* of(napi_env env);

  // Streams. The default stream of a device, and one more for reading tensors back, are made at first use.
  Status open_stream(Device* device, Ref<Stream>* stream);
  Status default_stream(Device* device, Ref<Stream>* stream) { return own_stream(&defaults_, device, stream); }
  Status reading_stream(Device* device, Ref<Stream>* stream) { return own_stream(&reading_, device, stream); }

  // A promise that settles when the point is reached; the process stays alive for it. It rejects with the failure of
  // the stream, or of the memory that was to be written by then.
  Napi::Value promise_at(const Point& point, Ref<Storage> written = Ref<Storage>());
  Napi::Value rejected_promise(const Status& status);

  // From any thread: gives up a strong reference to a JavaScript object.
  void drop_reference(napi_ref reference);

  // The storage over a shared buffer that begins there: one for all that wrap it, so that what one tensor writes
  // another waits for. None if nobody has it, or if it is on its way out.
  Ref<Storage> shared_storage(void* begin);
  void add_shared_storage(Storage* storage);
  // From any thread, by the storage as it goes.
  void forget_shared_storage(const Storage* storage);

  bool set_error_class(const Napi::Object& error_class);  // false: it is none
  Napi::Value make_error(const Status& status);           // an AttentionError

 private:
  struct Settlement {
    napi_deferred deferred;
    Status status;
  };
  class PromiseListener;
  Napi::Value make_promise(napi_deferred* deferred);

  explicit Environment(Napi::Env env) : env_(env) {}
  Status own_stream(std::map<Device*, Ref<Stream>>* streams, Device* device, Ref<Stream>* stream);
  void sweep_streams();
  void settle(Settlement settlement);  // from any thread
  void wake();                         // with mutex_ held
  void deliver();                      // on the JavaScript thread
  void close();

  napi_env const env_;
  napi_threadsafe_function wake_ = nullptr;
  int32_t cancelled_ = 0;  // read by backend threads
  int64_t promises_ = 0;   // not yet settled
  std::vector<Ref<Stream>> streams_;
  std::map<Device*, Ref<Stream>> defaults_, reading_;
  Napi::ObjectReference error_prototype_;
  Napi::FunctionReference set_prototype_, capture_stack_;

  std::mutex mutex_;  // guards what follows
  bool closed_ = false, awake_ = false;
  std::vector<Settlement> settlements_;
  std::vector<napi_ref> dropped_;
  std::map<const void*, Storage*> shared_storages_;  // by where they begin
};

// Throws the status as an AttentionError, unless a getter of the program has thrown already; returns an empty value for
// the caller to return.
Napi::Value refuse(Napi::Env env, const Status& status);

#define NA_REFUSE(env, expression)                              \
  do {                                                          \
    ::na::Status na_status_ = (expression);                     \
    if (!na_status_.ok()) return ::na::refuse(env, na_status_); \
  } while (0)

}  // namespace na
