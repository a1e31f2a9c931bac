#include <algorithm>

#include "arch/enqueue.h"
#include "copy/copy.h"
#include "core/dtype.h"
#include "core/narrow.h"

namespace na::cuda {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 16;  // threads go on with further elements

// Row-major positions [first, first + count) of both views, in units of a kernel's vectors along the last axis.
struct CopyArguments {
  const void* source;
  void* target;
  int64_t first, count;
  int32_t rank, source_dtype, target_dtype;
  int64_t shape[NA_MAX_RANK], source_stride[NA_MAX_RANK], target_stride[NA_MAX_RANK];
};

template <class T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T element[kVector];
};

// Of an element, from the first ones of both views. `Index` is the type of positions, whose divisions cost more than
// all else; offsets are 64-bit.
template <class Index>
__device__ inline void find(const CopyArguments& a, int64_t position, int64_t& from, int64_t& to) {
  auto rest = static_cast<Index>(position);
  from = to = 0;
  for (int axis = a.rank - 1; axis > 0; axis--) {
    const auto length = static_cast<Index>(a.shape[axis]);
    const auto at = static_cast<int64_t>(rest % length);
    rest /= length;
    from += at * a.source_stride[axis];
    to += at * a.target_stride[axis];
  }
  from += static_cast<int64_t>(rest) * a.source_stride[0];
  to += static_cast<int64_t>(rest) * a.target_stride[0];
}

// Calls `move(from, to)` with the offsets of all elements that are this thread's.
template <class Index, class Move>
__device__ inline void each_element(const CopyArguments& a, const Move& move) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < a.count; i += step) {
    int64_t from, to;
    find<Index>(a, a.first + i, from, to);
    move(from, to);
  }
}

// Elements as they are, and floats of any type to any other.
template <class From, class To, int kVector, class Index>
__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ CopyArguments a) {
  each_element<Index>(a, [&](int64_t from, int64_t to) {
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
  });
}

template <class T>
__device__ inline T load(const CopyArguments& a, int64_t from) {
  return static_cast<const T*>(a.source)[from];
}

template <class From>
__device__ inline void store(const CopyArguments& a, int64_t to, From value) {
  switch (a.target_dtype) {
    case NA_FLOAT32: static_cast<float*>(a.target)[to] = narrow<float>(value); break;
    case NA_FLOAT16: static_cast<Half*>(a.target)[to] = narrow<Half>(value); break;
    case NA_BFLOAT16: static_cast<Brain*>(a.target)[to] = narrow<Brain>(value); break;
    case NA_INT32: static_cast<int32_t*>(a.target)[to] = narrow<int32_t>(value); break;
    case NA_UINT8: static_cast<uint8_t*>(a.target)[to] = narrow<uint8_t>(value); break;
    default: static_cast<int64_t*>(a.target)[to] = narrow<int64_t>(value);
  }
}

// Integers to or from anything: one kernel for all, which asks for the types, since a kernel for each pair of types
// would take longer to compile than all those that are in use every day.
__global__ void __launch_bounds__(kThreads) convert_kernel(const __grid_constant__ CopyArguments a) {
  each_element<uint64_t>(a, [&](int64_t from, int64_t to) {
    switch (a.source_dtype) {
      case NA_FLOAT32: store(a, to, load<float>(a, from)); break;
      case NA_FLOAT16: store(a, to, widen(load<Half>(a, from))); break;
      case NA_BFLOAT16: store(a, to, widen(load<Brain>(a, from))); break;
      case NA_INT32: store(a, to, widen(load<int32_t>(a, from))); break;
      case NA_UINT8: store(a, to, widen(load<uint8_t>(a, from))); break;
      default: store(a, to, load<int64_t>(a, from));
    }
  });
}

cudaError_t launch(void (*kernel)(CopyArguments), const CopyArguments& arguments, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min((arguments.count + kThreads - 1) / kThreads, kMostBlocks));
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
cudaError_t copy_as(CopyArguments arguments, const na_tensor& source, const na_tensor& target, cudaStream_t stream) {
  // Sixteen bytes of the wider type.
  constexpr int kVector = static_cast<int>(16 / std::max(sizeof(From), sizeof(To)));
  // Vectors are for positions of 32 bits alone.
  const auto few = [&](int64_t each) { return arguments.first + arguments.count < each << 32; };
  const bool whole = (arguments.first | arguments.count) % kVector == 0;
  if (!whole || !few(kVector) || !vectors(source, kVector) || !vectors(target, kVector)) {
    return launch(few(1) ? copy_kernel<From, To, 1, uint32_t> : copy_kernel<From, To, 1, uint64_t>, arguments, stream);
  }
  arguments.first /= kVector;
  arguments.count /= kVector;
  const int axis = source.rank - 1;
  arguments.shape[axis] /= kVector;
  arguments.source_stride[axis] = arguments.target_stride[axis] = kVector;
  return launch(copy_kernel<From, To, kVector, uint32_t>, arguments, stream);
}

// Calls `action` with a null pointer to the type of a float.
template <class Action>
cudaError_t with_float(int32_t dtype, const Action& action) {
  switch (dtype) {
    case NA_FLOAT32: return action(static_cast<float*>(nullptr));
    case NA_FLOAT16: return action(static_cast<Half*>(nullptr));
    default: return action(static_cast<Brain*>(nullptr));
  }
}

cudaError_t copy(const StridedCopy& views, int64_t first, int64_t last, cudaStream_t stream) {
  if (first == last) return cudaSuccess;
  const na_tensor &source = views.source(), &target = views.target();
  CopyArguments arguments{source.data,  target.data,  first, last - first, source.rank,
                          source.dtype, target.dtype, {},    {},           {}};
  std::copy(source.shape, source.shape + source.rank, arguments.shape);
  std::copy(source.stride, source.stride + source.rank, arguments.source_stride);
  std::copy(target.stride, target.stride + target.rank, arguments.target_stride);
  if (source.dtype == target.dtype) {  // bits are bits
    switch (dtype_size(source.dtype)) {
      case 1: return copy_as<uint8_t, uint8_t>(arguments, source, target, stream);
      case 2: return copy_as<uint16_t, uint16_t>(arguments, source, target, stream);
      case 4: return copy_as<uint32_t, uint32_t>(arguments, source, target, stream);
      default: return copy_as<uint64_t, uint64_t>(arguments, source, target, stream);
    }
  }
  if (!dtype_is_float(source.dtype) || !dtype_is_float(target.dtype)) return launch(convert_kernel, arguments, stream);
  return with_float(source.dtype, [&](auto* from) {
    return with_float(target.dtype, [&](auto* to) -> cudaError_t {
      using From = std::remove_pointer_t<decltype(from)>;
      using To = std::remove_pointer_t<decltype(to)>;
      if constexpr (std::is_same_v<From, To>) {
        return cudaErrorInvalidValue;
      } else {
        return copy_as<From, To>(arguments, source, target, stream);
      }
    });
  });
}

}  // namespace na::cuda
