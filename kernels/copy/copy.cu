// One thread for each element, in rows along the last axis; where the row lies is worked out once for all its elements.

#include "arch/element.h"
#include "copy/copy.h"

namespace na::cuda {

// Both sides of a copy, after neighbouring axes that lie evenly on both sides have become one.
struct CopyShape {
  const void* from;
  void* to;
  int64_t rows, columns;
  int32_t axes;  // of the rows
  int64_t length[NA_MAX_RANK], from_stride[NA_MAX_RANK], to_stride[NA_MAX_RANK];
  int64_t from_column, to_column;
};

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;  // each then takes several rows

}  // namespace

// A block has `width` threads for the columns of a row and the rest for further rows.
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads) copy_kernel(__grid_constant__ const CopyShape shape, int width) {
  const int own = static_cast<int>(threadIdx.x) % width, height = kThreads / width;
  const int64_t step = static_cast<int64_t>(gridDim.x) * height;
  int64_t row = static_cast<int64_t>(blockIdx.x) * height + static_cast<int>(threadIdx.x) / width;
  for (; row < shape.rows; row += step) {
    int64_t from = 0, to = 0, rest = row;
    for (int axis = shape.axes - 1; axis >= 0; axis--) {
      const int64_t at = rest % shape.length[axis];
      rest /= shape.length[axis];
      from += at * shape.from_stride[axis];
      to += at * shape.to_stride[axis];
    }
    const From* source = static_cast<const From*>(shape.from) + from;
    To* target = static_cast<To*>(shape.to) + to;
    for (int64_t column = own; column < shape.columns; column += width) {
      const From element = source[column * shape.from_column];
      if constexpr (std::is_same_v<From, To>) {
        target[column * shape.to_column] = element;
      } else {
        target[column * shape.to_column] = narrow<To>(widen(element));
      }
    }
  }
}

namespace {

CopyShape shape_of(const na_tensor& src, const na_tensor& dst) {
  CopyShape shape = {src.data, dst.data, 1, 1, 0, {}, {}, {}, 1, 1};
  int axes = 0;
  for (int i = 0; i < src.rank; i++) {
    const int64_t length = src.shape[i];
    if (length == 1) continue;
    const int last = axes - 1;
    if (last >= 0 && shape.from_stride[last] == length * src.stride[i] &&
        shape.to_stride[last] == length * dst.stride[i]) {
      shape.length[last] *= length;
      shape.from_stride[last] = src.stride[i];
      shape.to_stride[last] = dst.stride[i];
      continue;
    }
    shape.length[axes] = length;
    shape.from_stride[axes] = src.stride[i];
    shape.to_stride[axes++] = dst.stride[i];
  }
  if (axes > 0) {
    axes--;
    shape.columns = shape.length[axes];
    shape.from_column = shape.from_stride[axes];
    shape.to_column = shape.to_stride[axes];
  }
  shape.axes = axes;
  for (int i = 0; i < axes; i++) shape.rows *= shape.length[i];
  // A long row is cut into several, for more blocks than one to work at.
  constexpr int64_t kPiece = 1 << 12;
  if (shape.rows == 1 && shape.columns % kPiece == 0 && shape.columns > kPiece) {
    shape.length[0] = shape.rows = shape.columns / kPiece;
    shape.from_stride[0] = kPiece * shape.from_column;
    shape.to_stride[0] = kPiece * shape.to_column;
    shape.columns = kPiece;
    shape.axes = 1;
  }
  return shape;
}

template <typename From, typename To>
cudaError_t launch(const CopyShape& shape, cudaStream_t stream) {
  int width = 1;
  while (width < kThreads && width < shape.columns) width *= 2;
  const int64_t height = kThreads / width, blocks = (shape.rows + height - 1) / height;
  const dim3 grid(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
  CopyShape given = shape;
  void* arguments[] = {&given, &width};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&copy_kernel<From, To>), grid, dim3(kThreads), arguments, 0,
                          stream);
}

template <typename From>
cudaError_t launch_to(int32_t dtype, const CopyShape& shape, cudaStream_t stream) {
  switch (dtype) {
    case NA_FLOAT32: return launch<From, float>(shape, stream);
    case NA_FLOAT16: return launch<From, __half>(shape, stream);
    case NA_BFLOAT16: return launch<From, __nv_bfloat16>(shape, stream);
    case NA_INT32: return launch<From, int32_t>(shape, stream);
    case NA_UINT8: return launch<From, uint8_t>(shape, stream);
    default: return launch<From, int64_t>(shape, stream);
  }
}

}  // namespace

cudaError_t copy(const na_tensor& src, const na_tensor& dst, cudaStream_t stream) {
  const CopyShape shape = shape_of(src, dst);
  if (shape.rows == 0 || shape.columns == 0) return cudaSuccess;
  switch (src.dtype) {
    case NA_FLOAT32: return launch_to<float>(dst.dtype, shape, stream);
    case NA_FLOAT16: return launch_to<__half>(dst.dtype, shape, stream);
    case NA_BFLOAT16: return launch_to<__nv_bfloat16>(dst.dtype, shape, stream);
    case NA_INT32: return launch_to<int32_t>(dst.dtype, shape, stream);
    case NA_UINT8: return launch_to<uint8_t>(dst.dtype, shape, stream);
    default: return launch_to<int64_t>(dst.dtype, shape, stream);
  }
}

}  // namespace na::cuda
