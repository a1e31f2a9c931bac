// Which of some scores are the highest, found by a block of threads, digit by digit from the highest on.
//
// Scores are compared as whole numbers of the same order; 0 stands for no score at all. What is wanted are always the
// first ones in the order of descending scores, ascending numbers where these are equal, so a cut says it all. Shares
// of a softmax are counted in units of 2^-38 of the largest weight, as whole numbers too: then their sums do not depend
// on the order of threads.
#pragma once

#include "select/sum.h"

namespace na::cuda {

constexpr int kChooseThreads = 256;  // as many as digits

constexpr uint32_t kAbsent = 0, kPresent = 1;

__device__ inline uint32_t key_of(float score) {
  if (score == 0) score = 0;  // as high as -0
  const uint32_t bits = __float_as_uint(score);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float score_of(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// Those of higher keys, and of this key so many first ones.
struct Cut {
  uint32_t key;
  Sum ties;
};
__device__ inline Cut everything() { return {kAbsent, 0}; }
__device__ inline Cut nothing() { return {0xffffffff, 0}; }
__device__ inline Cut shorter(Cut a, Cut b) { return a.key > b.key || (a.key == b.key && a.ties < b.ties) ? a : b; }

// What a score counts: 1, or its weight in the softmax.
struct Measure {
  static constexpr double kUnits = 0x1p38;  // 2^24 of them have a sum
  bool weighted;
  float scale, top;

  // Each operation is rounded, as on the CPU.
  __device__ double weight(uint32_t key) const {
    const float x = __fmul_rn(score_of(key), scale);
    return x == top ? 1 : exp(static_cast<double>(__fsub_rn(x, top)));  // also of infinity
  }
  __device__ Sum operator()(uint32_t key) const {
    if (key == kAbsent) return 0;
    return weighted ? static_cast<Sum>(weight(key) * kUnits) : 1;
  }
};

// Shared memory of a block that chooses.
struct ChooseMemory {
  Sum warps[kMostWarps];
  Sum digits[kChooseThreads];
  Sum rest;
  uint32_t digit, top;
};

// Of the scores that are there.
__device__ inline Sum sum_of(const uint32_t* keys, int32_t count, const Measure& measure, ChooseMemory& memory) {
  Sum own = 0, all;
  for (int32_t n = static_cast<int32_t>(threadIdx.x); n < count; n += kChooseThreads) own += measure(keys[n]);
  sum_before(own, memory.warps, &all);
  return all;
}

// As many as it takes for a sum of at least `wanted`, which is neither 0 nor more than that of all.
__device__ inline Cut cut_at(const uint32_t* keys, int32_t count, const Measure& measure, Sum wanted,
                             ChooseMemory& memory) {
  const auto thread = static_cast<int>(threadIdx.x);
  uint32_t found = 0;
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    memory.digits[thread] = 0;
    __syncthreads();
    for (int32_t n = thread; n < count; n += kChooseThreads) {
      const uint32_t key = keys[n];
      if (shift < 24 && (key ^ found) >> (shift + 8) != 0) continue;
      const Sum own = measure(key);
      if (own > 0) atomicAdd(&memory.digits[key >> shift & 255], own);
    }
    __syncthreads();
    const uint32_t digit = 255 - static_cast<uint32_t>(thread);
    const Sum own = memory.digits[digit];
    Sum all;
    const Sum before = sum_before(own, memory.warps, &all);
    if (before < wanted && wanted <= before + own) {
      memory.digit = digit;
      memory.rest = wanted - before;
    }
    __syncthreads();
    found |= memory.digit << shift;
    wanted = memory.rest;
  }
  const Sum each = measure(found);
  return {found, (wanted + each - 1) / each};
}

// The highest ones.
__device__ inline Cut cut_of_count(const uint32_t* keys, int32_t count, int64_t wanted, ChooseMemory& memory) {
  const Measure measure{false, 0, 0};
  if (wanted == 0) return nothing();
  if (sum_of(keys, count, measure, memory) <= static_cast<Sum>(wanted)) return everything();
  return cut_at(keys, count, measure, static_cast<Sum>(wanted), memory);
}

// The fewest that have top_p of the softmax, if that is less than 1, each of at least a share of `threshold`.
__device__ inline Cut cut_of_shares(const uint32_t* keys, int32_t count, float scale, float top_p, float threshold,
                                    ChooseMemory& memory) {
  if (threadIdx.x == 0) memory.top = kAbsent;
  __syncthreads();
  uint32_t own = kAbsent;
  for (int32_t n = static_cast<int32_t>(threadIdx.x); n < count; n += kChooseThreads) own = max(own, keys[n]);
  atomicMax(&memory.top, own);
  __syncthreads();
  const uint32_t top = memory.top;
  const Measure measure{true, scale, __fmul_rn(score_of(top), scale)};
  if (top == kAbsent || measure.top == -__builtin_huge_valf()) return everything();
  const auto total = static_cast<double>(sum_of(keys, count, measure, memory));
  Cut cut = everything();
  if (top_p < 1) {
    const auto wanted = static_cast<Sum>(ceil(static_cast<double>(top_p) * total));
    cut = wanted == 0 || !(total > 0) ? nothing() : cut_at(keys, count, measure, wanted, memory);
  }
  if (threshold > 0) {
    const double least = static_cast<double>(threshold) * total / Measure::kUnits;
    uint32_t low = kAbsent, high = top + 1;  // what weighs too little, and what does not
#pragma unroll 1
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (measure.weight(middle) >= least ? high : low) = middle;
    }
    cut = shorter(cut, {low, 0});
  }
  return cut;
}

}  // namespace na::cuda
