// The most that this machine does in a second, by so many threads at once: independent multiply-adds and exponentials
// on registers, nothing loaded or stored, for every instruction set the processor has; bytes read of footprints from
// those of the caches near a core to far beyond them, over and over; and bytes copied beyond the caches. Run by peak.ts
// as `peak THREADS FOOTPRINT...`, of which the last is for copies too; prints lines of a unit, a rate and a name, the
// best of several short runs.

#include <algorithm>
#include <chrono>
#include <cmath>
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
constexpr int kReadRuns = 3;
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

// The same with the roots of a table in registers: fewer multiply-adds, as good to float32.
__attribute__((target("avx512f,avx512dq"))) double exp_table() {
  constexpr int kLanes = 16, kSums = 8, kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  constexpr int kThirtySeconds = 5 << 4 | 1;  // vreduceps: x - floor(32 x) / 32
  alignas(64) float roots[2 * kLanes];
  for (int i = 0; i < 2 * kLanes; i++) roots[i] = std::exp2(static_cast<float>(i) / 32);
  const __m512 low = _mm512_load_ps(roots), high = _mm512_load_ps(roots + kLanes);
  const __m512 shift = _mm512_set1_ps(0x1.8p18f);  // added to it, floor(32 x) is in the last bits
  const __m512 first = _mm512_set1_ps(0.69312376f), second = _mm512_set1_ps(0.2426527f);
  volatile float start = -0.3f, change = -0.001f;
  const __m512 step = _mm512_set1_ps(change);
  __m512 x[kSums], sums[kSums];
  for (int u = 0; u < kSums; u++) x[u] = _mm512_set1_ps(start - u), sums[u] = _mm512_setzero_ps();
  for (int n = 0; n < kSteps; n++) {
    _Pragma("GCC unroll 32") for (int u = 0; u < kSums; u++) {
      const __m512 rest = _mm512_reduce_ps(x[u], kThirtySeconds);
      const __m512i index = _mm512_castps_si512(_mm512_add_round_ps(x[u], shift, kDown));
      const __m512 root = _mm512_permutex2var_ps(low, index, high);
      const __m512 p = _mm512_mul_ps(_mm512_fmadd_ps(second, rest, first), rest);
      sums[u] = _mm512_add_ps(sums[u], _mm512_scalef_ps(_mm512_fmadd_ps(root, p, root), x[u]));
      x[u] = _mm512_add_ps(x[u], step);
    }
  }
  _Pragma("GCC unroll 32") for (const __m512& sum : sums) sink = sum[0];
  return 1.0 * kLanes * kSums * kSteps;
}

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
double rate_of(int threads, const Chunk& chunk, int runs = kRuns) {
  std::vector<double> rates(threads);
  double best = 0;
  for (int run = 0; run < runs; run++) {
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
  void operator()(unsigned char* bytes) const { std::free(bytes); }
};
using Array = std::unique_ptr<unsigned char, Free>;

/** Written once, in large pages where there are such. */
Array make_array(size_t bytes) {
  constexpr size_t kPage = size_t{1} << 21;
  bytes = (bytes + kPage - 1) / kPage * kPage;
  void* array = std::aligned_alloc(kPage, bytes);
  if (array == nullptr) std::abort();
#if defined(__linux__)
  madvise(array, bytes, MADV_HUGEPAGE);
#endif
  std::memset(array, 1, bytes);
  return Array(static_cast<unsigned char*>(array));
}

constexpr int kVectors = 8;
/** Every read loop takes so much in a step, of each of its streams. */
constexpr size_t kReadBytes = kVectors * 64;
constexpr int kMostStreams = 4;
constexpr size_t kGrain = kMostStreams * kReadBytes;

// Sums of `bytes` in so many streams side by side: a core asks for more lines ahead of several than of one.
#define DEFINE_READ(NAME, TARGET, WIDTH)                                                    \
  TARGET uint64_t NAME(const unsigned char* from, size_t bytes, int streams) {              \
    typedef uint64_t Vector __attribute__((vector_size(WIDTH), may_alias));                 \
    const size_t part = bytes / streams;                                                    \
    Vector sums[kVectors] = {};                                                             \
    for (size_t at = 0; at < part; at += kVectors * (WIDTH)) {                              \
      for (int stream = 0; stream < streams; stream++) {                                    \
        const Vector* vectors = reinterpret_cast<const Vector*>(from + stream * part + at); \
        _Pragma("GCC unroll 32") for (int u = 0; u < kVectors; u++) sums[u] += vectors[u];  \
      }                                                                                     \
    }                                                                                       \
    uint64_t sum = 0;                                                                       \
    for (const Vector& each : sums) {                                                       \
      for (int lane = 0; lane < (WIDTH) / 8; lane++) sum += each[lane];                     \
    }                                                                                       \
    return sum;                                                                             \
  }

using Read = uint64_t (*)(const unsigned char*, size_t, int);

DEFINE_READ(read_generic, , 16)
#if defined(__x86_64__)
DEFINE_READ(read_avx2, __attribute__((target("avx2"))), 32)
DEFINE_READ(read_avx512, __attribute__((target("avx512f"))), 64)
#endif

Read widest_read() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_generic;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: peak THREADS FOOTPRINT...\n");
    return 2;
  }
  const int threads = std::atoi(arguments[1]);
  const auto rate = [threads](double (*chunk)()) { return rate_of(threads, [chunk](int) { return chunk(); }); };
  const auto report = [](const char* unit, double rate, const char* name) {
    std::printf("%s %.6g %s\n", unit, rate, name);
  };
  report("FLOP/s", rate(generic), "float32 generic");
  report("exp/s", rate(exp_generic), "exp generic");
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    report("FLOP/s", rate(avx2), "float32 avx2");
    report("exp/s", rate(exp_avx2), "exp avx2");
  }
  if (__builtin_cpu_supports("avx512f")) {
    report("FLOP/s", rate(avx512), "float32 avx512");
    const double table = __builtin_cpu_supports("avx512dq") ? rate(exp_table) : 0;
    report("exp/s", std::max(rate(exp_avx512), table), "exp avx512");
  }
  if (has_amx()) report("FLOP/s", rate(amx), "bfloat16 amx");
