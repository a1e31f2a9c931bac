// Instructions that lanes of a warp execute together: shfl, vote, match, redux, elect, activemask, bar.warp.sync.
#include <cmath>

#include "../instruction_set.h"
#include "../machine.h"
#include "collective.h"
#include "form.h"
#include "number.h"

namespace ptx {
namespace {

constexpr int kMembermask = 0;  // detail: which operand is the membermask

// Runs `function(set)` for each set of lanes that execute together, once all are there.
template <typename Function>
Outcome together(Warp& warp, const Instruction& instruction, uint32_t lanes, Function function) {
  const Row& membermask = warp.source(instruction.operands[instruction.detail[kMembermask]]);
  Assembly assembly;
  if (!assemble(warp, instruction, lanes, membermask, assembly)) return Outcome::kWaiting;
  for (int i = 0; i < assembly.count; i++) function(assembly.sets[i]);
  return Outcome::kDone;
}

void set_predicate(Warp& warp, int index, uint32_t lanes, uint32_t values) {
  if (index < 0) return;
  uint32_t& predicate = warp.predicate(index);
  predicate = (predicate & ~lanes) | (values & lanes);
}

void broadcast(Row& row, uint32_t lanes, uint64_t value) {
  for_lanes(lanes, [&](int lane) { row[lane] = value; });
}

// --- shfl

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

// From which lane a lane reads; negative when that is outside of its segment.
template <Shuffle mode>
int partner(int lane, uint32_t b, uint32_t c) {
  const int distance = b & 31;
  const uint32_t clamp = c & 31, segment = c >> 8 & 31;
  const auto own = static_cast<uint32_t>(lane);
  const int most = static_cast<int>((own & segment) | (clamp & ~segment));
  int from = 0;
  switch (mode) {
    case Shuffle::kUp: from = lane - distance; return from >= most ? from : -1;
    case Shuffle::kDown: from = lane + distance; break;
    case Shuffle::kButterfly: from = lane ^ distance; break;
    case Shuffle::kIndex: from = static_cast<int>((own & segment) | (static_cast<uint32_t>(distance) & ~segment));
  }
  return from <= most ? from : -1;
}

template <Shuffle mode>
Outcome shfl(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const auto& operands = instruction.operands;
  const Row values = warp.source(operands[1]);  // a copy: the destination may be the same register
  const Row &b = warp.source(operands[2]), &c = warp.source(operands[3]);
  // Found before anything is written: b, c and the membermask too may be the destination.
  std::array<int, kLanes> from;
  for_lanes(lanes, [&](int lane) {
    from[lane] = partner<mode>(lane, static_cast<uint32_t>(b[lane]), static_cast<uint32_t>(c[lane]));
  });
  return together(warp, instruction, lanes, [&](uint32_t set) {
    Row& result = warp.destination(operands[0]);
    uint32_t inside = 0;
    for_lanes(set, [&](int lane) {
      const int source = from[lane] < 0 ? lane : from[lane];
      if ((set >> source & 1) == 0) {
        warp.fault(instruction, lane, "reads from lane " + std::to_string(source) + ", which does not take part");
      }
      if (from[lane] >= 0) inside |= 1u << lane;
      result[lane] = static_cast<uint32_t>(values[source]);
    });
    set_predicate(warp, operands[0].pair, set, inside);
  });
}

bool decode_shfl(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (!modifiers.accept("sync")) unsupported(instruction, "shfl without .sync");
  constexpr Execute handlers[] = {shfl<Shuffle::kUp>, shfl<Shuffle::kDown>, shfl<Shuffle::kButterfly>,
                                  shfl<Shuffle::kIndex>};
  instruction.execute = handlers[modifiers.choose({"up", "down", "bfly", "idx"})];
  modifiers.expect("b32");
  modifiers.end();
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 5 && is_destination(operands[0]) && is_source(operands[1]) && is_source(operands[2]) &&
              is_source(operands[3]) && is_source(operands[4]),
          "the operands are not d|p, a, b, c, membermask");
  instruction.detail[kMembermask] = 4;
  return true;
}

// --- vote

enum class Vote { kAll, kAny, kUniform };

template <Vote mode>
Outcome vote(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const uint32_t holds = warp.holds(instruction.operands[1]);
  return together(warp, instruction, lanes, [&](uint32_t set) {
    const bool all = (set & ~holds) == 0, any = (set & holds) != 0;
    const bool result = mode == Vote::kAll ? all : mode == Vote::kAny ? any : all || !any;
    set_predicate(warp, instruction.operands[0].index, set, result ? ~0u : 0);
  });
}

Outcome ballot(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const uint32_t holds = warp.holds(instruction.operands[1]);
  return together(warp, instruction, lanes,
                  [&](uint32_t set) { broadcast(warp.destination(instruction.operands[0]), set, set & holds); });
}

bool decode_vote(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (!modifiers.accept("sync")) unsupported(instruction, "vote without .sync");
  constexpr Execute handlers[] = {vote<Vote::kAll>, vote<Vote::kAny>, vote<Vote::kUniform>, ballot};
  const int mode = modifiers.choose({"all", "any", "uni", "ballot"});
  const bool is_ballot = mode == 3;
  instruction.execute = handlers[mode];
  modifiers.expect(is_ballot ? "b32" : "pred");
  modifiers.end();
  require_no_pair(instruction);
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 3 &&
              (is_ballot ? is_destination(operands[0]) : operands[0].kind == Operand::Kind::kPredicate) &&
              (operands[1].kind == Operand::Kind::kPredicate || operands[1].kind == Operand::Kind::kConstant) &&
              is_source(operands[2]),
          "the operands are not d, predicate, membermask");
  instruction.detail[kMembermask] = 2;
  return true;
}

