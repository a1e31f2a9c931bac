// A copy between two views of the same shape, as the fewest axes that both can be walked by.
#pragma once

#include <cstdint>

#include "core/backend.h"

namespace na {

// Row-major contiguous strides for the shape of a view, over other memory and in another dtype.
na_tensor dense_view(const na_tensor& shape, int32_t dtype, void* data);

// Whether the elements of a view lie like that.
bool is_dense(const na_tensor& view);

int64_t element_count(const na_tensor& view);

class StridedCopy {
 public:
  StridedCopy(const na_tensor& source, const na_tensor& target);

  // Copies, and converts, elements [first, last) in row-major order.
  void run(int64_t first, int64_t last) const;

  int64_t elements() const { return elements_; }

  // With axes merged; both have the same shape and at least one axis.
  const na_tensor& source() const { return source_; }
  const na_tensor& target() const { return target_; }

 private:
  na_tensor source_, target_;
  int64_t elements_ = 1;
};

}  // namespace na
