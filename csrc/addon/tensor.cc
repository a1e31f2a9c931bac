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

Napi::Value wrap_tensor(Napi::Env env, Ref<Tensor> tensor) {
  const int64_t bytes = tensor->storage->bytes;
  return wrap(env, std::move(tensor), bytes);
}

Napi::Value wrap_view(Napi::Env env, Ref<Tensor> tensor) { return wrap(env, std::move(tensor)); }

// Where the elements of a typed array lie. Arrays over a SharedArrayBuffer are fine; detached ones have no data.
struct ArrayMemory {
  void* data = nullptr;
  size_t elements = 0, bytes = 0;
};

Status read_array(const Napi::Value& value, ArrayMemory* memory) {
  napi_typedarray_type type;
  napi_value buffer;
  size_t offset = 0;
  if (!value.IsTypedArray() || napi_get_typedarray_info(value.Env(), value, &type, &memory->elements, &memory->data,
                                                        &buffer, &offset) != napi_ok) {
    return error(NA_ERR_DTYPE, "data must be a typed array");
  }
  napi_value bytes;
  int64_t length = 0;
  if (napi_get_named_property(value.Env(), value, "byteLength", &bytes) != napi_ok ||
      napi_get_value_int64(value.Env(), bytes, &length) != napi_ok || length < 0) {
    return error(NA_ERR_DTYPE, "data must be a typed array");
  }
  memory->bytes = static_cast<size_t>(length);
  return {};
}

Status check_fit(const ArrayMemory& memory, int32_t dtype, const Shape& shape) {
  int64_t bytes = 0;
  NA_TRY(shape_bytes(shape, dtype, &bytes));
  const int64_t wanted = bytes / dtype_size(dtype);
  if (static_cast<int64_t>(memory.elements) != wanted) {
    return error(NA_ERR_SHAPE, "data has %zu elements but shape %s has %lld", memory.elements, shape_text(shape).c_str(),
                 static_cast<long long>(wanted));
  }
  return {};
}

// tensorCreate(shape, dtype, device, pinned, zeroed)
Napi::Value create(const Napi::CallbackInfo& info) {
  Shape shape;
  int32_t dtype = 0;
  Device* device = nullptr;
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), read_shape(info[0], &shape));
  NA_REFUSE(info.Env(), read_dtype(info[1], &dtype));
  NA_REFUSE(info.Env(), read_device(info[2], &device));
  NA_REFUSE(info.Env(), Tensor::allocate(device, dtype, shape, info[3].ToBoolean(), info[4].ToBoolean(), &tensor));
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

// The typed array that a wrapped tensor keeps alive until no operation reads it any more.
struct SharedOwner {
  Ref<Environment> environment;
  napi_ref array;
};

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
  const Napi::Value buffer = info[0].As<Napi::Object>().Get("buffer");
  if (buffer.IsEmpty() || buffer.IsArrayBuffer() ||
      memory.bytes != memory.elements * static_cast<size_t>(dtype_size(dtype))) {
    return refuse(info.Env(), error(NA_ERR_OPTION, "wrap: data must be a %s array over a SharedArrayBuffer; an ArrayBuffer "
                                                   "can be detached, so use Tensor.from or Tensor.empty",
                                    dtype_name(dtype)));
  }
  napi_ref array;
  if (napi_create_reference(info.Env(), info[0], 1, &array) != napi_ok) return Napi::Value();
  auto* owner = new SharedOwner{Ref<Environment>(Environment::of(info.Env())), array};
  const auto released = [](void* data) {
    auto* shared = static_cast<SharedOwner*>(data);
    shared->environment->drop_reference(shared->array);
    delete shared;
  };
  Ref<Storage> storage = Storage::adopt(cpu, memory.data, static_cast<int64_t>(memory.bytes), released, owner);
  return wrap_view(info.Env(), Tensor::over(std::move(storage), dtype, shape));
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
    return refuse(info.Env(), error(NA_ERR_DTYPE, "dtype is %s; randn makes float32, float16 or bfloat16", dtype_name(dtype)));
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

Napi::Array numbers(Napi::Env env, const int64_t* values, int32_t count) {
  Napi::Array array = Napi::Array::New(env, static_cast<size_t>(count));
  for (int32_t i = 0; i < count; i++) array.Set(static_cast<uint32_t>(i), static_cast<double>(values[i]));
  return array;
}

// tensorInfo(tensor): { shape, strides, dtype, device, contiguous }
Napi::Value info_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<Tensor> tensor;
  NA_REFUSE(env, unwrap<Tensor>(info[0], "tensor", &tensor));
  Napi::Object result = Napi::Object::New(env);
  result.Set("shape", numbers(env, tensor->view.shape, tensor->view.rank));
  result.Set("strides", numbers(env, tensor->view.stride, tensor->view.rank));
  result.Set("dtype", tensor->view.dtype);
  result.Set("device", tensor->device()->name);
  result.Set("contiguous", tensor->contiguous());
  return result;
}

