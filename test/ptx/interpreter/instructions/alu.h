// What the arithmetic families share: executing a function of one lane's values in every lane, and taking an
// instruction's modifiers apart so that none is overlooked.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../instruction_set.h"
#include "../machine.h"

namespace ptx {

// A loop of known length for the usual case, which the compiler can unroll.
template <typename Function>
void each_lane(uint32_t lanes, Function function) {
  if (lanes == ~uint32_t{0}) {
    for (int lane = 0; lane < kLanes; lane++) function(lane);
  } else {
    for_lanes(lanes, function);
  }
}

// lanewise<f>: executes `R f(A...)` in every lane, from the source operands to the destination. The types of f say how
// rows are read and written.
template <auto F>
struct Lanewise;
template <typename R, typename... A, R (*F)(A...)>
struct Lanewise<F> {
  static Outcome execute(Warp& warp, const Instruction& instruction, uint32_t lanes) {
    run(warp, instruction, lanes, std::index_sequence_for<A...>());
    return Outcome::kDone;
  }
  template <size_t... I>
  static void run(Warp& warp, const Instruction& instruction, uint32_t lanes, std::index_sequence<I...>) {
    Row& result = warp.destination(instruction.operands[0]);
    const Row* sources[] = {&warp.source(instruction.operands[I + 1])...};
    each_lane(lanes, [&](int lane) { result[lane] = to_bits<R>(F(from_bits<A>((*sources[I])[lane])...)); });
  }
};
template <auto F>
constexpr Execute lanewise = &Lanewise<F>::execute;

// The same for `R f(Options, A...)`, whose options the decoder has put into detail[0].
template <auto F>
struct LanewiseWith;
template <typename R, typename Options, typename... A, R (*F)(Options, A...)>
struct LanewiseWith<F> {
  static Outcome execute(Warp& warp, const Instruction& instruction, uint32_t lanes) {
    run(warp, instruction, lanes, std::index_sequence_for<A...>());
    return Outcome::kDone;
  }
  template <size_t... I>
  static void run(Warp& warp, const Instruction& instruction, uint32_t lanes, std::index_sequence<I...>) {
    Row& result = warp.destination(instruction.operands[0]);
    const Row* sources[] = {&warp.source(instruction.operands[I + 1])...};
    const auto options = from_bits<Options>(instruction.detail[0]);
    each_lane(lanes, [&](int lane) { result[lane] = to_bits<R>(F(options, from_bits<A>((*sources[I])[lane])...)); });
  }
};
template <auto F>
constexpr Execute lanewise_with = &LanewiseWith<F>::execute;

// pairwise<f>: `T f(T...)` on the two halves of registers of twice the size (.f16x2, .u16x2, .f32x2).
template <auto F>
struct Pairwise;
template <typename T, typename... A, T (*F)(A...)>
struct Pairwise<F> {
  static constexpr int kBits = 8 * sizeof(T);
  using Whole = std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>;
  template <typename>
  using Each = Whole;
  static Whole of(Each<A>... whole) {
    const uint64_t low = to_bits(F(from_bits<A>(whole)...)), high = to_bits(F(from_bits<A>(whole >> kBits)...));
    return static_cast<Whole>(low | high << kBits);
  }
};
template <auto F>
constexpr Execute pairwise = lanewise<&Pairwise<F>::of>;

// Writes the given lanes of a predicate; nothing for -1, a sink.
inline void write_predicate(Warp& warp, int index, uint32_t lanes, uint32_t holds) {
  if (index < 0) return;
  uint32_t& predicate = warp.predicate(index);
  predicate = (predicate & ~lanes) | (holds & lanes);
}

// An instruction's modifiers while a decoder takes them, one by one.
class AluForm {
 public:
  explicit AluForm(const Instruction& instruction) : instruction_(instruction), rest_(instruction.modifiers) {}

  bool take(std::string_view modifier) {
    const auto found = std::find(rest_.begin(), rest_.end(), modifier);
    if (found == rest_.end()) return false;
    rest_.erase(found);
    return true;
  }
  // The index of the one that is there, or -1.
  int take_one_of(std::initializer_list<std::string_view> modifiers) {
    int index = 0;
    for (const auto modifier : modifiers) {
      if (take(modifier)) return index;
      index++;
    }
    return -1;
  }
  // The last one: the type.
  std::string_view take_type() {
    if (rest_.empty()) unsupported(instruction_, "it has no type");
    const std::string_view type = rest_.back();
    rest_.pop_back();
    return type;
  }

  // Nothing may be left, and the operands must be as `shape` says, one letter each. Destinations: r register, p
  // predicate, P predicate and perhaps a second one, R register and perhaps a predicate. Sources: v value, q predicate.
  void end(std::string_view shape) const {
    if (!rest_.empty()) unsupported(instruction_, "modifier ." + std::string(rest_.front()));
    if (instruction_.operands.size() != shape.size()) {
      unsupported(instruction_, "it has " + std::to_string(instruction_.operands.size()) + " operands instead of " +
                                    std::to_string(shape.size()));
    }
    for (size_t i = 0; i < shape.size(); i++) {
      if (!fits(instruction_.operands[i], shape[i])) unsupported(instruction_, "operand " + std::to_string(i + 1));
    }
  }

 private:
  static bool fits(const Operand& operand, char shape) {
    using Kind = Operand::Kind;
    const bool single = operand.pair < 0, sink = operand.kind == Kind::kSink;
    switch (shape) {
      case 'r': return single && (sink || operand.kind == Kind::kRegister);
      case 'R': return sink || operand.kind == Kind::kRegister;
      case 'p': return single && !operand.negated && (sink || operand.kind == Kind::kPredicate);
      case 'P': return !operand.negated && (sink || operand.kind == Kind::kPredicate);
      case 'v': return single && (operand.kind == Kind::kRegister || operand.kind == Kind::kConstant);
      default: return single && (operand.kind == Kind::kPredicate || operand.kind == Kind::kConstant);
    }
  }

  const Instruction& instruction_;
  std::vector<std::string_view> rest_;
};

// Ends a decoder. `execute` is nullptr when the instruction's type or mode is none of the operation's.
inline bool finish(Instruction& instruction, const AluForm& form, std::string_view shape, Execute execute) {
  if (execute == nullptr) unsupported(instruction, "type or mode");
  form.end(shape);
  instruction.execute = execute;
  return true;
}

// Whether a type is one of those of float.cc and half.cc.
inline bool is_float(std::string_view type) {
  for (const auto prefix : {"f16", "bf16", "f32", "f64"}) {
    if (type.substr(0, std::string_view(prefix).size()) == prefix) return true;
  }
  return false;
}

// Calls `make` with a value of the C++ type of a PTX type, to choose an instance of a handler; nullptr for other types.
template <typename Make>
Execute for_integer(std::string_view type, Make make) {
  if (type == "u32") return make(uint32_t{});
  if (type == "s32") return make(int32_t{});
  if (type == "u64") return make(uint64_t{});
  if (type == "s64") return make(int64_t{});
  if (type == "u16") return make(uint16_t{});
  if (type == "s16") return make(int16_t{});
  return nullptr;
}
template <typename Make>
Execute for_bits(std::string_view type, Make make) {
  if (type == "b32") return make(uint32_t{});
  if (type == "b64") return make(uint64_t{});
  if (type == "b16") return make(uint16_t{});
  return nullptr;
}

// Calls `make` with a flag as a type.
template <typename Make>
auto for_flag(bool flag, Make make) {
  return flag ? make(std::true_type{}) : make(std::false_type{});
}

}  // namespace ptx
