// Rows of tensors into shared memory.
#pragma once

#include "arch/sm80.h"
#include "attention/sm80/shared.h"

namespace na::cuda {

// Copies `kRows` rows of `row_bytes` bytes, which become rows of kRowBytes: what is beyond row_bytes is 0, and so are
// rows for which address(row) is nullptr. `base` is any address that is never read. Aligned rows are copied 16 bytes at
// a time; otherwise a slower loop copies 4, or single halves through registers, which then are waited for at once.
// The caller commits.
template <int kThreads, int kRows, int kRowBytes, typename Address>
__device__ inline void load_rows(uint32_t to, const void* base, int row_bytes, int width, int thread,
                                 const Address& address) {
  using Shared = SharedRows<kRowBytes>;
  constexpr int kChunks = Shared::kChunks, kTotal = kRows * kChunks;
  if (width == 16) {
#pragma unroll 2  // not whole: addresses of all iterations at once take registers from the accumulators
    for (int i = 0; i < (kTotal + kThreads - 1) / kThreads; i++) {
      const int n = i * kThreads + thread;
      if (kTotal % kThreads != 0 && n >= kTotal) break;
      const int row = n / kChunks, chunk = n % kChunks;
      const char* from = address(row);
      const int valid = from ? min(max(row_bytes - chunk * 16, 0), 16) : 0;
      copy_async<16>(to + Shared::offset(row, chunk), valid ? from + chunk * 16 : base, valid);
    }
    return;
  }
#pragma unroll 1
  for (int n = thread; n < kTotal; n += kThreads) {
    const int row = n / kChunks, chunk = n % kChunks;
    const char* from = address(row);
    const uint32_t at = to + Shared::offset(row, chunk);
    const int chunk_bytes = from ? min(max(row_bytes - chunk * 16, 0), 16) : 0;
    if (width == 4) {
#pragma unroll
      for (int b = 0; b < 16; b += 4) {
        const int valid = min(max(chunk_bytes - b, 0), 4);
        copy_async<4>(at + b, valid ? from + chunk * 16 + b : base, valid);
      }
      continue;
    }
    uint32_t words[4] = {};
#pragma unroll
    for (int h = 0; h < 8; h++) {
      if (2 * h >= chunk_bytes) continue;
      const uint32_t half = *reinterpret_cast<const uint16_t*>(from + chunk * 16 + 2 * h);
      words[h / 2] |= half << (h % 2 * 16);
    }
    store_shared(at, words);
  }
}

}  // namespace na::cuda
