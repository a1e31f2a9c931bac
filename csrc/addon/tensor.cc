// Construction, views, copies and memory of tensors.
#include <cstring>

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"
#include "core/convert.h"
#include "core/random.h"

namespace na {
namespace {

constexpr const char* kCpu = "cpu";

Napi::Value wrap_view(Napi::Env env, Ref<Tensor> tensor) { return wrap(env, std::move(tensor)); }

// Where the elements of a typed array lie. Arrays over a SharedArrayBuffer are fine; detached ones have no data.
struct ArrayMemory {
  void* data = nullptr;
  size_t elements = 0, bytes = 0, offset = 0;  // in the buffer
  napi_value buffer = nullptr;
};

size_t element_size(napi_typedarray_type type) {
  switch (type) {
    case napi_int8_array:
    case napi_uint8_array:
    case napi_uint8_clamped_array: return 1;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array: return 4;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array: return 8;
    default: return 2;  // 16-bit integers and Float16Array, which older headers do not name
  }
}

Status read_array(const Napi::Value& value, ArrayMemory* memory) {
  // No property is read: a program can give an array any.
  napi_typedarray_type type = static_cast<napi_typedarray_type>(-1);
  if (!value.IsTypedArray() || napi_get_typedarray_info(value.Env(), value, &type, &memory->elements, &memory->data,
                                                        &memory->buffer, &memory->offset) != napi_ok) {
    return error(NA_ERR_DTYPE, "data must be a typed array");
  }
  memory->bytes = memory->elements * element_size(type);
  return {};
}

Status check_fit(const ArrayMemory& memory, int32_t dtype, const Shape& shape) {
  int64_t bytes = 0;
  NA_TRY(shape_bytes(shape, dtype, &bytes));
  const int64_t wanted = bytes / dtype_size(dtype);
  if (static_cast<int64_t>(memory.elements) != wanted) {
    return error(NA_ERR_SHAPE, "data has %zu elements but shape %s has %lld", memory.elements,
                 shape_text(shape).c_str(), static_cast<long long>(wanted));
  }
  return {};
}

// tensorCreate(shape, dtype, device, pinned, zeroed)
Napi::Value create(const Napi::CallbackInfo& info) {
  Shape shape;
  int32_t dtype = 0;
  Device* device = nullptr;
  Ref<Stream> stream;
  Ref<Tensor> tensor;
  const bool pinned = read_flag(info[3]), zeroed = read_flag(info[4]);
  NA_REFUSE(info.Env(), read_shape(info[0], &shape));
  NA_REFUSE(info.Env(), read_dtype(info[1], &dtype));
  NA_REFUSE(info.Env(), read_device(info[2], &device));
  if (device->host || !zeroed) {
    if (pinned && !device->host) {
      return refuse(info.Env(), error(NA_ERR_OPTION, "pinned memory is the host's: leave out pinned, or device '%s'",
                                      device->name.c_str()));
    }
    NA_REFUSE(info.Env(), Tensor::allocate(device, dtype, shape, pinned, zeroed, &tensor));
    return wrap_tensor(info.Env(), std::move(tensor));
  }
  NA_REFUSE(info.Env(), Environment::of(info.Env())->default_stream(device, &stream));
  NA_REFUSE(info.Env(), stream->room());
  NA_REFUSE(info.Env(), Tensor::allocate(device, dtype, shape, false, false, &tensor));
  if (tensor->storage->bytes > 0) NA_REFUSE(info.Env(), stream->run(new ZeroOperation(tensor.get())));
  return wrap_tensor(info.Env(), std::move(tensor));
}

// tensorFrom(array, arrayDtype, shape, dtype): a copy on the CPU, converted, complete on return
Napi::Value from(const Napi::CallbackInfo& info) {
  ArrayMemory memory;
  Shape shape;
  int32_t array_dtype = 0, dtype = 0;
  Device* cpu = nullptr;
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), read_array(info[0], &memory));
  NA_REFUSE(info.Env(), read_dtype(info[1], &array_dtype));
  NA_REFUSE(info.Env(), read_shape(info[2], &shape));
  NA_REFUSE(info.Env(), read_dtype(info[3], &dtype));
  NA_REFUSE(info.Env(), find_device(kCpu, &cpu));
  NA_REFUSE(info.Env(), check_fit(memory, array_dtype, shape));
  if (memory.bytes != memory.elements * static_cast<size_t>(dtype_size(array_dtype))) {
    return refuse(info.Env(), error(NA_ERR_DTYPE, "data does not hold %s", dtype_name(array_dtype)));
  }
  NA_REFUSE(info.Env(), Tensor::allocate(cpu, dtype, shape, false, false, &tensor));
  if (memory.elements > 0) {
    convert_row(array_dtype, dtype)(memory.data, 1, tensor->view.data, 1, static_cast<int64_t>(memory.elements));
  }
  return wrap_tensor(info.Env(), std::move(tensor));
}

