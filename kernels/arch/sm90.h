// The instructions of Hopper: mbarrier, named barriers, tensor copies, wgmma, setmaxnreg, one function each.
// Places in shared memory are addresses of the shared space.
//
// wgmma and setmaxnreg are CUTLASS's. Its barriers and copies are not used, since several of them do not tell the
// compiler that they touch memory.
#pragma once

#include <cuda.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/mma_sm90_gmma.hpp>
#include <cute/arch/mma_sm90_gmma_ext.hpp>
#include <utility>

#include "arch/sm80.h"

namespace na::cuda {

// The same number, but what follows from it cannot be computed before this place and kept in registers until then, and
// what was written to memory before is not kept in registers either.
__device__ inline int32_t late(int32_t x) {
  asm volatile("" : "+r"(x)::"memory");
  return x;
}

// --- mbarrier

__device__ inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the asynchronous proxy.
__device__ inline void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Arrives, and lets the phase last until so many bytes have been copied.
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of the given parity has ended.
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// --- named barriers, of some of the block's threads

__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts as having come, and goes on.
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- tensor copies of rank 4 and 5

__device__ inline void copy_tensor(uint32_t to, const CUtensorMap* map, uint32_t barrier, int32_t column, int32_t head,
                                   int32_t token, int32_t batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(head), "r"(token), "r"(batch)
      : "memory");
}

__device__ inline void copy_tensor(uint32_t to, const CUtensorMap* map, uint32_t barrier, int32_t column, int32_t head,
                                   int32_t z, int32_t y, int32_t x) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(head), "r"(z), "r"(y), "r"(x)
      : "memory");
}

__device__ inline void store_tensor(const CUtensorMap* map, uint32_t from, int32_t column, int32_t head, int32_t token,
                                    int32_t batch) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(from), "r"(column), "r"(head), "r"(token), "r"(batch)
               : "memory");
}

__device__ inline void store_tensor(const CUtensorMap* map, uint32_t from, int32_t column, int32_t head, int32_t z,
                                    int32_t y, int32_t x) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
               "r"(from), "r"(column), "r"(head), "r"(z), "r"(y), "r"(x)
               : "memory");
}

__device__ inline void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until the stores that this thread started have read shared memory.
__device__ inline void store_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// What this thread wrote to shared memory may be read by tensor copies and wgmma.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- registers of a warpgroup

template <int kRegisters>
__device__ inline void take_registers() {
  cutlass::arch::warpgroup_reg_alloc<kRegisters>();
}

template <int kRegisters>
__device__ inline void give_registers() {
  cutlass::arch::warpgroup_reg_dealloc<kRegisters>();
}

// --- wgmma: 64 rows. Accumulators as in tile/score.h, those of warp n are rows 16 n ... 16 n + 15

__device__ inline void multiply_fence() { cute::warpgroup_arrive(); }
__device__ inline void multiply_commit() { cute::warpgroup_commit_batch(); }

// Until at most kPending of the latest groups are under way.
template <int kPending>
__device__ inline void multiply_wait() {
  cute::warpgroup_wait<kPending>();
}

// To be called after the wait for the product that writes these sums: the compiler takes them to be ready when the
// product is started.
template <int kColumns>
__device__ inline void multiply_done(float (&sums)[kColumns][4]) {
#pragma unroll
  for (int i = 0; i < 4 * kColumns; i++) cute::warpgroup_fence_operand(sums[i / 4][i % 4]);
}

// A matrix in shared memory in atoms of kSpan bytes by 8 lines, swizzled. `leading` bytes between atoms along what is
// contiguous, where it is longer than an atom.
template <int kSpan>
__device__ inline uint64_t matrix(uint32_t address, uint32_t leading) {
  static_assert(kSpan == 64 || kSpan == 128);
  constexpr uint64_t kSwizzle = kSpan == 128 ? 1 : 2, kStride = 8 * kSpan / 16;
  return (address & 0x3ffff) >> 4 | uint64_t{leading >> 4} << 16 | kStride << 32 | kSwizzle << 62;
}

// A and B of Keys in shared memory, with rows of both along the sum; of Values A in registers, and B with rows across
// it.
template <Element kElement, int kColumns>
struct Wgmma;

#define NODE_ATTENTION_WGMMA(columns)                                                                                  \
  template <>                                                                                                          \
  struct Wgmma<Element::kFloat16, columns> {                                                                           \
    using Keys =                                                                                                       \
        cute::SM90::GMMA::MMA_64x##columns##x16_F32F16F16_SS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::K>;  \
    using Values =                                                                                                     \
        cute::SM90::GMMA::MMA_64x##columns##x16_F32F16F16_RS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::MN>; \
  };                                                                                                                   \
  template <>                                                                                                          \
  struct Wgmma<Element::kBfloat16, columns> {                                                                          \
    using Keys = cute::SM90::GMMA::MMA_64x##columns##x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K,                    \
                                                                        cute::SM90::GMMA::Major::K>;                   \
    using Values = cute::SM90::GMMA::MMA_64x##columns##x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K,                  \
                                                                          cute::SM90::GMMA::Major::MN>;                \
  };
NODE_ATTENTION_WGMMA(64)
NODE_ATTENTION_WGMMA(80)
NODE_ATTENTION_WGMMA(96)
NODE_ATTENTION_WGMMA(112)
NODE_ATTENTION_WGMMA(128)
NODE_ATTENTION_WGMMA(192)
NODE_ATTENTION_WGMMA(256)
#undef NODE_ATTENTION_WGMMA

template <typename Instruction, int kColumns, size_t... kIndex>
__device__ inline void issue(float (&d)[kColumns][4], uint64_t a, uint64_t b, bool accumulate,
                             std::index_sequence<kIndex...>) {
  using cute::SM90::GMMA::ScaleOut;
  Instruction::fma(a, b, d[kIndex / 4][kIndex % 4]..., accumulate ? ScaleOut::One : ScaleOut::Zero);
}
template <typename Instruction, int kColumns, size_t... kIndex>
__device__ inline void issue(float (&d)[kColumns][4], const uint32_t (&a)[4], uint64_t b,
                             std::index_sequence<kIndex...>) {
  Instruction::fma(a[0], a[1], a[2], a[3], b, d[kIndex / 4][kIndex % 4]..., cute::SM90::GMMA::ScaleOut::One);
}

// d = A B, or d += A B, over 16 columns of A.
template <Element kElement, int kColumns>
__device__ inline void multiply_keys(float (&d)[kColumns][4], uint64_t a, uint64_t b, bool accumulate) {
  issue<typename Wgmma<kElement, 8 * kColumns>::Keys>(d, a, b, accumulate, std::make_index_sequence<4 * kColumns>());
}

// d += A B over 16 columns of A.
template <Element kElement, int kColumns>
__device__ inline void multiply_values(float (&d)[kColumns][4], const uint32_t (&a)[4], uint64_t b) {
  issue<typename Wgmma<kElement, 8 * kColumns>::Values>(d, a, b, std::make_index_sequence<4 * kColumns>());
}

}  // namespace na::cuda
