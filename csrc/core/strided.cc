#include "core/strided.h"

#include <algorithm>

#include "core/convert.h"
#include "core/dtype.h"

namespace na {

na_tensor dense_view(const na_tensor& shape, int32_t dtype, void* data) {
  na_tensor view = shape;
  view.data = data;
  view.dtype = dtype;
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; i--) {
    view.stride[i] = stride;
    stride *= view.shape[i];
  }
  return view;
}

bool is_dense(const na_tensor& view) {
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; i--) {
    if (view.shape[i] != 1 && view.stride[i] != stride) return false;
    stride *= view.shape[i];
  }
  return true;
}

int64_t element_count(const na_tensor& view) {
  int64_t count = 1;
  for (int i = 0; i < view.rank; i++) count *= view.shape[i];
  return count;
}

StridedCopy::StridedCopy(const na_tensor& source, const na_tensor& target)
    : source_(source), target_(target), elements_(element_count(source)) {
  int rank = 0;
  for (int i = 0; i < source.rank; i++) {
    if (source.shape[i] == 1) continue;
    if (rank > 0 && source_.stride[rank - 1] == source.shape[i] * source.stride[i] &&
        target_.stride[rank - 1] == source.shape[i] * target.stride[i]) {
      rank--;
    } else {
      source_.shape[rank] = 1;
    }
    source_.shape[rank] *= source.shape[i];
    source_.stride[rank] = source.stride[i];
    target_.stride[rank++] = target.stride[i];
  }
  if (rank == 0) {  // a single element
    source_.shape[0] = source_.stride[0] = target_.stride[0] = 1;
    rank = 1;
  }
  source_.rank = target_.rank = rank;
  std::copy(source_.shape, source_.shape + rank, target_.shape);
}

void StridedCopy::run(int64_t first, int64_t last) const {
  const ConvertRow convert = convert_row(source_.dtype, target_.dtype);
  const int axis = source_.rank - 1;
  const int64_t columns = source_.shape[axis];
  while (first < last) {
    int64_t row = first / columns;
    const int64_t column = first % columns, count = std::min(columns - column, last - first);
    int64_t from = column * source_.stride[axis], to = column * target_.stride[axis];
    for (int i = axis - 1; i >= 0; i--) {
      const int64_t at = row % source_.shape[i];
      row /= source_.shape[i];
      from += at * source_.stride[i];
      to += at * target_.stride[i];
    }
    convert(static_cast<const char*>(source_.data) + from * dtype_size(source_.dtype), source_.stride[axis],
            static_cast<char*>(target_.data) + to * dtype_size(target_.dtype), target_.stride[axis], count);
    first += count;
  }
}

}  // namespace na