// arrayDetach(array): frees the memory of an array at once, which the garbage collector would do at some time
Napi::Value detach(const Napi::CallbackInfo& info) {
  ArrayMemory memory;
  NA_REFUSE(info.Env(), read_array(info[0], &memory));
  if (napi_detach_arraybuffer(info.Env(), memory.buffer) != napi_ok) {
    return refuse(info.Env(), error(NA_ERR_OPTION, "data lies over a buffer that cannot be detached"));
  }
  return info.Env().Undefined();
}

// A JavaScript object whose memory a tensor uses, kept alive until no operation uses it any more.
struct Owner {
  Ref<Environment> environment;
  napi_ref object;
  const Storage* storage = nullptr;
};

Status adopt(Napi::Env env, Device* cpu, napi_value object, void* data, size_t bytes, Ref<Storage>* storage) {
  napi_ref reference;
  if (napi_create_reference(env, object, 1, &reference) != napi_ok) {
    return error(NA_ERR_BACKEND, "the JavaScript environment is ending");
  }
  const auto released = [](void* data) {
    auto* owner = static_cast<Owner*>(data);
    owner->environment->forget_shared_storage(owner->storage);
    owner->environment->drop_reference(owner->object);
    delete owner;
  };
  auto* owner = new Owner{Ref<Environment>(Environment::of(env)), reference};
  *storage = Storage::adopt(cpu, data, static_cast<int64_t>(bytes), released, owner);
  owner->storage = storage->get();
  return {};
}

// An ArrayBuffer of JavaScript's own memory.
Status make_buffer(Napi::Env env, size_t bytes, void** data, napi_value* buffer) {
  if (napi_create_arraybuffer(env, bytes, data, buffer) == napi_ok) return {};
  napi_value thrown;  // a RangeError; ours says more
  napi_get_and_clear_last_exception(env, &thrown);
  return error(NA_ERR_OUT_OF_MEMORY, "JavaScript cannot allocate an ArrayBuffer of %s",
               bytes_text(static_cast<int64_t>(bytes)).c_str());
}

