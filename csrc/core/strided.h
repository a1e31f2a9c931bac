// A copy between two views of the same shape, as the fewest axes that both can be walked by.
#pragma once

#include <cstdint>

#include "core/backend.h"

namespace na {

// Row-major contiguous strides for the shape of a view, over other memory and in another dtype.
na_tensor dense_view(const na_tensor& shape, int32_t dtype, void* data);

int64_t element_count(const na_tensor& view);

class StridedCopy {
 public:
  StridedCopy(const na_tensor& source, const na_tensor& target);

  // Copies, and converts, elements [first, last) in row-major order.
  void run(int64_t first, int64_t last) const;

  int64_t elements() const { return elements_; }

  // Whether all elements lie without gaps, in row-major order, on that side.
  bool source_dense() const { return source_.rank == 1 && source_.stride[0] == 1; }
  bool target_dense() const { return target_.rank == 1 && target_.stride[0] == 1; }

  // With axes merged; both have the same shape and at least one axis.
  const na_tensor& source() const { return source_; }
  const na_tensor& target() const { return target_; }

 private:
  na_tensor source_, target_;
  int64_t elements_ = 1;
};

}  // namespace na
