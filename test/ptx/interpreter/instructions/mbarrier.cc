// mbarrier: objects of 64 bits in shared memory that count arrivals of threads and bytes of asynchronous copies. A
// phase is complete when neither is pending; the next one begins at once.
#include "mbarrier.h"

#include <string>

#include "../instruction_set.h"
#include "form.h"

namespace ptx {
namespace {

constexpr int64_t kMost = (1 << 20) - 1;  // of every count

// The state of an object, and the token that arrive returns: its counts and phase as one word.
struct State {
  int64_t expected = 0;      // arrivals of each phase
  int64_t pending = 0;       // arrivals that the present phase still needs
  int64_t transactions = 0;  // bytes that it still needs; below zero when they come before they are expected
  uint64_t phase = 0;        // 0 in even phases, 1 in odd ones

  State() = default;
  explicit State(uint64_t word)
      : expected(word & kMost),
        pending(word >> 20 & kMost),
        transactions(static_cast<int64_t>(word << 3) >> 43),
        phase(word >> 61 & 1) {}

  uint64_t word() const {
    return static_cast<uint64_t>(expected) | static_cast<uint64_t>(pending) << 20 |
           (static_cast<uint64_t>(transactions) & 0x1f'ffff) << 40 | phase << 61;
  }
};

uint8_t* memory_of(Warp& warp, const Instruction& by, int lane, uint64_t offset) {
  // A read by the proxy's reckoning: the object is not data that a bulk copy would read.
  return warp.cta().shared(&warp, by, lane, offset, 8, 8, Access::kRead, Proxy::kGeneric);
}

std::string name_of(uint64_t offset) { return "the mbarrier at shared address " + std::to_string(offset); }

class Object {
 public:
  Object(Warp& warp, const Instruction& by, int lane, uint64_t offset)
      : warp_(warp), by_(by), lane_(lane), offset_(offset), memory_(memory_of(warp, by, lane, offset)) {
    const auto found = warp.cta().mbarriers().find(offset);
    if (found == warp.cta().mbarriers().end()) fail(" is used but not initialised, or was invalidated");
    uint64_t word;
    std::memcpy(&word, memory_, sizeof word);
    if (word != found->second) fail(" was overwritten by something else");
    state = State(word);
  }

  // Begins the next phase when this one is complete, and writes the state.
  void store() {
    if (state.pending == 0 && state.transactions == 0) {
      state.pending = state.expected;
      state.phase ^= 1;
      warp_.cta().progress();
    }
    const uint64_t word = state.word();
    std::memcpy(memory_, &word, sizeof word);
    warp_.cta().mbarriers()[offset_] = word;
  }

  void arrive(uint32_t count) {
    if (count < 1 || count > kMost) fail(" gets a count of " + std::to_string(count) + ", which is not in 1 to 2^20-1");
    if (count > state.pending) {
      fail(" gets " + std::to_string(count) + " arrivals, but only " + std::to_string(state.pending) +
           " are pending in this phase");
    }
    state.pending -= count;
  }

  void add_transactions(int64_t bytes) {
    state.transactions += bytes;
    if (state.transactions < -kMost || state.transactions > kMost) {
      fail(" has a tx-count of " + std::to_string(state.transactions) + ", beyond 2^20-1");
    }
  }

  [[noreturn]] void fail(const std::string& what) const { warp_.fault(by_, lane_, name_of(offset_) + what); }

  State state;

 private:
  Warp& warp_;
  const Instruction& by_;
  int lane_;
  uint64_t offset_;
  uint8_t* memory_;
};

// --- instructions

enum Detail { kAddressOperand, kSharedSpace, kValueOperand };

// The address as one of the shared space.
uint64_t offset_of(const Warp& warp, const Instruction& by, int lane) {
  const uint64_t address = warp.address(by.operands[by.detail[kAddressOperand]], lane);
  if (by.detail[kSharedSpace] != 0) return address;
  if ((address & kWindowMask) != kSharedWindow) warp.fault(by, lane, "the mbarrier is not in shared memory");
  return address - kSharedWindow;
}

uint32_t value_of(const Warp& warp, const Instruction& by, int lane) {
  return static_cast<uint32_t>(warp.source(by.operands[by.detail[kValueOperand]])[static_cast<size_t>(lane)]);
}

Outcome init(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const uint64_t offset = offset_of(warp, by, lane);
    const uint32_t count = value_of(warp, by, lane);
    uint8_t* memory = memory_of(warp, by, lane, offset);
    if (warp.cta().mbarriers().count(offset) != 0) {
      warp.fault(by, lane, name_of(offset) + " is initialised again without mbarrier.inval");
    }
    if (count < 1 || count > kMost) {
      warp.fault(by, lane, "an mbarrier's count of " + std::to_string(count) + " is not in 1 to 2^20-1");
    }
    State state;
    state.expected = state.pending = count;
    const uint64_t word = state.word();
    std::memcpy(memory, &word, sizeof word);
    warp.cta().mbarriers()[offset] = word;
  });
  return Outcome::kDone;
}

Outcome inval(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const uint64_t offset = offset_of(warp, by, lane);
    Object object(warp, by, lane, offset);
    warp.cta().mbarriers().erase(offset);
    std::memset(memory_of(warp, by, lane, offset), 0xff, 8);
  });
  return Outcome::kDone;
}

