// Rotary position embedding: a warp turns all heads of a token, lanes the pairs of their columns.
//
// Angles are counted in whole turns and in double, since positions go up to 2^30; what is left of the last turn is
// exact enough in float32.
#include <algorithm>
#include <cmath>

#include "arch/enqueue.h"
#include "core/ceil_div.h"
#include "core/dtype.h"
#include "core/narrow.h"
#include "kv/kv.h"

namespace na::cuda {

constexpr int kRotateWarps = 8, kMostPairs = 128, kMostFirsts = 372;  // arguments have 4 KiB
constexpr int64_t kMostRotateBlocks = 1 << 16;                        // warps go on with further tokens

// Strides in elements.
struct RotateArguments {
  const void* source;
  void* target;
  int64_t source_batch, source_token, source_head, target_batch, target_token, target_head, tokens;
  int32_t entries, heads, columns, pairs, interleaved;
  double turns[kMostPairs];  // a position, of each pair
  int64_t firsts[kMostFirsts];
};
static_assert(sizeof(RotateArguments) <= 4096);

template <class T>
__global__ void __launch_bounds__(32 * kRotateWarps) rotate_kernel(const __grid_constant__ RotateArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t all = a.entries * a.tokens, step = int64_t{gridDim.x} * kRotateWarps;
  for (int64_t n = int64_t{blockIdx.x} * kRotateWarps + threadIdx.x / 32; n < all; n += step) {
    const auto entry = static_cast<int32_t>(n / a.tokens);
    const int64_t token = n % a.tokens;
    const T* const from = static_cast<const T*>(a.source) + entry * a.source_batch + token * a.source_token;
    T* const to = static_cast<T*>(a.target) + entry * a.target_batch + token * a.target_token;
    for (int32_t j = lane; j < a.pairs; j += 32) {
      const double turns = static_cast<double>(a.firsts[entry] + token) * a.turns[j];
      float sine, cosine;
      sincospif(static_cast<float>(2 * (turns - rint(turns))), &sine, &cosine);
      const int32_t low = a.interleaved ? 2 * j : j, high = a.interleaved ? 2 * j + 1 : j + a.pairs;
#pragma unroll 1  // no more addresses at once than registers
      for (int32_t head = 0; head < a.heads; head++) {
        const float x = widen(from[head * a.source_head + low]), y = widen(from[head * a.source_head + high]);
        to[head * a.target_head + low] = narrow<T>(x * cosine - y * sine);
        to[head * a.target_head + high] = narrow<T>(x * sine + y * cosine);
      }
    }
    for (int32_t column = 2 * a.pairs + lane; column < a.columns; column += 32) {
      for (int32_t head = 0; head < a.heads; head++) {
        to[head * a.target_head + column] = from[head * a.source_head + column];
      }
    }
  }
}

template <class T>
cudaError_t launch_rotate(const RotateArguments& arguments, cudaStream_t stream) {
  const int64_t all = arguments.entries * arguments.tokens;
  const int64_t blocks = std::min((all + kRotateWarps - 1) / kRotateWarps, kMostRotateBlocks);
  return enqueue_kernel(rotate_kernel<T>, dim3(static_cast<unsigned>(blocks)), 32 * kRotateWarps, stream, arguments);
}

cudaError_t rotate(const na_rotate& rotate, cudaStream_t stream) {
  const na_tensor &source = *rotate.src, &target = *rotate.dst;
  if (source.shape[1] == 0 || source.shape[2] == 0) return cudaSuccess;
  RotateArguments arguments{};
  arguments.source_batch = source.stride[0];
  arguments.source_token = source.stride[1];
  arguments.source_head = source.stride[2];
  arguments.target_batch = target.stride[0];
  arguments.target_token = target.stride[1];
  arguments.target_head = target.stride[2];
  arguments.tokens = source.shape[1];
  arguments.heads = static_cast<int32_t>(source.shape[2]);
  arguments.columns = static_cast<int32_t>(source.shape[3]);
  arguments.pairs = static_cast<int32_t>(rotate.columns / 2);
  arguments.interleaved = rotate.interleaved;
  constexpr double kTurn = 6.283185307179586;  // radians
  for (int32_t j = 0; j < arguments.pairs; j++) {
    arguments.turns[j] = std::pow(rotate.theta, -2.0 * j / static_cast<double>(rotate.columns)) / kTurn;
  }
  const int64_t bytes = dtype_size(source.dtype);
  for (int64_t first = 0; first < source.shape[0]; first += kMostFirsts) {
    arguments.source = static_cast<const char*>(source.data) + first * source.stride[0] * bytes;
    arguments.target = static_cast<char*>(target.data) + first * target.stride[0] * bytes;
    arguments.entries = static_cast<int32_t>(std::min<int64_t>(source.shape[0] - first, kMostFirsts));
    std::copy_n(rotate.first + first, arguments.entries, arguments.firsts);
    cudaError_t status = cudaErrorInvalidValue;
    switch (source.dtype) {
      case NA_FLOAT32: status = launch_rotate<float>(arguments, stream); break;
      case NA_FLOAT16: status = launch_rotate<Half>(arguments, stream); break;
      case NA_BFLOAT16: status = launch_rotate<Brain>(arguments, stream); break;
    }
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int64_t rotate_launches(const na_rotate& rotate) { return ceil_div(rotate.src->shape[0], kMostFirsts); }

}  // namespace na::cuda
