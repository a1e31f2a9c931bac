#include "core/tensor.h"

#include <cstddef>

namespace na {
namespace {

// Counts stay exact in JavaScript numbers.
constexpr int64_t kMostBytes = (int64_t{1} << 53) - 1;

na_tensor contiguous_view(void* data, int32_t dtype, const Shape& shape) {
  na_tensor view{};
  view.data = data;
  view.dtype = dtype;
  view.rank = static_cast<int32_t>(shape.size());
  int64_t stride = 1;
  for (int32_t i = view.rank - 1; i >= 0; i--) {
    view.shape[i] = shape[static_cast<size_t>(i)];
    view.stride[i] = stride;
    stride *= view.shape[i] > 0 ? view.shape[i] : 1;
  }
  return view;
}

int64_t count(const na_tensor& view) {
  int64_t elements = 1;
  for (int32_t i = 0; i < view.rank; i++) elements *= view.shape[i];
  return elements;
}

}  // namespace

Status shape_bytes(const Shape& shape, int32_t dtype, int64_t* bytes) {
  if (shape.size() > NA_MAX_RANK) {
    return error(NA_ERR_SHAPE, "shape has %zu axes; at most %d are supported", shape.size(), NA_MAX_RANK);
  }
  // Zero-length axes make the tensor empty but must not hide an overflow in the strides of the others.
  int64_t total = dtype_size(dtype);
  bool empty = false;
  for (int64_t length : shape) {
    if (length < 0) return error(NA_ERR_SHAPE, "shape %s has a negative length", shape_text(shape).c_str());
    if (length == 0) {
      empty = true;
    } else if (total > kMostBytes / length) {
      return error(NA_ERR_SHAPE, "shape %s has more %s elements than can be counted", shape_text(shape).c_str(),
                   dtype_name(dtype));
    } else {
      total *= length;
    }
  }
  *bytes = empty ? 0 : total;
  return {};
}

std::string shape_text(const int64_t* shape, int32_t rank) {
  std::string text = "[";
  for (int32_t i = 0; i < rank; i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void byte_range(const na_tensor& view, const char** begin, const char** end) {
  *begin = *end = static_cast<const char*>(view.data);
  if (count(view) == 0) return;
  int64_t last = 0;
  for (int32_t i = 0; i < view.rank; i++) last += (view.shape[i] - 1) * view.stride[i];
  *end += (last + 1) * dtype_size(view.dtype);
}

Status Tensor::allocate(Device* device, int32_t dtype, const Shape& shape, bool pinned, bool zeroed,
                        Ref<Tensor>* tensor) {
  int64_t bytes = 0;
  NA_TRY(shape_bytes(shape, dtype, &bytes));
  Ref<Storage> storage;
  NA_TRY(Storage::allocate(device, bytes, pinned, zeroed, &storage));
  *tensor = over(std::move(storage), dtype, shape);
  return {};
}

Ref<Tensor> Tensor::over(Ref<Storage> storage, int32_t dtype, const Shape& shape, int64_t from) {
  const na_tensor view = contiguous_view(static_cast<char*>(storage->data) + from, dtype, shape);
  return Ref<Tensor>(new Tensor(view, std::move(storage)));
}

int64_t Tensor::elements() const { return count(view); }

bool Tensor::contiguous() const {
  if (elements() == 0) return true;
  int64_t expected = 1;
  for (int32_t i = view.rank - 1; i >= 0; i--) {
    if (view.shape[i] == 1) continue;
    if (view.stride[i] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

std::string Tensor::describe() const {
  return std::string(dtype_name(view.dtype)) + " " + shape_text(view) + " on " + device()->name;
}

Tensor* Tensor::of(const na_tensor* view) {
  // na_tensor is a plain member of Tensor, so its distance from the start of the object is a constant.
  static const ptrdiff_t offset = [] {
    alignas(Tensor) static char space[sizeof(Tensor)];
    const auto* tensor = reinterpret_cast<const Tensor*>(space);
    return reinterpret_cast<const char*>(&tensor->view) - space;
  }();
  return reinterpret_cast<Tensor*>(reinterpret_cast<char*>(const_cast<na_tensor*>(view)) - offset);
}

Status Tensor::reshape(const Shape& shape, Ref<Tensor>* result) const {
  int64_t bytes = 0;
  NA_TRY(shape_bytes(shape, view.dtype, &bytes));
  if (bytes != elements() * dtype_size(view.dtype)) {
    return error(NA_ERR_SHAPE, "cannot reshape %s to %s: %lld elements are not %lld", describe().c_str(),
                 shape_text(shape).c_str(), static_cast<long long>(elements()),
                 static_cast<long long>(bytes / dtype_size(view.dtype)));
  }
  na_tensor reshaped = contiguous_view(view.data, view.dtype, shape);
  if (!contiguous()) {
    // Walk both shapes from the last axis. New axes are cut from runs of old axes that are evenly spaced as one.
    int32_t old_axis = view.rank - 1;
    int64_t room = 1, stride = 1;  // what is left of the current run, and its stride
    for (int32_t axis = reshaped.rank - 1; axis >= 0; axis--) {
      const int64_t needed = reshaped.shape[axis];
      if (needed == 1) continue;
      if (room == 1) {
        while (view.shape[old_axis] == 1) old_axis--;
        room = view.shape[old_axis];
        stride = view.stride[old_axis--];
        for (; old_axis >= 0; old_axis--) {
          if (view.shape[old_axis] == 1) continue;
          if (view.stride[old_axis] != stride * room) break;
          room *= view.shape[old_axis];
        }
      }
      if (room % needed != 0) {
        return error(NA_ERR_SHAPE,
                     "cannot reshape %s to %s without a copy: its axes are not evenly spaced; use to() first",
                     describe().c_str(), shape_text(shape).c_str());
      }
      reshaped.stride[axis] = stride;
      stride *= needed;
      room /= needed;
    }
  }
  *result = Ref<Tensor>(new Tensor(reshaped, storage));
  return {};
}

Status Tensor::permute(const Shape& axes, Ref<Tensor>* result) const {
  na_tensor permuted = view;
  bool seen[NA_MAX_RANK] = {};
  bool valid = static_cast<int32_t>(axes.size()) == view.rank;
  for (size_t i = 0; valid && i < axes.size(); i++) {
    const int64_t axis = axes[i];
    if (axis < 0 || axis >= view.rank || seen[axis]) {
      valid = false;
      break;
    }
    seen[axis] = true;
    permuted.shape[i] = view.shape[axis];
    permuted.stride[i] = view.stride[axis];
  }
  if (!valid) {
    return error(NA_ERR_SHAPE, "permute: axes %s do not name each of the %d axes of %s once", shape_text(axes).c_str(),
                 view.rank, describe().c_str());
  }
  *result = Ref<Tensor>(new Tensor(permuted, storage));
  return {};
}

Status Tensor::slice(const std::vector<int64_t>& starts, const std::vector<int64_t>& stops, Ref<Tensor>* result) const {
  na_tensor sliced = view;
  if (static_cast<int32_t>(starts.size()) > view.rank || starts.size() != stops.size()) {
    return error(NA_ERR_SHAPE, "slice: %zu ranges for the %d axes of %s", starts.size(), view.rank, describe().c_str());
  }
  int64_t offset = 0;
  for (size_t i = 0; i < starts.size(); i++) {
    if (starts[i] < 0 || starts[i] > stops[i] || stops[i] > view.shape[i]) {
      return error(NA_ERR_SHAPE, "slice: [%lld, %lld] is not a range of axis %zu of %s",
                   static_cast<long long>(starts[i]), static_cast<long long>(stops[i]), i, describe().c_str());
    }
    sliced.shape[i] = stops[i] - starts[i];
    offset += starts[i] * view.stride[i];
  }
  // An empty view keeps the first address, so that it never points past its storage.
  if (count(sliced) > 0) sliced.data = static_cast<char*>(view.data) + offset * dtype_size(view.dtype);
  *result = Ref<Tensor>(new Tensor(sliced, storage));
  return {};
}

}  // namespace na