enum class Arrival { kPlain, kExpect, kNoComplete };

// The operand after the address is a count, or with .expect_tx the bytes.
template <Arrival arrival, bool drop>
Outcome arrive(Warp& warp, const Instruction& by, uint32_t lanes) {
  Row& result = warp.destination(by.operands[0]);
  const bool has_value = by.operands.size() > 2;
  for_lanes(lanes, [&](int lane) {
    Object object(warp, by, lane, offset_of(warp, by, lane));
    const uint64_t before = object.state.word();
    const uint32_t value = has_value ? value_of(warp, by, lane) : 1;
    const uint32_t count = arrival == Arrival::kExpect ? 1 : value;
    if (arrival == Arrival::kExpect) object.add_transactions(value);
    object.arrive(count);
    if (drop) {
      if (count > object.state.expected) object.fail(" drops more arrivals than a phase has");
      object.state.expected -= count;
    }
    if (arrival == Arrival::kNoComplete && object.state.pending == 0 && object.state.transactions == 0) {
      object.fail(" completes its phase by an arrival with .noComplete");
    }
    object.store();
    result[static_cast<size_t>(lane)] = before;
  });
  return Outcome::kDone;
}

template <bool complete>
Outcome transactions(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    (complete ? mbarrier_complete_tx : mbarrier_expect_tx)(warp, by, lane, offset_of(warp, by, lane),
                                                           value_of(warp, by, lane));
  });
  return Outcome::kDone;
}

// The phase that is waited for is the present one or the one before it, so its lowest bit tells which. A failure lets
// others run, which for test_wait too is what a loop around it is for.
template <bool parity>
Outcome wait(Warp& warp, const Instruction& by, uint32_t lanes) {
  const Row& given = warp.source(by.operands[2]);
  uint32_t complete = 0;
  for_lanes(lanes, [&](int lane) {
    const Object object(warp, by, lane, offset_of(warp, by, lane));
    const uint64_t value = given[static_cast<size_t>(lane)];
    if (parity && value > 1) warp.fault(by, lane, "a phase parity of " + std::to_string(value) + ", not 0 or 1");
    const uint64_t phase = parity ? value : State(value).phase;
    if (object.state.phase != phase) complete |= 1u << lane;
  });
  if (by.operands[0].kind == Operand::Kind::kPredicate) {
    uint32_t& result = warp.predicate(by.operands[0].index);
    result = (result & ~lanes) | complete;
  }
  return complete == lanes ? Outcome::kDone : Outcome::kYield;
}

Outcome pending_count(Warp& warp, const Instruction& by, uint32_t lanes) {
  const Row& token = warp.source(by.operands[1]);
  Row& result = warp.destination(by.operands[0]);
  for_lanes(lanes, [&](int lane) {
    const auto i = static_cast<size_t>(lane);
    result[i] = static_cast<uint64_t>(State(token[i]).pending);
  });
  return Outcome::kDone;
}

// --- decoding

// {.sem}{.scope}
void ordering(Modifiers& modifiers, bool acquire) {
  if (!modifiers.accept(acquire ? "acquire" : "release")) modifiers.accept("relaxed");
  if (!modifiers.accept("cta")) modifiers.accept("cluster");
}

// {.shared{::cta, ::cluster}}.b64; true when it is .shared::cluster.
bool space(Instruction& instruction, Modifiers& modifiers, bool cluster_allowed) {
  const bool cluster = cluster_allowed && modifiers.accept("shared::cluster");
  instruction.detail[kSharedSpace] = cluster || modifiers.accept("shared") || modifiers.accept("shared::cta");
  modifiers.expect("b64");
  modifiers.end();
  require_no_pair(instruction);
  return cluster;
}

// [address], value
void decode_store(Instruction& instruction, bool has_value) {
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == (has_value ? 2 : 1) && operands[0].kind == Operand::Kind::kAddress &&
              (!has_value || is_source(operands[1])),
          "the operands are not those of this form");
  instruction.detail[kAddressOperand] = 0;
  instruction.detail[kValueOperand] = 1;
}