// --- match

uint32_t lanes_with(const Row& values, uint32_t set, uint64_t value) {
  uint32_t equal = 0;
  for_lanes(set, [&](int lane) {
    if (values[lane] == value) equal |= 1u << lane;
  });
  return equal;
}

Row truncated(const Row& row, bool wide) {
  Row result = row;
  if (!wide) {
    for (uint64_t& value : result) value = static_cast<uint32_t>(value);
  }
  return result;
}

template <bool wide>
Outcome match_any(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row values = truncated(warp.source(instruction.operands[1]), wide);
  return together(warp, instruction, lanes, [&](uint32_t set) {
    Row& result = warp.destination(instruction.operands[0]);
    for_lanes(set, [&](int lane) { result[lane] = lanes_with(values, set, values[lane]); });
  });
}

template <bool wide>
Outcome match_all(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row values = truncated(warp.source(instruction.operands[1]), wide);
  return together(warp, instruction, lanes, [&](uint32_t set) {
    const bool all = lanes_with(values, set, values[__builtin_ctz(set)]) == set;
    broadcast(warp.destination(instruction.operands[0]), set, all ? set : 0);
    set_predicate(warp, instruction.operands[0].pair, set, all ? ~0u : 0);
  });
}

bool decode_match(Instruction& instruction) {
  Modifiers modifiers(instruction);
  const bool all = modifiers.choose({"any", "all"}) == 1;
  modifiers.expect("sync");
  const bool wide = modifiers.choose({"b32", "b64"}) == 1;
  modifiers.end();
  if (all) {
    instruction.execute = wide ? match_all<true> : match_all<false>;
  } else {
    require_no_pair(instruction);
    instruction.execute = wide ? match_any<true> : match_any<false>;
  }
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 3 && is_destination(operands[0]) && is_source(operands[1]) && is_source(operands[2]),
          "the operands are not d, a, membermask");
  instruction.detail[kMembermask] = 2;
  return true;
}

// --- redux

struct Add {
  static uint32_t combine(uint32_t a, uint32_t b) { return a + b; }
};
struct And {
  static uint32_t combine(uint32_t a, uint32_t b) { return a & b; }
};
struct Or {
  static uint32_t combine(uint32_t a, uint32_t b) { return a | b; }
};
struct Xor {
  static uint32_t combine(uint32_t a, uint32_t b) { return a ^ b; }
};
template <typename T>
struct Min {
  static uint32_t combine(uint32_t a, uint32_t b) { return static_cast<T>(a) < static_cast<T>(b) ? a : b; }
};
template <typename T>
struct Max {
  static uint32_t combine(uint32_t a, uint32_t b) { return static_cast<T>(a) > static_cast<T>(b) ? a : b; }
};

template <typename Operation>
Outcome redux(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row& values = warp.source(instruction.operands[1]);
  return together(warp, instruction, lanes, [&](uint32_t set) {
    auto result = static_cast<uint32_t>(values[__builtin_ctz(set)]);
    for_lanes(set & (set - 1),
              [&](int lane) { result = Operation::combine(result, static_cast<uint32_t>(values[lane])); });
    broadcast(warp.destination(instruction.operands[0]), set, result);
  });
}

// Zeros are ordered: -0 is less than +0.
template <bool greatest>
bool comes_before(float a, float b) {
  if (a == b) return greatest ? std::signbit(b) && !std::signbit(a) : std::signbit(a) && !std::signbit(b);
  return greatest ? a > b : a < b;
}

