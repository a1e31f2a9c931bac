#include <algorithm>

#include "arch/enqueue.h"
#include "copy/copy.h"
#include "core/dtype.h"
#include "core/narrow.h"

namespace na::cuda {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 16;  // threads go on with further elements

// Row-major positions [first, first + count) of both views, in units of `kVector` elements along the last axis.
struct CopyArguments {
  const void* source;
  void* target;
  int64_t first, count;
  int32_t rank;
  int64_t shape[NA_MAX_RANK], source_stride[NA_MAX_RANK], target_stride[NA_MAX_RANK];
};

template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T element[kVector];
};

// Offsets are 64-bit; `Index` is that of positions, whose divisions cost more than all else.
template <class From, class To, int kVector, class Index>
__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ CopyArguments a) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < a.count; i += step) {
    auto rest = static_cast<Index>(a.first + i);
    int64_t from = 0, to = 0;
    for (int axis = a.rank - 1; axis > 0; axis--) {
      const auto length = static_cast<Index>(a.shape[axis]);
      const auto at = static_cast<int64_t>(rest % length);
      rest /= length;
      from += at * a.source_stride[axis];
      to += at * a.target_stride[axis];
    }
    from += static_cast<int64_t>(rest) * a.source_stride[0];
    to += static_cast<int64_t>(rest) * a.target_stride[0];
    const auto taken = *reinterpret_cast<const Pack<From, kVector>*>(static_cast<const From*>(a.source) + from);
    Pack<To, kVector> made;
#pragma unroll
    for (int n = 0; n < kVector; n++) {
      if constexpr (std::is_same_v<From, To>) {
        made.element[n] = taken.element[n];
      } else {
        made.element[n] = narrow<To>(widen(taken.element[n]));
      }
    }
    *reinterpret_cast<Pack<To, kVector>*>(static_cast<To*>(a.target) + to) = made;
  }
}

template <class From, class To, int kVector>
cudaError_t launch(const CopyArguments& arguments, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min((arguments.count + kThreads - 1) / kThreads, kMostBlocks));
  const auto kernel = arguments.first + arguments.count < int64_t{1} << 32 ? &copy_kernel<From, To, kVector, uint32_t>
                                                                           : &copy_kernel<From, To, kVector, uint64_t>;
  return enqueue_kernel(kernel, dim3(blocks), kThreads, stream, arguments);
}

// Whether `vector` neighbours along the last axis can be moved at once, on one side.
bool vectors(const na_tensor& view, int vector) {
  const int last = view.rank - 1;
  int64_t all = view.shape[last];
  for (int i = 0; i < last; i++) all |= view.stride[i];
  return view.stride[last] == 1 && all % vector == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(vector * dtype_size(view.dtype)) == 0;
}

template <class From, class To>
cudaError_t copy_as(const na_tensor& source, const na_tensor& target, int64_t first, int64_t last,
                    cudaStream_t stream) {
  CopyArguments arguments{source.data, target.data, first, last - first, source.rank, {}, {}, {}};
  std::copy(source.shape, source.shape + source.rank, arguments.shape);
  std::copy(source.stride, source.stride + source.rank, arguments.source_stride);
  std::copy(target.stride, target.stride + target.rank, arguments.target_stride);
  // Sixteen bytes of the wider type.
  constexpr int kVector = static_cast<int>(16 / std::max(sizeof(From), sizeof(To)));
  if (first % kVector == 0 && last % kVector == 0 && vectors(source, kVector) && vectors(target, kVector)) {
    arguments.first /= kVector;
    arguments.count /= kVector;
    const int axis = source.rank - 1;
    arguments.shape[axis] /= kVector;
    arguments.source_stride[axis] = arguments.target_stride[axis] = kVector;
    return launch<From, To, kVector>(arguments, stream);
  }
  return launch<From, To, 1>(arguments, stream);
}

cudaError_t copy(const StridedCopy& views, int64_t first, int64_t last, cudaStream_t stream) {
  if (first == last) return cudaSuccess;
  const na_tensor &source = views.source(), &target = views.target();
  if (source.dtype == target.dtype) {  // bits are bits
    switch (dtype_size(source.dtype)) {
      case 1: return copy_as<uint8_t, uint8_t>(source, target, first, last, stream);
      case 2: return copy_as<uint16_t, uint16_t>(source, target, first, last, stream);
      case 4: return copy_as<uint32_t, uint32_t>(source, target, first, last, stream);
      default: return copy_as<uint64_t, uint64_t>(source, target, first, last, stream);
    }
  }
  return with_type(source.dtype, [&](auto* from) {
    return with_type(target.dtype, [&](auto* to) -> cudaError_t {
      using From = std::remove_pointer_t<decltype(from)>;
      using To = std::remove_pointer_t<decltype(to)>;
      if constexpr (std::is_same_v<From, To>) {
        return cudaErrorInvalidValue;
      } else {
        return copy_as<From, To>(source, target, first, last, stream);
      }
    });
  });
}

}  // namespace na::cuda
