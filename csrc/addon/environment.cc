#include "addon/environment.h"

namespace na {

// Waits for a point on behalf of a promise.
class Environment::PromiseListener final : public Listener {
 public:
  PromiseListener(Environment* environment, napi_deferred deferred, Ref<Storage> written)
      : environment_(environment), deferred_(deferred), written_(std::move(written)) {}
  void reached(const Status& status) override {
    const Status outcome = status.ok() && written_ ? written_->status() : status;
    written_ = Ref<Storage>();  // memory is free again before anybody learns that the work is done
    environment_->settle({deferred_, outcome});
    delete this;
  }

 private:
  const Ref<Environment> environment_;
  const napi_deferred deferred_;
  Ref<Storage> written_;
};

bool Environment::create(Napi::Env env) {
  auto* environment = new Environment(env);
  environment->retain();
  napi_value name = Napi::String::New(env, "node-attention");
  const auto call = [](napi_env running, napi_value, void* context, void*) {
    if (running) static_cast<Environment*>(context)->deliver();  // no environment: it has been closed
  };
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, environment, call,
                                      &environment->wake_) != napi_ok) {
    Napi::Error::New(env, "node-attention: cannot create a thread-safe function").ThrowAsJavaScriptException();
    environment->release();
    return false;
  }
  napi_unref_threadsafe_function(env, environment->wake_);
  napi_set_instance_data(
      env, environment, [](napi_env, void* data, void*) { static_cast<Environment*>(data)->release(); }, nullptr);
  // Registered after the thread-safe function, so that it runs before Node destroys that.
  napi_add_env_cleanup_hook(env, [](void* data) { static_cast<Environment*>(data)->close(); }, environment);
  return true;
}

Environment* Environment::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return static_cast<Environment*>(data);
}

Status Environment::open_stream(Device* device, Ref<Stream>* stream) {
  sweep_streams();
  NA_TRY(Stream::open(device, &cancelled_, stream));
  streams_.push_back(*stream);
  return {};
}

Status Environment::own_stream(std::map<Device*, Ref<Stream>>* streams, Device* device, Ref<Stream>* stream) {
  Ref<Stream>& own = (*streams)[device];
  if (!own) NA_TRY(open_stream(device, &own));
  *stream = own;
  return {};
}

// Forgets streams that nobody else holds and whose work is done. A stream must not end before its work.
void Environment::sweep_streams() {
  for (size_t i = 0; i < streams_.size();) {
    if (streams_[i]->unique() && streams_[i]->idle()) {
      streams_[i] = streams_.back();
      streams_.pop_back();
    } else {
      i++;
    }
  }
}

Napi::Value Environment::make_promise(napi_deferred* deferred) {
  napi_value promise;
  if (napi_create_promise(env_, deferred, &promise) != napi_ok) return Napi::Value();
  if (promises_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  return Napi::Value(env_, promise);
}

Napi::Value Environment::promise_at(const Point& point, Ref<Storage> written) {
  napi_deferred deferred;
  const Napi::Value promise = make_promise(&deferred);
  if (promise.IsEmpty()) return promise;
  if (point.timeline) {
    point.timeline->listen(point.sequence, new PromiseListener(this, deferred, std::move(written)));
  } else {
    settle({deferred, {}});
  }
  return promise;
}

Napi::Value Environment::rejected_promise(const Status& status) {
  napi_deferred deferred;
  const Napi::Value promise = make_promise(&deferred);
  if (!promise.IsEmpty()) settle({deferred, status});
  return promise;
}

void Environment::drop_reference(napi_ref reference) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;  // Node frees what is left
  dropped_.push_back(reference);
  wake();
}

Ref<Storage> Environment::shared_storage(void* begin) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = shared_storages_.find(begin);
  if (found == shared_storages_.end() || !found->second->retain_if_alive()) return Ref<Storage>();
  Ref<Storage> storage(found->second);
  found->second->release();
  return storage;
}

void Environment::add_shared_storage(Storage* storage) {
  std::lock_guard<std::mutex> lock(mutex_);
  shared_storages_[storage->data] = storage;
}

void Environment::forget_shared_storage(const Storage* storage) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = shared_storages_.find(storage->data);
  // Not one that has taken its place.
  if (found != shared_storages_.end() && found->second == storage) shared_storages_.erase(found);
}

