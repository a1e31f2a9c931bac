// Elements of a type that is known at run time: it is asked for each, uniformly, since a kernel for each type would be
// three to compile. Rows of them lie in a tensor, in pages of a cache, or in segments of summaries.
#pragma once

#include "core/backend.h"
#include "core/narrow.h"
#include "tile/pages.h"
#include "tile/segments.h"

namespace na::cuda {

// To the type and back.
__device__ inline float rounded(float value, int32_t dtype) {
  switch (dtype) {
    case NA_FLOAT32: return value;
    case NA_FLOAT16: return widen(narrow<Half>(value));
    default: return widen(narrow<Brain>(value));
  }
}

// Rows of elements side by side; strides in elements.
struct ElementRows {
  void* data;
  int64_t batch, token, head;
  int32_t dtype;
  int32_t int8;  // columns, of rows of int8 (na_pages) that become the type when they are read; else 0

  __device__ int64_t row(int64_t of_batch, int64_t of_token, int64_t of_head) const {
    return of_batch * batch + of_token * token + of_head * head;
  }
  __device__ float operator[](int64_t at) const {
    switch (dtype) {
      case NA_FLOAT32: return static_cast<const float*>(data)[at];
      case NA_FLOAT16: return widen(static_cast<const Half*>(data)[at]);
      default: return widen(static_cast<const Brain*>(data)[at]);
    }
  }
  // A column of the row at `row`, however it is held.
  __device__ float read(int64_t row, int32_t column) const {
    if (int8 == 0) return (*this)[row + column];
    const auto* const bytes = static_cast<const uint8_t*>(data) + row;
    uint32_t unit = 0;
#pragma unroll
    for (int i = 0; i < NA_UNIT_BYTES; i++) unit |= static_cast<uint32_t>(bytes[int8 + i]) << 8 * i;
    return rounded(__uint_as_float(unit) * static_cast<float>(static_cast<int8_t>(bytes[column])), dtype);
  }
  __device__ int64_t element_bytes() const { return int8 ? 1 : dtype == NA_FLOAT32 ? 4 : 2; }
  __device__ void store(int64_t at, float value) const {
    switch (dtype) {
      case NA_FLOAT32: static_cast<float*>(data)[at] = value; break;
      case NA_FLOAT16: static_cast<Half*>(data)[at] = narrow<Half>(value); break;
      default: static_cast<Brain*>(data)[at] = narrow<Brain>(value);
    }
  }
};

// The same in pages, `value_offset` bytes into each. Rows have no data then, but are counted from address 0.
__device__ inline int64_t row_in_pages(const ElementRows& rows, const Pages& pages, int64_t batch, int64_t token,
                                       int64_t head) {
  const int64_t bytes = rows.element_bytes();
  const char* const at = in_page(pages.tables + batch * pages.pitch, pages.tokens, static_cast<int32_t>(token),
                                 pages.value_offset, rows.token * bytes);
  return reinterpret_cast<int64_t>(at) / bytes + head * rows.head;
}

// What was pooled of a block: in a segment, or behind them all in `rest`, whose tokens are blocks. Rows are counted
// from its data.
__device__ inline int64_t row_in_segments(const ElementRows& rest, const Segments& segments, int64_t batch,
                                          int64_t block, int64_t head) {
  if (!segments.tables) return rest.row(batch, block, head);
  const int64_t* const table = segments.tables + batch * segments.pitch;
  const int64_t kept = table[0] << segments.blocks;
  if (block >= kept) return rest.row(batch, block - kept, head);
  const int64_t bytes = table[1 + (block >> segments.blocks)] - reinterpret_cast<int64_t>(rest.data);
  const int64_t first = bytes >> (rest.dtype == NA_FLOAT32 ? 2 : 1);
  return first + (block & ((int64_t{1} << segments.blocks) - 1)) * rest.token + head * rest.head;
}

}  // namespace na::cuda
