// Elements of a type that is known at run time: it is asked for each, uniformly, since a kernel for each type would be
// three to compile.
#pragma once

#include "core/backend.h"
#include "core/narrow.h"
#include "tile/pages.h"

namespace na::cuda {

// Rows of elements side by side; strides in elements.
struct ElementRows {
  const void* data;
  int64_t batch, token, head;
  int32_t dtype;

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
};

// The same in pages, `value_offset` bytes into each. Rows have no data then, but are counted from address 0.
__device__ inline int64_t row_in_pages(const ElementRows& rows, const Pages& pages, int64_t batch, int64_t token,
                                       int64_t head) {
  const int64_t bytes = rows.dtype == NA_FLOAT32 ? 4 : 2;
  const char* const at = in_page(pages.tables + batch * pages.pitch, pages.tokens, static_cast<int32_t>(token),
                                 pages.value_offset, rows.token * bytes);
  return reinterpret_cast<int64_t>(at) / bytes + head * rows.head;
}

// To the type and back.
__device__ inline float rounded(float value, int32_t dtype) {
  switch (dtype) {
    case NA_FLOAT32: return value;
    case NA_FLOAT16: return widen(narrow<Half>(value));
    default: return widen(narrow<Brain>(value));
  }
}

__device__ inline void store_element(void* data, int32_t dtype, int64_t at, float value) {
  switch (dtype) {
    case NA_FLOAT32: static_cast<float*>(data)[at] = value; break;
    case NA_FLOAT16: static_cast<Half*>(data)[at] = narrow<Half>(value); break;
    default: static_cast<Brain*>(data)[at] = narrow<Brain>(value);
  }
}

}  // namespace na::cuda