void Environment::settle(Settlement settlement) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  settlements_.push_back(std::move(settlement));
  wake();
}

// One call for all that gathers until JavaScript has time.
void Environment::wake() {
  if (awake_) return;
  awake_ = napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Environment::deliver() {
  Napi::HandleScope scope(env_);
  std::vector<Settlement> settlements;
  std::vector<napi_ref> dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    settlements.swap(settlements_);
    dropped.swap(dropped_);
    awake_ = false;
  }
  for (napi_ref reference : dropped) napi_delete_reference(env_, reference);
  promises_ -= static_cast<int64_t>(settlements.size());
  if (promises_ == 0 && !settlements.empty()) napi_unref_threadsafe_function(env_, wake_);
  for (const Settlement& settlement : settlements) {
    // Node may be shutting down JavaScript; a promise that cannot be settled is then nobody's any more.
    if (settlement.status.ok()) {
      napi_value undefined;
      napi_get_undefined(env_, &undefined);
      napi_resolve_deferred(env_, settlement.deferred, undefined);
    } else {
      napi_reject_deferred(env_, settlement.deferred, make_error(settlement.status));
    }
  }
}

void Environment::close() {
  __atomic_store_n(&cancelled_, 1, __ATOMIC_RELAXED);
  for (const Ref<Stream>& stream : streams_) stream->open_gate();
  // What is queued is ended here; only then, so that no thread of the pool need find time for it, what runs is awaited.
  for (bool more = true; more;) {
    more = false;
    for (const Ref<Stream>& stream : streams_) more |= stream->drain();
  }
  for (const Ref<Stream>& stream : streams_) stream->join();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    settlements_.clear();
    for (napi_ref reference : dropped_) napi_delete_reference(env_, reference);
    dropped_.clear();
  }
  napi_release_threadsafe_function(wake_, napi_tsfn_abort);
  error_prototype_.Reset();
  set_prototype_.Reset();
  capture_stack_.Reset();
  defaults_.clear();
  reading_.clear();
  streams_.clear();
}

bool Environment::set_error_class(const Napi::Object& error_class) {
  const auto get = [](const Napi::Value& from, const char* name) {
    return from.IsObject() || from.IsFunction() ? from.As<Napi::Object>().Get(name) : Napi::Value();
  };
  const Napi::Object global = Napi::Env(env_).Global();
  const Napi::Value prototype = get(error_class, "prototype"),
                    set_prototype = get(get(global, "Object"), "setPrototypeOf"),
                    capture_stack = get(get(global, "Error"), "captureStackTrace");
  if (!prototype.IsObject() || !set_prototype.IsFunction() || !capture_stack.IsFunction()) return false;
  error_prototype_ = Napi::Persistent(prototype.As<Napi::Object>());
  set_prototype_ = Napi::Persistent(set_prototype.As<Napi::Function>());
  capture_stack_ = Napi::Persistent(capture_stack.As<Napi::Function>());
  return true;
}

// What is called are functions of the engine, not the constructor of the class: the end of a worker could meet one that
// is JavaScript, Node-API would swallow it, and a worker that catches errors in a loop would never end.
Napi::Value Environment::make_error(const Status& status) {
  Napi::Env env(env_);
  const napi_value message = Napi::String::New(env, status.message),
                   code = Napi::String::New(env, code_name(status.code));
  napi_value made, undefined, result;
  if (napi_create_error(env, code, message, &made) != napi_ok) return Napi::Value();
  if (error_prototype_.IsEmpty() || napi_get_undefined(env, &undefined) != napi_ok) return Napi::Value(env, made);
  const napi_value arguments[] = {made, error_prototype_.Value()};
  if (napi_call_function(env, undefined, set_prototype_.Value(), 2, arguments, &result) != napi_ok ||
      // which is told with the name of the class
      napi_call_function(env, undefined, capture_stack_.Value(), 1, arguments, &result) != napi_ok) {
    napi_get_and_clear_last_exception(env, &result);  // the refusal is what matters
  }
  return Napi::Value(env, made);
}

Napi::Value refuse(Napi::Env env, const Status& status) {
  if (env.IsExceptionPending()) return Napi::Value();
  const Napi::Value thrown = Environment::of(env)->make_error(status);
  if (!thrown.IsEmpty()) napi_throw(env, thrown);
  return Napi::Value();
}

}  // namespace na
