// A key that may be chosen, and what it scores.
#pragma once

#include <cstdint>
#include <limits>

namespace na::cpu {

struct Choice {
  int32_t key;
  float score;
};

// The order of choices, as a value that algorithms call without a jump: ties go to the lower key, and what is no number
// comes last.
inline constexpr auto before = [](const Choice& a, const Choice& b) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const float x = a.score == a.score ? a.score : kNone, y = b.score == b.score ? b.score : kNone;
  return x != y ? x > y : a.key < b.key;
};

}  // namespace na::cpu
