#include "core/random.h"

#include <cmath>

namespace na {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014) as a hash of a counter.
uint64_t hash(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

// Box-Muller: each pair of elements comes from one 64-bit hash.
void fill_normal(uint64_t seed, int64_t first, float* target, int64_t count) {
  const uint64_t key = hash(seed);
  for (int64_t i = 0; i < count;) {
    const uint64_t index = static_cast<uint64_t>(first + i);
    const uint64_t bits = hash(key ^ hash(index / 2));
    const double uniform = (static_cast<double>(bits >> 32) + 1) * 0x1p-32;  // (0, 1]
    const double angle = static_cast<double>(bits & 0xffffffffu) * (2 * 3.14159265358979323846 * 0x1p-32);
    const double radius = std::sqrt(-2 * std::log(uniform));
    if (index % 2 == 0) target[i++] = static_cast<float>(radius * std::cos(angle));
    if (i < count) target[i++] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace na