template <bool greatest, bool absolute, bool nan>
Outcome redux_float(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row& values = warp.source(instruction.operands[1]);
  return together(warp, instruction, lanes, [&](uint32_t set) {
    float result = NAN;
    bool any_nan = false;
    for_lanes(set, [&](int lane) {
      float value = from_bits<float>(values[lane]);
      if (absolute) value = std::fabs(value);
      any_nan = any_nan || std::isnan(value);
      if (!std::isnan(value) && (std::isnan(result) || comes_before<greatest>(value, result))) result = value;
    });
    const bool is_nan = std::isnan(result) || (nan && any_nan);
    broadcast(warp.destination(instruction.operands[0]), set, is_nan ? kFloatNan : to_bits(result));
  });
}

Execute redux_float_handler(bool greatest, bool absolute, bool nan) {
  constexpr Execute handlers[] = {redux_float<false, false, false>, redux_float<false, false, true>,
                                  redux_float<false, true, false>,  redux_float<false, true, true>,
                                  redux_float<true, false, false>,  redux_float<true, false, true>,
                                  redux_float<true, true, false>,   redux_float<true, true, true>};
  return handlers[greatest * 4 + absolute * 2 + nan];
}

Execute redux_handler(Modifiers& modifiers) {
  const int operation = modifiers.choose({"and", "or", "xor", "add", "min", "max"});
  if (operation < 3) {
    modifiers.expect("b32");
    constexpr Execute handlers[] = {redux<And>, redux<Or>, redux<Xor>};
    return handlers[operation];
  }
  if (operation == 3) {
    modifiers.choose({"u32", "s32"});
    return redux<Add>;
  }
  const bool greatest = operation == 5;
  const bool absolute = modifiers.accept("abs"), nan = modifiers.accept("NaN");
  if (absolute || nan) {
    modifiers.expect("f32");
    return redux_float_handler(greatest, absolute, nan);
  }
  switch (modifiers.choose({"u32", "s32", "f32"})) {
    case 0: return greatest ? redux<Max<uint32_t>> : redux<Min<uint32_t>>;
    case 1: return greatest ? redux<Max<int32_t>> : redux<Min<int32_t>>;
    default: return redux_float_handler(greatest, false, false);
  }
}

bool decode_redux(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.expect("sync");
  instruction.execute = redux_handler(modifiers);
  modifiers.end();
  require_no_pair(instruction);
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 3 && is_destination(operands[0]) && is_source(operands[1]) && is_source(operands[2]),
          "the operands are not d, a, membermask");
  instruction.detail[kMembermask] = 2;
  return true;
}

// --- elect, activemask, bar.warp.sync

// Which lane is elected is not specified, only that it is always the same for a membermask; here the lowest.
Outcome elect(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  return together(warp, instruction, lanes, [&](uint32_t set) {
    const int leader = __builtin_ctz(set);
    broadcast(warp.destination(instruction.operands[0]), set, static_cast<uint64_t>(leader));
    set_predicate(warp, instruction.operands[0].pair, set, 1u << leader);
  });
}

bool decode_elect(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.expect("sync");
  modifiers.end();
  const auto& operands = instruction.operands;
  require(instruction, operands.size() == 2 && is_destination(operands[0]) && is_source(operands[1]),
          "the operands are not d|p, membermask");
  instruction.execute = elect;
  instruction.detail[kMembermask] = 1;
  return true;
}

Outcome activemask(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  broadcast(warp.destination(instruction.operands[0]), lanes, lanes);
  return Outcome::kDone;
}

bool decode_activemask(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.expect("b32");
  modifiers.end();
  require_no_pair(instruction);
  require(instruction, instruction.operands.size() == 1 && is_destination(instruction.operands[0]),
          "the operand is not d");
  instruction.execute = activemask;
  return true;
}

Outcome bar_warp(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  return together(warp, instruction, lanes, [](uint32_t) {});
}

// The other forms of bar belong to barrier.cc.
bool decode_bar(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (!modifiers.accept("warp")) return false;
  modifiers.expect("sync");
  modifiers.end();
  require(instruction, instruction.operands.size() == 1 && is_source(instruction.operands[0]),
          "the operand is not a membermask");
  instruction.execute = bar_warp;
  instruction.detail[kMembermask] = 0;
  return true;
}

}  // namespace

void add_warp(InstructionSet& set) {
  set.add("shfl", decode_shfl);
  set.add("vote", decode_vote);
  set.add("match", decode_match);
  set.add("redux", decode_redux);
  set.add("elect", decode_elect);
  set.add("activemask", decode_activemask);
  set.add("bar", decode_bar);
}

}  // namespace ptx
