// Tokens of a tensor into the pages of a cache: a warp copies all heads of a token, lanes the vectors of its rows. To
// int8 a warp rounds one head of it, lanes its columns. Before that, copies of pages that others have too.
#include <algorithm>

#include "arch/enqueue.h"
#include "core/ceil_div.h"
#include "core/dtype.h"
#include "core/narrow.h"
#include "kv/kv.h"
#include "tile/pages.h"

namespace na::cuda {

constexpr int kAppendWarps = 8, kMostEntries = 500;  // arguments have 4 KiB
constexpr int64_t kMostAppendBlocks = 1 << 16;       // warps go on with further tokens
constexpr int kPageThreads = 256, kMostPages = 255;
constexpr int64_t kMostPageBlocks = 256;  // of a page

// Of keys or of values; strides and pitches in bytes, rows in vectors, or to int8 in elements.
struct AppendArguments {
  const char* source;
  int64_t batch, token, head;
  const int64_t* tables;  // of the first entry
  int64_t pitch, offset, page_pitch;
  Divisor page_tokens;
  int32_t entries, tokens, heads, vectors;
  int32_t firsts[kMostEntries], counts[kMostEntries];  // of the tokens that each entry gets
};
static_assert(sizeof(AppendArguments) <= 4096);

// Whole pages of one size; they are aligned.
struct PageCopies {
  int64_t vectors;
  const uint4* from[kMostPages];
  uint4* to[kMostPages];
};
static_assert(sizeof(PageCopies) <= 4096);

__global__ void __launch_bounds__(kPageThreads) copy_pages_kernel(const __grid_constant__ PageCopies a) {
  const uint4* const from = a.from[blockIdx.y];
  uint4* const to = a.to[blockIdx.y];
  const int64_t step = int64_t{gridDim.x} * kPageThreads;
  for (int64_t i = int64_t{blockIdx.x} * kPageThreads + threadIdx.x; i < a.vectors; i += step) to[i] = from[i];
}

template <class Vector>
__global__ void __launch_bounds__(32 * kAppendWarps) append_kernel(const __grid_constant__ AppendArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t all = int64_t{a.entries} * a.tokens, step = int64_t{gridDim.x} * kAppendWarps;
  for (int64_t n = int64_t{blockIdx.x} * kAppendWarps + threadIdx.x / 32; n < all; n += step) {
    const auto entry = static_cast<int32_t>(n / a.tokens), token = static_cast<int32_t>(n % a.tokens);
    if (token >= a.counts[entry]) continue;
    const char* const from = a.source + entry * a.batch + token * a.token;
    auto* const to = reinterpret_cast<Vector*>(
        in_page(a.tables + entry * a.pitch, a.page_tokens, a.firsts[entry] + token, a.offset, a.page_pitch));
    for (int32_t i = lane; i < a.heads * a.vectors; i += 32) {
      to[i] = reinterpret_cast<const Vector*>(from + i / a.vectors * a.head)[i % a.vectors];
    }
  }
}

// Rows of int8 with their units, as na_append says: the same bytes as on the CPU.
template <class Type>
__global__ void __launch_bounds__(32 * kAppendWarps) quantise_kernel(const __grid_constant__ AppendArguments a) {
  constexpr float kLeastNormal = 0x1p-126f, kLargest = 0x1.fffffep127f;
  constexpr unsigned kAllLanes = 0xffffffff;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t all = int64_t{a.entries} * a.tokens * a.heads, step = int64_t{gridDim.x} * kAppendWarps;
  for (int64_t n = int64_t{blockIdx.x} * kAppendWarps + threadIdx.x / 32; n < all; n += step) {
    const auto head = static_cast<int32_t>(n % a.heads), token = static_cast<int32_t>(n / a.heads % a.tokens);
    const auto entry = static_cast<int32_t>(n / a.heads / a.tokens);
    if (token >= a.counts[entry]) continue;
    const auto* const from =
        reinterpret_cast<const Type*>(a.source + entry * a.batch + token * a.token + head * a.head);
    float most = 0;
    bool finite = true;
    for (int32_t d = lane; d < a.vectors; d += 32) {
      const float size = fabsf(widen(from[d]));
      finite &= size <= kLargest;
      most = fmaxf(most, size);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, distance));
    }
    finite = __all_sync(kAllLanes, finite);
    float unit = most / 127;
    if (unit < kLeastNormal) unit = 0;
    if (unit * 127 > kLargest) unit = __uint_as_float(__float_as_uint(unit) - 1);  // the largest element stays a number
    if (!finite) unit = __int_as_float(0x7fc00000);
    char* const to =
        in_page(a.tables + entry * a.pitch, a.page_tokens, a.firsts[entry] + token, a.offset, a.page_pitch) +
        int64_t{head} * (a.vectors + NA_UNIT_BYTES);
    for (int32_t d = lane; d < a.vectors; d += 32) {
      const float steps = unit > 0 ? widen(from[d]) / unit : 0;
      to[d] = static_cast<char>(__float2int_rn(fminf(fmaxf(steps, -127), 127)));
    }
    if (lane < NA_UNIT_BYTES) to[a.vectors + lane] = static_cast<char>(__float_as_uint(unit) >> 8 * lane);
  }
}

