// Pieces of a block of memory, of a size that is known before.
#pragma once

#include <cstddef>
#include <cstdint>

namespace na::cpu {

// Hands out consecutive aligned pieces of scratch memory; counts only, when there is none.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = memory_ ? memory_ + used_ : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }

  template <typename T>
  T** table(int64_t rows, int64_t columns) {
    T** row = take<T*>(rows);
    for (int64_t i = 0; i < rows; i++) {
      T* data = take<T>(columns);
      if (row) row[i] = data;
    }
    return row;
  }

  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

}  // namespace na::cpu
