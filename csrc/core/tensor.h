// A typed, strided view of a storage. Immutable; views share the storage.
#pragma once

#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/storage.h"

namespace na {

using Shape = std::vector<int64_t>;

class Tensor : public RefCounted {
 public:
  Tensor(const na_tensor& view, Ref<Storage> storage) : view(view), storage(std::move(storage)) {}

  // A contiguous tensor in new memory.
  static Status allocate(Device* device, int32_t dtype, const Shape& shape, bool pinned, bool zeroed,
                         Ref<Tensor>* tensor);
  // A contiguous tensor over a storage that is large enough, from a byte of it on.
  static Ref<Tensor> over(Ref<Storage> storage, int32_t dtype, const Shape& shape, int64_t from = 0);

  // Views: no copy, or ERR_SHAPE.
  Status reshape(const Shape& shape, Ref<Tensor>* result) const;
  Status permute(const Shape& axes, Ref<Tensor>* result) const;
  Status slice(const std::vector<int64_t>& starts, const std::vector<int64_t>& stops, Ref<Tensor>* result) const;

  Device* device() const { return storage->device; }
  int64_t elements() const;
  bool contiguous() const;
  int64_t byte_offset() const { return static_cast<const char*>(view.data) - static_cast<const char*>(storage->data); }
  std::string describe() const;  // "float32 [1, 4, 8, 64] on cpu"

  // The tensor that holds a view handed to a backend.
  static Tensor* of(const na_tensor* view);

  const na_tensor view;
  const Ref<Storage> storage;
};

// Checks rank and lengths, and that the bytes can be counted: ERR_SHAPE otherwise.
Status shape_bytes(const Shape& shape, int32_t dtype, int64_t* bytes);
inline Shape shape_of(const na_tensor& view) { return Shape(view.shape, view.shape + view.rank); }
std::string shape_text(const int64_t* shape, int32_t rank);
inline std::string shape_text(const Shape& shape) {
  return shape_text(shape.data(), static_cast<int32_t>(shape.size()));
}
inline std::string shape_text(const na_tensor& view) { return shape_text(view.shape, view.rank); }

// First and one past the last byte that a view can touch; equal when it is empty.
void byte_range(const na_tensor& view, const char** begin, const char** end);

}  // namespace na