cudaError_t launch_rows(void (*kernel)(AppendArguments), const AppendArguments& arguments, int64_t warps,
                        cudaStream_t stream) {
  const int64_t blocks = std::min((warps + kAppendWarps - 1) / kAppendWarps, kMostAppendBlocks);
  return enqueue_kernel(kernel, dim3(static_cast<unsigned>(blocks)), 32 * kAppendWarps, stream, arguments);
}

template <class Vector>
cudaError_t launch_append(AppendArguments arguments, int64_t row_bytes, cudaStream_t stream) {
  arguments.vectors = static_cast<int32_t>(row_bytes / static_cast<int64_t>(sizeof(Vector)));
  return launch_rows(append_kernel<Vector>, arguments, int64_t{arguments.entries} * arguments.tokens, stream);
}

template <class Type>
cudaError_t launch_quantise(AppendArguments arguments, int64_t columns, cudaStream_t stream) {
  arguments.vectors = static_cast<int32_t>(columns);
  const int64_t warps = int64_t{arguments.entries} * arguments.tokens * arguments.heads;
  return launch_rows(quantise_kernel<Type>, arguments, warps, stream);
}

cudaError_t quantise(const AppendArguments& arguments, int32_t dtype, int64_t columns, cudaStream_t stream) {
  switch (dtype) {
    case NA_FLOAT32: return launch_quantise<float>(arguments, columns, stream);
    case NA_FLOAT16: return launch_quantise<Half>(arguments, columns, stream);
    default: return launch_quantise<Brain>(arguments, columns, stream);
  }
}

cudaError_t append_rows(const na_append& append, const na_tensor& rows, int64_t offset, cudaStream_t stream) {
  const na_pages& pages = append.pages;
  const int64_t bytes = dtype_size(rows.dtype), columns = rows.shape[3];
  const int64_t row_bytes = page_row_bytes(rows.dtype, pages.int8 != 0, columns);
  AppendArguments arguments{};
  arguments.batch = rows.stride[0] * bytes;
  arguments.token = rows.stride[1] * bytes;
  arguments.head = rows.stride[2] * bytes;
  arguments.pitch = pages.device_tables->stride[0];
  arguments.offset = offset;
  arguments.page_pitch = rows.shape[2] * row_bytes;
  arguments.page_tokens = divisor_of(static_cast<int32_t>(pages.page_tokens));
  arguments.heads = static_cast<int32_t>(rows.shape[2]);
  // Pages are aligned.
  const int64_t bits = reinterpret_cast<intptr_t>(rows.data) | arguments.batch | arguments.token | arguments.head |
                       arguments.page_pitch | row_bytes;
  for (int64_t first = 0; first < rows.shape[0]; first += kMostEntries) {
    arguments.source = static_cast<const char*>(rows.data) + first * arguments.batch;
    arguments.tables = static_cast<const int64_t*>(pages.device_tables->data) + first * arguments.pitch;
    arguments.entries = static_cast<int32_t>(std::min<int64_t>(rows.shape[0] - first, kMostEntries));
    std::copy_n(pages.lengths + first, arguments.entries, arguments.firsts);
    std::copy_n(append.counts + first, arguments.entries, arguments.counts);
    arguments.tokens = *std::max_element(arguments.counts, arguments.counts + arguments.entries);
    if (arguments.tokens == 0) continue;
    const cudaError_t status = pages.int8       ? quantise(arguments, rows.dtype, columns, stream)
                               : bits % 16 == 0 ? launch_append<uint4>(arguments, row_bytes, stream)
                               : bits % 4 == 0  ? launch_append<uint32_t>(arguments, row_bytes, stream)
                                                : launch_append<uint16_t>(arguments, row_bytes, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

// One launch for many, since an append to a fork may copy a page of every sequence.
cudaError_t copy_pages(const na_append& append, cudaStream_t stream) {
  PageCopies pages{};
  for (int64_t first = 0; first < append.copy_count; first += kMostPages) {
    const int64_t count = std::min<int64_t>(append.copy_count - first, kMostPages);
    pages.vectors = append.copies[first].bytes / static_cast<int64_t>(sizeof(uint4));
    for (int64_t i = 0; i < count; i++) {
      pages.from[i] = static_cast<const uint4*>(append.copies[first + i].from);
      pages.to[i] = static_cast<uint4*>(append.copies[first + i].to);
    }
    const int64_t blocks = std::min((pages.vectors + kPageThreads - 1) / kPageThreads, kMostPageBlocks);
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(count));
    const cudaError_t status = enqueue_kernel(copy_pages_kernel, grid, kPageThreads, stream, pages);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

cudaError_t append(const na_append& append, cudaStream_t stream) {
  if (const cudaError_t status = copy_pages(append, stream); status != cudaSuccess) return status;
  const cudaError_t status = append_rows(append, *append.k, 0, stream);
  return status == cudaSuccess ? append_rows(append, *append.v, append.pages.value_offset, stream) : status;
}

int64_t append_launches(const na_append& append) {
  return ceil_div(append.copy_count, kMostPages) + 2 * ceil_div(append.k->shape[0], kMostEntries);
}

}  // namespace na::cuda