// tensorWrap(array over a SharedArrayBuffer, shape, dtype): no copy
Napi::Value wrap_shared(const Napi::CallbackInfo& info) {
  ArrayMemory memory;
  Shape shape;
  int32_t dtype = 0;
  Device* cpu = nullptr;
  NA_REFUSE(info.Env(), read_array(info[0], &memory));
  NA_REFUSE(info.Env(), read_shape(info[1], &shape));
  NA_REFUSE(info.Env(), read_dtype(info[2], &dtype));
  NA_REFUSE(info.Env(), find_device(kCpu, &cpu));
  NA_REFUSE(info.Env(), check_fit(memory, dtype, shape));
  bool detachable = true;
  napi_is_arraybuffer(info.Env(), memory.buffer, &detachable);  // false for a SharedArrayBuffer
  if (detachable || memory.bytes != memory.elements * static_cast<size_t>(dtype_size(dtype))) {
    return refuse(info.Env(), error(NA_ERR_OPTION,
                                    "wrap: data must be a %s array over a SharedArrayBuffer; an ArrayBuffer "
                                    "can be detached, so use Tensor.from or Tensor.empty",
                                    dtype_name(dtype)));
  }
  void* const begin = static_cast<char*>(memory.data) - memory.offset;
  Environment* const environment = Environment::of(info.Env());
  Ref<Storage> storage = environment->shared_storage(begin);
  if (!storage) {
    NA_REFUSE(info.Env(), adopt(info.Env(), cpu, info[0], begin, memory.offset + memory.bytes, &storage));
    environment->add_shared_storage(storage.get());
  }
  return wrap_view(info.Env(), Tensor::over(std::move(storage), dtype, shape, static_cast<int64_t>(memory.offset)));
}

// tensorRandn(shape, seed, dtype): standard normal deviates on the CPU, complete on return
Napi::Value randn(const Napi::CallbackInfo& info) {
  constexpr int64_t kChunk = 4096;
  Shape shape;
  int64_t seed = 0;
  int32_t dtype = 0;
  Device* cpu = nullptr;
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), read_shape(info[0], &shape));
  NA_REFUSE(info.Env(), read_integer(info[1], "seed", NA_ERR_OPTION, &seed));
  NA_REFUSE(info.Env(), read_dtype(info[2], &dtype));
  NA_REFUSE(info.Env(), find_device(kCpu, &cpu));
  if (!dtype_is_float(dtype)) {
    return refuse(info.Env(),
                  error(NA_ERR_DTYPE, "dtype is %s; randn makes float32, float16 or bfloat16", dtype_name(dtype)));
  }
  NA_REFUSE(info.Env(), Tensor::allocate(cpu, dtype, shape, false, false, &tensor));
  const ConvertRow convert = convert_row(NA_FLOAT32, dtype);
  float values[kChunk];
  const int64_t elements = tensor->elements();
  for (int64_t first = 0; first < elements; first += kChunk) {
    const int64_t count = elements - first < kChunk ? elements - first : kChunk;
    fill_normal(static_cast<uint64_t>(seed), first, values, count);
    convert(values, 1, static_cast<char*>(tensor->view.data) + first * dtype_size(dtype), 1, count);
  }
  return wrap_tensor(info.Env(), std::move(tensor));
}

// tensorReshape(tensor, shape)
Napi::Value reshape(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor, view;
  Shape shape;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  NA_REFUSE(info.Env(), read_shape(info[1], &shape));
  NA_REFUSE(info.Env(), tensor->reshape(shape, &view));
  return wrap_view(info.Env(), std::move(view));
}

// tensorPermute(tensor, axes)
Napi::Value permute(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor, view;
  Shape axes;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  NA_REFUSE(info.Env(), read_integers(info[1], "axes", NA_ERR_SHAPE, &axes));
  NA_REFUSE(info.Env(), tensor->permute(axes, &view));
  return wrap_view(info.Env(), std::move(view));
}

// tensorSlice(tensor, starts, stops)
Napi::Value slice(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor, view;
  std::vector<int64_t> starts, stops;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  NA_REFUSE(info.Env(), read_integers(info[1], "start", NA_ERR_SHAPE, &starts));
  NA_REFUSE(info.Env(), read_integers(info[2], "stop", NA_ERR_SHAPE, &stops));
  NA_REFUSE(info.Env(), tensor->slice(starts, stops, &view));
  return wrap_view(info.Env(), std::move(view));
}

// tensorInfo(tensor): { shape, strides, dtype, device, contiguous }
Napi::Value info_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<Tensor> tensor;
  NA_REFUSE(env, unwrap<Tensor>(info[0], "tensor", &tensor));
  Napi::Object result = Napi::Object::New(env);
  result.Set("shape", numbers(env, tensor->view.shape, static_cast<size_t>(tensor->view.rank)));
  result.Set("strides", numbers(env, tensor->view.stride, static_cast<size_t>(tensor->view.rank)));
  result.Set("dtype", tensor->view.dtype);
  result.Set("device", tensor->device()->name);
  result.Set("contiguous", tensor->contiguous());
  return result;
}