void decode_arrive(Instruction& instruction, Modifiers& modifiers, bool drop) {
  const Arrival arrival = modifiers.accept("expect_tx")    ? Arrival::kExpect
                          : modifiers.accept("noComplete") ? Arrival::kNoComplete
                                                           : Arrival::kPlain;
  ordering(modifiers, false);
  const bool remote = space(instruction, modifiers, arrival != Arrival::kNoComplete);
  const auto& operands = instruction.operands;
  require(instruction,
          (operands.size() == 3 || (operands.size() == 2 && arrival == Arrival::kPlain)) &&
              is_destination(operands[0]) && operands[1].kind == Operand::Kind::kAddress &&
              (operands.size() == 2 || is_source(operands[2])),
          "the operands are not those of this form");
  require(instruction, !remote || operands[0].kind == Operand::Kind::kSink,
          "an arrival at .shared::cluster returns no state: the destination must be _");
  instruction.detail[kAddressOperand] = 1;
  instruction.detail[kValueOperand] = 2;
  constexpr Execute handlers[3][2] = {{arrive<Arrival::kPlain, false>, arrive<Arrival::kPlain, true>},
                                      {arrive<Arrival::kExpect, false>, arrive<Arrival::kExpect, true>},
                                      {arrive<Arrival::kNoComplete, false>, arrive<Arrival::kNoComplete, true>}};
  instruction.execute = handlers[static_cast<int>(arrival)][drop];
}

void decode_wait(Instruction& instruction, Modifiers& modifiers, bool suspends) {
  const bool parity = modifiers.accept("parity");
  ordering(modifiers, true);
  space(instruction, modifiers, false);
  const auto& operands = instruction.operands;
  const bool limited = suspends && operands.size() == 4;
  require(instruction,
          (operands.size() == 3 || limited) &&
              (operands[0].kind == Operand::Kind::kPredicate || operands[0].kind == Operand::Kind::kSink) &&
              operands[1].kind == Operand::Kind::kAddress && is_source(operands[2]) &&
              (!limited || is_source(operands[3])),
          "the operands are not those of this form");
  instruction.detail[kAddressOperand] = 1;
  instruction.execute = parity ? wait<true> : wait<false>;
}

bool decode(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (modifiers.accept("init")) {
    space(instruction, modifiers, false);
    decode_store(instruction, true);
    instruction.execute = init;
  } else if (modifiers.accept("inval")) {
    space(instruction, modifiers, false);
    decode_store(instruction, false);
    instruction.execute = inval;
  } else if (modifiers.accept("arrive")) {
    decode_arrive(instruction, modifiers, false);
  } else if (modifiers.accept("arrive_drop")) {
    decode_arrive(instruction, modifiers, true);
  } else if (modifiers.accept("expect_tx") || modifiers.accept("complete_tx")) {
    modifiers.accept("relaxed");
    if (!modifiers.accept("cta")) modifiers.accept("cluster");
    space(instruction, modifiers, true);
    decode_store(instruction, true);
    instruction.execute = instruction.has("complete_tx") ? transactions<true> : transactions<false>;
  } else if (modifiers.accept("test_wait")) {
    decode_wait(instruction, modifiers, false);
  } else if (modifiers.accept("try_wait")) {
    decode_wait(instruction, modifiers, true);
  } else if (modifiers.accept("pending_count")) {
    modifiers.expect("b64");
    modifiers.end();
    require_no_pair(instruction);
    const auto& operands = instruction.operands;
    require(instruction, operands.size() == 2 && is_destination(operands[0]) && is_source(operands[1]),
            "the operands are not count, state");
    instruction.execute = pending_count;
  } else {
    return false;
  }
  return true;
}

}  // namespace

uint64_t mbarrier_arrive(Warp& warp, const Instruction& by, int lane, uint64_t offset, uint32_t count) {
  Object object(warp, by, lane, offset);
  const uint64_t before = object.state.word();
  object.arrive(count);
  object.store();
  return before;
}

uint64_t mbarrier_expect_tx(Warp& warp, const Instruction& by, int lane, uint64_t offset, uint32_t bytes) {
  Object object(warp, by, lane, offset);
  const uint64_t before = object.state.word();
  object.add_transactions(bytes);
  object.store();
  return before;
}

uint64_t mbarrier_complete_tx(Warp& warp, const Instruction& by, int lane, uint64_t offset, uint32_t bytes) {
  Object object(warp, by, lane, offset);
  const uint64_t before = object.state.word();
  object.add_transactions(-static_cast<int64_t>(bytes));
  object.store();
  return before;
}

void mbarrier_add_pending(Warp& warp, const Instruction& by, int lane, uint64_t offset) {
  Object object(warp, by, lane, offset);
  if (object.state.pending == kMost) object.fail(" has too many pending arrivals");
  object.state.pending++;
  object.store();
}

void add_mbarrier(InstructionSet& set) { set.add("mbarrier", decode); }

}  // namespace ptx