// tensorMemory(tensor): { buffer, byteOffset }, the whole allocation as an ArrayBuffer that keeps it alive, and where
// the view begins in it. `copied` tells that this runtime refuses external buffers (Electron).
Napi::Value memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Ref<Tensor> tensor;
  NA_REFUSE(env, unwrap<Tensor>(info[0], "tensor", &tensor));
  Storage* storage = tensor->storage.get();
  if (storage->device->name != kCpu) {
    return refuse(env, error(NA_ERR_DEVICE, "data is on %s; use read() or to('cpu')", storage->device->name.c_str()));
  }
  storage->retain();
  const auto finalize = [](napi_env, void*, void* held) { static_cast<Storage*>(held)->release(); };
  napi_value buffer;
  const size_t bytes = static_cast<size_t>(storage->bytes);
  const napi_status made = napi_create_external_arraybuffer(env, storage->data, bytes, finalize, storage, &buffer);
  bool copied = false;
  if (made == napi_no_external_buffers_allowed) {
    void* data = nullptr;
    copied = napi_create_arraybuffer(env, bytes, &data, &buffer) == napi_ok;
    if (copied && bytes > 0) memcpy(data, storage->data, bytes);
  }
  if (made == napi_ok) {
    storage->exposed = true;
  } else {
    storage->release();
  }
  if (made != napi_ok && !copied) {
    return refuse(env, error(NA_ERR_OUT_OF_MEMORY, "cannot make an ArrayBuffer of %s", bytes_text(storage->bytes).c_str()));
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("buffer", Napi::Value(env, buffer));
  result.Set("byteOffset", static_cast<double>(tensor->byte_offset()));
  result.Set("copied", copied);
  return result;
}

// tensorByteOffset(tensor): where the view begins in its allocation
Napi::Value byte_offset(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  return Napi::Number::New(info.Env(), static_cast<double>(tensor->byte_offset()));
}

// tensorPending(tensor): whether work that writes it is not done
Napi::Value pending(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  return Napi::Boolean::New(info.Env(), tensor->storage->pending());
}

// tensorWritten(tensor): a promise for the end of the work that writes it
Napi::Value written(const Napi::CallbackInfo& info) {
  Ref<Tensor> tensor;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &tensor));
  return Environment::of(info.Env())->promise_at(tensor->storage->last_write);
}

Status copy_tensor(const Ref<Tensor>& source, int32_t dtype, Device* device, Stream* stream, Ref<Tensor>* target) {
  NA_TRY(stream->room());
  const Shape shape(source->view.shape, source->view.shape + source->view.rank);
  NA_TRY(Tensor::allocate(device, dtype, shape, false, false, target));
  stream->enqueue(new CopyOperation(source.get(), target->get()));
  return {};
}

// tensorTo(tensor, dtype, device, stream | null): a new tensor, filled by the stream
Napi::Value to(const Napi::CallbackInfo& info) {
  Ref<Tensor> source, target;
  int32_t dtype = 0;
  Device* device = nullptr;
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &source));
  NA_REFUSE(info.Env(), read_dtype(info[1], &dtype));
  NA_REFUSE(info.Env(), read_device(info[2], &device));
  if (info[3].IsNull()) {
    NA_REFUSE(info.Env(), Environment::of(info.Env())->default_stream(device, &stream));
  } else {
    NA_REFUSE(info.Env(), unwrap<Stream>(info[3], "stream", &stream));
  }
  if (stream->device != device && stream->device != source->device()) {
    return refuse(info.Env(), error(NA_ERR_DEVICE, "stream is on %s but the copy goes from %s to %s",
                                    stream->device->name.c_str(), source->device()->name.c_str(), device->name.c_str()));
  }
  NA_REFUSE(info.Env(), copy_tensor(source, dtype, device, stream.get(), &target));
  return wrap_tensor(info.Env(), std::move(target));
}

// tensorReadBack(tensor): a contiguous copy on the CPU, made as soon as the work that writes the tensor is done,
// whatever else is queued
Napi::Value read_back(const Napi::CallbackInfo& info) {
  Ref<Tensor> source, target;
  Ref<Stream> stream;
  Device* cpu = nullptr;
  NA_REFUSE(info.Env(), unwrap<Tensor>(info[0], "tensor", &source));
  NA_REFUSE(info.Env(), find_device(kCpu, &cpu));
  NA_REFUSE(info.Env(), Environment::of(info.Env())->reading_stream(source->device(), &stream));
  NA_REFUSE(info.Env(), copy_tensor(source, source->view.dtype, cpu, stream.get(), &target));
  return wrap_tensor(info.Env(), std::move(target));
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
}

}  // namespace na