// Whether Node is ending the environment: then nothing may call into JavaScript.
bool ending(napi_env env) {
  napi_value global;
  bool has = false;
  return napi_get_global(env, &global) != napi_ok || napi_has_named_property(env, global, "Object", &has) != napi_ok;
}

void finalize_exposure(napi_env env, void*, void* hint) {
  auto* exposure = static_cast<Exposure*>(hint);
  // Moved memory may belong to another thread by now, which Node does not ask when this one ends.
  if (exposure->moved && ending(env)) exposure->storage->retain();
  exposure->storage = Ref<Storage>();
  exposure->release();
}

// exposureMoved(exposure): JavaScript moves the memory into another ArrayBuffer
Napi::Value exposure_moved(const Napi::CallbackInfo& info) {
  Ref<Exposure> exposure;
  NA_REFUSE(info.Env(), unwrap<Exposure>(info[0], "exposure", &exposure));
  exposure->moved = true;
  return info.Env().Undefined();
}

// tensorMemory(tensor): { buffer, exposure }, the whole allocation as an ArrayBuffer that keeps it alive. Without
// exposure the buffer is a copy: this runtime refuses external buffers (Electron).
Napi::Value memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<Tensor> tensor;
  NA_REFUSE(env, unwrap<Tensor>(info[0], "tensor", &tensor));
  Storage* storage = tensor->storage.get();
  if (!storage->device->host) {
    return refuse(env, error(NA_ERR_DEVICE, "data is on %s; use read() or to('cpu')", storage->device->name.c_str()));
  }
  napi_value buffer;
  const size_t bytes = static_cast<size_t>(storage->bytes);
  Napi::Object result = Napi::Object::New(env);
  Ref<Exposure> exposure(new Exposure(tensor->storage));
  const napi_status made =
      napi_create_external_arraybuffer(env, storage->data, bytes, finalize_exposure, exposure.get(), &buffer);
  if (made == napi_ok) {
    exposure->retain();  // for the finaliser
    storage->exposed = true;
    result.Set("exposure", wrap(env, std::move(exposure)));
  } else if (made == napi_no_external_buffers_allowed) {
    void* data = nullptr;
    NA_REFUSE(env, make_buffer(env, bytes, &data, &buffer));
    if (bytes > 0) memcpy(data, storage->data, bytes);
  } else {
    return refuse(env,
                  error(NA_ERR_OUT_OF_MEMORY, "cannot make an ArrayBuffer of %s", bytes_text(storage->bytes).c_str()));
  }
  result.Set("buffer", Napi::Value(env, buffer));
  return result;
}

// tensorByteOffset(tensor): where the view begins in its allocation
Napi::Value byte_offset(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  return Napi::Number::New(info.Env(), static_cast<double>(tensor->byte_offset()));
}

// tensorPending(tensor): whether work that writes it is not done; refused when it failed
Napi::Value pending(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  const bool pending = tensor->storage->pending();
  if (!pending) NA_REFUSE(info.Env(), tensor->storage->status());
  return Napi::Boolean::New(info.Env(), pending);
}

// tensorWritten(tensor): a promise for the end of the work that writes it
Napi::Value written(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  return Environment::of(info.Env())->promise_at(tensor->storage->last_write, tensor->storage);
}

