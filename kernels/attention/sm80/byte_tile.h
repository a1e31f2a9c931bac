// A tile of keys or values that are held as int8 (na_pages), made in two steps: load() copies rows as they are, which
// is not waited for, and once they have come widen() makes elements of them, in place.
//
// A row may begin at any address, and copies are of whole words: what it lies behind in its first word is its skew.
// Until they are widened rows lie at the end of the tile, one after the other, each behind a word that tells its skew
// or that the row is to be zero.
#pragma once

#include "arch/sm80.h"
#include "attention/sm80/shared.h"
#include "core/backend.h"

namespace na::cuda {

template <Element kElement, int kThreads, int kRows, int kRowBytes>
class ByteTile {
 public:
  // `address` tells where each row is, or nullptr where it is to be zero.
  template <typename Address>
  __device__ static void load(uint32_t tile, int columns, int thread, const Address& address) {
    constexpr int kLanes = 8;  // for a row, whose address is looked up once
#pragma unroll 1
    for (int row = thread / kLanes; row < kRows; row += kThreads / kLanes) {
      const char* from = address(row);
      const uint32_t to = row_at(tile, row), skew = from ? reinterpret_cast<uintptr_t>(from) % 4 : kZero;
      if (thread % kLanes == 0) store_shared(to, skew);
      if (!from) continue;
      from -= skew;
      const int end = static_cast<int>(skew) + columns + NA_UNIT_BYTES;
#pragma unroll 1
      for (int at = thread % kLanes * 4; at < end; at += kLanes * 4) copy_async<4>(to + 4 + at, from + at, 4);
    }
  }

  // By all threads together, who `meet` between what they read and what they write. A thread makes 16 bytes at a time;
  // what is written by then ends before the rows that are still to be read, since these take less room.
  template <typename Meet>
  __device__ static void widen(uint32_t tile, int columns, int thread, const Meet& meet) {
#pragma unroll 1
    for (int n = thread; n < kRows * kChunks; n += kThreads) {
      const int row = n / kChunks, chunk = n % kChunks, column = chunk * kColumns;
      uint32_t steps[kColumns / 4] = {}, words[4];
      float unit = 0;
      const uint32_t at = row_at(tile, row), skew = load_shared_word(at), from = at + 4 + skew;
      if (column < columns && skew != kZero) {
#pragma unroll
        for (int i = 0; i < kColumns; i += 4) steps[i / 4] = load_shared_word(from + column + i);
        unit = __uint_as_float(load_shared_word(from + columns));
      }
      meet();
      // Behind the last column there may be anything, and a zero of q times what overflows is no number.
      const auto element = [&](int i) {
        return column + i < columns ? unit * static_cast<float>(static_cast<int8_t>(steps[i / 4] >> i % 4 * 8)) : 0;
      };
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if constexpr (kElement == Element::kFloat32) {
          words[i] = __float_as_uint(element(i));
        } else {
          words[i] = pack<kElement>(element(2 * i), element(2 * i + 1));
        }
      }
      store_shared(tile + Shared::offset(row, chunk), words);
    }
  }

 private:
  static constexpr uint32_t kZero = 0xffffffff;
  using Shared = SharedRows<kRowBytes>;
  static constexpr int kChunks = Shared::kChunks, kColumns = kElement == Element::kFloat32 ? 4 : 8;  // of a chunk
  static constexpr int kPitch = 4 + kChunks * kColumns + NA_UNIT_BYTES + 4;  // the last for the bytes of a skew
  // Threads together make whole rows, or a part of one that leaves room for the row itself.
  static_assert(kThreads % kChunks == 0 ? kPitch <= kRowBytes : kChunks % kThreads == 0 && kPitch <= kThreads * 16);
  static_assert(kRows * kChunks % kThreads == 0);

  __device__ static uint32_t row_at(uint32_t tile, int row) {
    return tile + kRows * (kRowBytes - kPitch) + row * kPitch;
  }
};

}  // namespace na::cuda
