// The most that this machine does in a second, by so many threads at once: independent multiply-adds and exponentials
// on registers, nothing loaded or stored, for every instruction set the processor has; and bytes read, or read and
// written, of arrays beyond the caches. Run by peak.ts as `peak THREADS`; prints lines of a unit, a rate and a name,
// the best of several short runs.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
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
constexpr size_t kArrayBytes = size_t{1} << 29;

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

// 2^x as attention takes it: the nearest integer goes to the exponent, a polynomial of degree 5, good to float32, does
// the rest. The results are summed, so that none is left out.
#define DEFINE_EXPONENTIAL(NAME, TARGET, WIDTH, SUMS)                                                  \
  TARGET double NAME() {                                                                               \
    typedef float Vector __attribute__((vector_size(4 * (WIDTH))));                                    \
    typedef int32_t Bits __attribute__((vector_size(4 * (WIDTH))));                                    \
    volatile float start = -0.3f, change = -0.001f;                                                    \
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */ \
    Vector x[SUMS], sums[SUMS];                                                                        \
    for (int u = 0; u < (SUMS); u++) x[u] = Vector{} + (start - u), sums[u] = Vector{};                \
    const Vector step = Vector{} + change;                                                             \
    for (int n = 0; n < kSteps; n++) {                                                                 \
      _Pragma("GCC unroll 32") for (int u = 0; u < (SUMS); u++) {                                      \
        const Vector shifted = x[u] + magic;                                                           \
        const Vector rest = x[u] - (shifted - magic);                                                  \
        Vector p = rest * 0.0013333558f + 0.0096181291f;                                               \
        p = p * rest + 0.0555041087f;                                                                  \
        p = p * rest + 0.2402265070f;                                                                  \
        p = p * rest + 0.6931471806f;                                                                  \
        p = p * rest + 1.0f;                                                                           \
        sums[u] += (Vector)((Bits)p + ((Bits)shifted << 23));                                          \
        x[u] += step;                                                                                  \
      }                                                                                                \
    }                                                                                                  \
    _Pragma("GCC unroll 32") for (const Vector& sum : sums) sink = sum[0];                             \
    return 1.0 * (WIDTH) * (SUMS) * kSteps;                                                            \
  }

DEFINE_MULTIPLY_ADD(generic, , 4, 12)
DEFINE_EXPONENTIAL(exp_generic, , 4, 4)

#if defined(__x86_64__)
DEFINE_MULTIPLY_ADD(avx2, __attribute__((target("avx2,fma"))), 8, 12)
DEFINE_EXPONENTIAL(exp_avx2, __attribute__((target("avx2,fma"))), 8, 4)
DEFINE_MULTIPLY_ADD(avx512, __attribute__((target("avx512f"))), 16, 24)
DEFINE_EXPONENTIAL(exp_avx512, __attribute__((target("avx512f"))), 16, 8)

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

/** What so many threads do in a second, each calling `chunk` with its number until the time is over; the best run. */
template <typename Chunk>
double rate_of(int threads, const Chunk& chunk) {
  std::vector<double> rates(threads);
  double best = 0;
  for (int run = 0; run < kRuns; run++) {
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; i++) {
      workers.emplace_back([&chunk, &rate = rates[i], i] {
        const auto start = Clock::now();
        double done = 0, seconds = 0;
        while (seconds < kSeconds) {
          done += chunk(i);
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
  return best;
}

struct Free {
  void operator()(uint64_t* words) const { std::free(words); }
};
using Array = std::unique_ptr<uint64_t, Free>;

/** Written once, in large pages where there are such. */
Array make_array(size_t bytes) {
  constexpr size_t kPage = size_t{1} << 21;
  bytes = (bytes + kPage - 1) / kPage * kPage;
  void* words = std::aligned_alloc(kPage, bytes);
  if (words == nullptr) std::abort();
#if defined(__linux__)
  madvise(words, bytes, MADV_HUGEPAGE);
#endif
  std::memset(words, 1, bytes);
  return Array(static_cast<uint64_t*>(words));
}

/** Sums 64-byte lines; the compiler makes vectors of it. */
uint64_t sum_of(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < count; i += 8) {
    for (int lane = 0; lane < 8; lane++) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (uint64_t each : sums) sum += each;
  return sum;
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  const auto report = [threads](const char* unit, const char* name, double (*chunk)()) {
    std::printf("%s %.6g %s\n", unit, rate_of(threads, [chunk](int) { return chunk(); }), name);
  };
  report("FLOP/s", "float32 generic", generic);
  report("exp/s", "exp generic", exp_generic);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    report("FLOP/s", "float32 avx2", avx2);
    report("exp/s", "exp avx2", exp_avx2);
  }
  if (__builtin_cpu_supports("avx512f")) {
    report("FLOP/s", "float32 avx512", avx512);
    report("exp/s", "exp avx512", exp_avx512);
  }
  if (has_amx()) report("FLOP/s", "bfloat16 amx", amx);
#endif
  // Each thread has a part of its own of two arrays that together hold more than caches do.
  const size_t bytes = kArrayBytes / threads / 64 * 64;
  std::vector<Array> from(threads), to(threads);
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; i++) {
    workers.emplace_back([&from, &to, bytes, i] { from[i] = make_array(bytes), to[i] = make_array(bytes); });
  }
  for (std::thread& worker : workers) worker.join();
  std::printf("B/s %.6g read\n", rate_of(threads, [&](int i) {
                sink = sum_of(from[i].get(), bytes / 8);
                return 1.0 * bytes;
              }));
  std::printf("B/s %.6g copy\n", rate_of(threads, [&](int i) {
                std::memcpy(to[i].get(), from[i].get(), bytes);
                sink = to[i].get()[bytes / 16];
                return 2.0 * bytes;
              }));
}