// tensorTo(tensor, dtype, device, stream | undefined, shape | undefined): a new tensor, filled by the stream, in
// another shape if one is given
Napi::Value to(const Napi::CallbackInfo& info) {
  Ref<Tensor> source, target;
  int32_t dtype = 0;
  Device* device = nullptr;
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &source));
  NA_REFUSE(info.Env(), read_dtype(info[1], &dtype));
  NA_REFUSE(info.Env(), read_device(info[2], &device));
  // The CPU cannot reach a GPU's memory: whatever leaves or enters that is the GPU's work.
  Device* const worker = device->host ? source->device() : device;
  NA_REFUSE(info.Env(), stream_of(info.Env(), info[3], worker, &stream));
  if (stream->device != worker && (stream->device != source->device() || stream->device->host)) {
    return refuse(info.Env(), error(NA_ERR_DEVICE, "stream is on %s but a copy from %s to %s needs one on %s",
                                    stream->device->name.c_str(), source->device()->name.c_str(), device->name.c_str(),
                                    worker->name.c_str()));
  }
  NA_REFUSE(info.Env(), stream->room());
  const bool pinned = device->host && stream->makes_graph();
  NA_REFUSE(info.Env(), Tensor::allocate(device, dtype, shape_of(source->view), pinned, false, &target));
  Ref<Tensor> made = target;
  if (!info[4].IsUndefined()) {
    Shape shape;
    NA_REFUSE(info.Env(), read_shape(info[4], &shape));
    NA_REFUSE(info.Env(), target->reshape(shape, &made));
  }
  NA_REFUSE(info.Env(), stream->run(new CopyOperation(source.get(), target.get())));
  return wrap_tensor(info.Env(), std::move(made));
}

// tensorReadBack(tensor): { buffer, tensor }, an ArrayBuffer of JavaScript's own, and the tensor over it that is being
// filled: contiguous, as soon as the work that writes the source is done, whatever else is queued
Napi::Value read_back(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<Tensor> source;
  Ref<Stream> stream;
  Ref<Storage> storage;
  Device* cpu = nullptr;
  NA_REFUSE(env, unwrap<Tensor>(info[0], "tensor", &source));
  NA_REFUSE(env, find_device(kCpu, &cpu));
  NA_REFUSE(env, Environment::of(env)->reading_stream(source->device(), &stream));
  NA_REFUSE(env, stream->room());
  void* data = nullptr;
  napi_value buffer;
  const size_t bytes = static_cast<size_t>(source->elements() * dtype_size(source->view.dtype));
  NA_REFUSE(env, make_buffer(env, bytes, &data, &buffer));
  NA_REFUSE(env, adopt(env, cpu, buffer, data, bytes, &storage));
  Ref<Tensor> target = Tensor::over(std::move(storage), source->view.dtype, shape_of(source->view));
  NA_REFUSE(env, stream->run(new CopyOperation(source.get(), target.get())));
  Napi::Object result = Napi::Object::New(env);
  result.Set("buffer", Napi::Value(env, buffer));
  result.Set("tensor", wrap_view(env, std::move(target)));
  return result;
}

}  // namespace

void export_tensor(Napi::Env env, Napi::Object exports) {
  export_function<create>(env, exports, "tensorCreate");
  export_function<from>(env, exports, "tensorFrom");
  export_function<wrap_shared>(env, exports, "tensorWrap");
  export_function<randn>(env, exports, "tensorRandn");
  export_function<reshape>(env, exports, "tensorReshape");
  export_function<permute>(env, exports, "tensorPermute");
  export_function<slice>(env, exports, "tensorSlice");
  export_function<info_of>(env, exports, "tensorInfo");
  export_function<memory>(env, exports, "tensorMemory");
  export_function<byte_offset>(env, exports, "tensorByteOffset");
  export_function<pending>(env, exports, "tensorPending");
  export_function<written>(env, exports, "tensorWritten");
  export_function<to>(env, exports, "tensorTo");
  export_function<read_back>(env, exports, "tensorReadBack");
  export_function<dispose<Tensor>>(env, exports, "tensorDispose");
  export_function<exposure_moved>(env, exports, "exposureMoved");
  export_function<detach>(env, exports, "arrayDetach");
}

}  // namespace na
