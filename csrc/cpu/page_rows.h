// Single rows of keys or values in pages (na_pages).
#pragma once

#include <cstring>

#include "core/backend.h"
#include "core/dtype.h"
#include "core/narrow.h"

namespace na::cpu {

// Some columns of a row of int8, of which there are `columns`, in the type that attention widens it to.
template <class Type>
void widen_int8(const char* row, int columns, int first, int count, Type* to) {
  float unit;
  std::memcpy(&unit, row + columns, sizeof(unit));
  for (int d = 0; d < count; d++) to[d] = narrow<Type>(unit * static_cast<float>(static_cast<int8_t>(row[first + d])));
}

struct PageRows {
  const na_pages& pages;
  int32_t dtype;
  bool int8;
  int columns;
  int64_t offset, head, token;  // bytes

  // `offset` is 0 for keys and pages.value_offset for values.
  PageRows(const na_tensor& tensor, const na_pages& pages, int64_t offset)
      : pages(pages),
        dtype(tensor.dtype),
        int8(pages.int8 != 0),
        columns(static_cast<int>(tensor.shape[3])),
        offset(offset),
        head(page_row_bytes(dtype, int8, columns)),
        token(tensor.shape[2] * head) {}

  const char* row(int64_t batch, int64_t at, int64_t of_head) const {
    const char* const page = static_cast<const char*>(pages.tables[batch][at / pages.page_tokens]);
    return page + offset + at % pages.page_tokens * token + of_head * head;
  }

  void read(const char* row, float* to) const {
    if (int8) {
      float unit;
      std::memcpy(&unit, row + columns, sizeof(unit));
      for (int d = 0; d < columns; d++) to[d] = unit * static_cast<float>(static_cast<int8_t>(row[d]));
      return;
    }
    const auto* const halves = reinterpret_cast<const uint16_t*>(row);
    if (dtype == NA_FLOAT32) {
      std::memcpy(to, row, static_cast<size_t>(columns) * sizeof(float));
    } else if (dtype == NA_FLOAT16) {
      for (int d = 0; d < columns; d++) to[d] = float16_to_float(halves[d]);
    } else {
      for (int d = 0; d < columns; d++) to[d] = bfloat16_to_float(halves[d]);
    }
  }
};

}  // namespace na::cpu
