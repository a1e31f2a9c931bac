// The most floating-point operations per second that this machine does: independent multiply-adds on registers, nothing
// loaded or stored, by so many threads at once. Run by peak.ts as `peak THREADS`; prints "name GFLOP/s" lines, the best
// of several short runs for every instruction set the processor has.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
constexpr double kSeconds = 0.03;
constexpr int kRuns = 8;
constexpr int kSteps = 10000;

volatile float sink;

// As many sums as registers allow, so that each has time to finish before it is needed again. Factor and summand keep
// them at 1.
#define DEFINE_MULTIPLY_ADD(NAME, TARGET, WIDTH, SUMS)                         \
  TARGET double NAME() {                                                       \
    typedef float Vector __attribute__((vector_size(4 * (WIDTH))));            \
    volatile float factor = 0.5f, summand = 0.5f;                              \
    const Vector a = Vector{} + factor, b = Vector{} + summand;                \
    Vector sums[SUMS];                                                         \
    float start = 0; /* all different, or the compiler computes one for all */ \
    _Pragma("GCC unroll 32") for (Vector & sum : sums) sum = b + start++;      \
    for (int step = 0; step < kSteps; step++) {                                \
      _Pragma("GCC unroll 32") for (Vector & sum : sums) sum = sum * a + b;    \
    }                                                                          \
    _Pragma("GCC unroll 32") for (const Vector& sum : sums) sink = sum[0];     \
    return 2.0 * (WIDTH) * (SUMS) * kSteps;                                    \
  }

DEFINE_MULTIPLY_ADD(generic, , 4, 12)

#if defined(__x86_64__)
DEFINE_MULTIPLY_ADD(avx2, __attribute__((target("avx2,fma"))), 8, 12)
DEFINE_MULTIPLY_ADD(avx512, __attribute__((target("avx512f"))), 16, 24)

// Products of 16x32 and 32x16 bfloat16 into four 16x16 sums.
__attribute__((target("amx-tile,amx-bf16"))) double amx() {
  struct alignas(64) {
    unsigned char palette = 1, start_row = 0, reserved[14] = {};
    unsigned short row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));  // the intrinsic lets GCC 12 drop the stores before it
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int step = 0; step < kSteps; step++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * 2 * 16 * 16 * 32 * kSteps;
}

bool has_amx() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return (edx >> 22 & 1) && (edx >> 24 & 1) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

double gflops(double (*chunk)(), int threads) {
  std::vector<double> rates(threads);
  double best = 0;
  for (int run = 0; run < kRuns; run++) {
    std::vector<std::thread> workers;
    for (double& rate : rates) {
      workers.emplace_back([chunk, &rate] {
        const auto start = Clock::now();
        double done = 0, seconds = 0;
        while (seconds < kSeconds) {
          done += chunk();
          seconds = std::chrono::duration<double>(Clock::now() - start).count();
        }
        rate = done / seconds;
      });
    }
    double sum = 0;
    for (int i = 0; i < threads; i++) {
      workers[i].join();
      sum += rates[i];
    }
    best = std::max(best, sum);
  }
  return best / 1e9;
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  const auto report = [threads](const char* name, double (*chunk)()) {
    std::printf("%s %.1f\n", name, gflops(chunk, threads));
  };
  report("generic", generic);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) report("avx2", avx2);
  if (__builtin_cpu_supports("avx512f")) report("avx512", avx512);
  if (has_amx()) report("amx", amx);
#endif
}
