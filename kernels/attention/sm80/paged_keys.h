// The keys that a block visits, where they lie in pages.
#pragma once

#include "attention/sm80/keys.h"

namespace na::cuda {

template <typename T>
class PagedKeys : public Keys<T> {
 public:
  using Keys<T>::Keys;

  template <bool kValues>
  __device__ const void* base() const {
    return this->problem_.pages.tables;
  }

  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const Problem& problem = this->problem_;
    const Strides& strides = kValues ? problem.v_strides : problem.k_strides;
    const int32_t first = this->at(visit, true);
    const int64_t* const table = problem.pages.tables + this->work_.sequence.batch * problem.pages.pitch;
    const int64_t offset = this->work_.kv_head * strides.head + (kValues ? problem.pages.value_offset : 0);
    return [this, &strides, first, table, offset](int row) -> const char* {
      const int32_t key = first + row;
      if (key < this->tiles_.first_key() || key >= this->tiles_.end_key()) return nullptr;
      return in_page(table, this->problem_.pages.tokens, key, offset, strides.token);
    };
  }
};

}  // namespace na::cuda