#endif
  // Each thread has a part of its own of every footprint, the beginning of an array for the largest.
  std::vector<size_t> footprints;
  for (int i = 2; i < count; i++) footprints.push_back(std::strtoull(arguments[i], nullptr, 10));
  const auto part = [threads](size_t bytes) { return std::max(kGrain, bytes / threads / kGrain * kGrain); };
  const size_t most = part(footprints.back());
  std::vector<Array> from(threads), to(threads);
  const auto fill = [threads](std::vector<Array>& arrays, size_t bytes) {
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; i++) workers.emplace_back([&arrays, bytes, i] { arrays[i] = make_array(bytes); });
    for (std::thread& worker : workers) worker.join();
  };
  fill(from, most);
  const Read read = widest_read();
  for (size_t footprint : footprints) {
    const size_t bytes = std::min(most, part(footprint));
    const size_t passes = std::max<size_t>(1, (size_t{1} << 22) / bytes);  // so that the clock costs nothing
    double best = 0;
    for (int streams : {1, kMostStreams}) {
      const auto chunk = [&](int i) {
        for (size_t pass = 0; pass < passes; pass++) sink = read(from[i].get(), bytes, streams);
        return 1.0 * bytes * passes;
      };
      best = std::max(best, rate_of(threads, chunk, kReadRuns));
    }
    std::printf("B/s %.6g read %zu\n", best, footprint);
  }
  const size_t half = most / 2;
  fill(to, half);
  const auto copy = [&](int i) {
    std::memcpy(to[i].get(), from[i].get(), half);
    sink = to[i].get()[half / 2];
    return 2.0 * half;
  };
  report("B/s", rate_of(threads, copy, kReadRuns), "copy");
}
