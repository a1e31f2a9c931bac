#include "cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace na::cpu {
namespace {

struct Detected {
  Isa best;
  bool vnni;
};

#if defined(__x86_64__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  Leaf(unsigned leaf, unsigned subleaf) {
    if (!__get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx)) eax = ebx = ecx = edx = 0;
  }
};

bool has(unsigned word, int bit) { return (word >> bit & 1) != 0; }

// The register states that the operating system saves.
uint64_t saved_states() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Linux gives a process the tile registers only when asked; the permission holds for all its threads.
bool tiles_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Detected detect() {
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  const Leaf basic(1, 0), extended(7, 0), more(7, 1);
  const bool xsave = has(basic.ecx, 27), fma = has(basic.ecx, 12), f16c = has(basic.ecx, 29);
  const uint64_t states = xsave ? saved_states() : 0;
  if (!fma || !f16c || !has(extended.ebx, 5) || (states & kYmm) != kYmm) return {Isa::kGeneric, false};
  const bool avx512 = has(extended.ebx, 16) && has(extended.ebx, 17) && has(extended.ebx, 30) && has(extended.ebx, 31);
  if (!avx512 || (states & kZmm) != kZmm) return {Isa::kAvx2, false};
  const bool vnni = has(extended.ecx, 11);
  const bool amx = vnni && has(extended.edx, 22) && has(extended.edx, 24) && has(more.eax, 5);
  if (!amx || (states & kTiles) != kTiles || !tiles_granted()) return {Isa::kAvx512, vnni};
  return {Isa::kAmx, vnni};
}

#else

Detected detect() { return {Isa::kGeneric, false}; }

#endif

const Detected& detected() {
  static const Detected once = detect();
  return once;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAmx: return "amx";
    default: return "generic";
  }
}

Isa isa_best() { return detected().best; }

bool isa_has_vnni() { return detected().vnni; }

// Each includes those before it.
bool isa_supported(Isa isa) { return isa <= isa_best(); }

}  // namespace na::cpu
