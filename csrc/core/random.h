// Seeded normal deviates, the same on every machine and for every way of cutting the work.
#pragma once

#include <cstdint>

namespace na {

// Fills target with elements first ... first + count of the sequence that belongs to the seed.
void fill_normal(uint64_t seed, int64_t first, float* target, int64_t count);

}  // namespace na
