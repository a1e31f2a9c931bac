// mma.sync: D = A * B + C for one small matrix product per warp.
//
// The fragments of all lanes are gathered into dense matrices, multiplied by plain loops, and scattered again.
//
// Floating-point results are not those of a tensor core bit for bit: ISA and hardware leave order and rounding of the
// sum open. Here each element starts from C and adds the products in the order of k in float, rounding to nearest each
// time; products of 16-bit, tf32 and 8-bit numbers are exact in float (but for bfloat16 and tf32 ones beyond float's
// range). With f16 accumulators the float is rounded to f16 once, at the end. Integer results are exact.
#include <cmath>
#include <limits>
#include <type_traits>

#include "../instruction_set.h"
#include "../machine.h"
#include "collective.h"
#include "form.h"
#include "number.h"

namespace ptx {
namespace {

constexpr int kRows = 16, kColumns = 8;

// --- where fragments lie
//
// Lanes form eight groups of four. All fragments but those of m8n8k4 (not supported) follow one scheme, counted in
// 32-bit registers of `packed` neighbouring elements:
//
// A: lane t of group g holds in register r row g (+ 8 when r is odd), and along k the elements of place t within
// block r / 2, a block being the 4 * packed elements that a group holds in one register each.
// B: the same with column g, block r.
// C and D: row g (+ 8 for the second half of the elements), columns 2t and 2t + 1.

constexpr int group_of(int lane) { return lane / 4; }
constexpr int along_k(int lane, int block, int packed) { return (block * 4 + lane % 4) * packed; }

struct Place {
  int row, column;
};
constexpr Place accumulator_place(int lane, int element) {
  return {group_of(lane) + (element < 2 ? 0 : 8), lane % 4 * 2 + element % 2};
}
constexpr int kAccumulated = 4;  // elements of C and D in a lane

// --- what registers hold: `kPacked` elements of A or B, which multiply as `Value`

struct Half {
  using Value = float;
  static constexpr int kPacked = 2;
  static float element(uint32_t bits, int i) { return half_to_float(static_cast<uint16_t>(bits >> 16 * i)); }
};
struct Bfloat {
  using Value = float;
  static constexpr int kPacked = 2;
  static float element(uint32_t bits, int i) { return bfloat_to_float(static_cast<uint16_t>(bits >> 16 * i)); }
};
// The lower 13 bits are ignored, as the hardware does; the ISA wants them to be zero.
struct Tf32 {
  using Value = float;
  static constexpr int kPacked = 1;
  static float element(uint32_t bits, int) { return from_bits<float>(bits & 0xffff'e000); }
};
struct E4m3 {
  using Value = float;
  static constexpr int kPacked = 4;
  static float element(uint32_t bits, int i) { return e4m3_to_float(static_cast<uint8_t>(bits >> 8 * i)); }
};
struct E5m2 {
  using Value = float;
  static constexpr int kPacked = 4;
  static float element(uint32_t bits, int i) { return e5m2_to_float(static_cast<uint8_t>(bits >> 8 * i)); }
};
struct Signed {
  using Value = int32_t;
  static constexpr int kPacked = 4;
  static int32_t element(uint32_t bits, int i) { return static_cast<int8_t>(bits >> 8 * i); }
};
struct Unsigned {
  using Value = int32_t;
  static constexpr int kPacked = 4;
  static int32_t element(uint32_t bits, int i) { return static_cast<uint8_t>(bits >> 8 * i); }
};

// --- accumulators: `kPacked` elements in a register; `Sum` is what C starts and D is made of

struct FloatSum {
  using Sum = float;
  static constexpr int kPacked = 1;
  static float load(uint32_t bits, int) { return from_bits<float>(bits); }
  static uint32_t store(float value) { return std::isnan(value) ? kFloatNan : static_cast<uint32_t>(to_bits(value)); }
};
struct HalfSum {
  using Sum = float;
  static constexpr int kPacked = 2;
  static float load(uint32_t bits, int i) { return half_to_float(static_cast<uint16_t>(bits >> 16 * i)); }
  static uint32_t store(float value) { return float_to_half(value); }
};
// The products of 32 bytes fit in 32 bits; only adding C may leave them.
template <bool saturate>
struct IntegerSum {
  using Sum = int64_t;
  static constexpr int kPacked = 1;
  static int64_t load(uint32_t bits, int) { return static_cast<int32_t>(bits); }
  static uint32_t store(int64_t value) {
    using Limits = std::numeric_limits<int32_t>;
    if (saturate && value > Limits::max()) return static_cast<uint32_t>(Limits::max());
    if (saturate && value < Limits::min()) return static_cast<uint32_t>(Limits::min());
    return static_cast<uint32_t>(value);
  }
};

// --- the product

template <typename Sum, typename Value, int depth>
void multiply_add(Sum (&sum)[kRows][kColumns], const Value (&a)[kRows][depth], const Value (&b)[depth][kColumns]) {
  for (int i = 0; i < kRows; i++) {
    for (int k = 0; k < depth; k++) {
      for (int j = 0; j < kColumns; j++) sum[i][j] += a[i][k] * b[k][j];
    }
  }
}

template <typename FormatA, typename FormatB, typename Accumulator, int blocks>
Outcome mma(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  if (!assemble_warp(warp, instruction, lanes)) return Outcome::kWaiting;
  using Value = typename FormatA::Value;
  constexpr int packed = FormatA::kPacked, depth = blocks * 4 * packed;
  const auto& operands = instruction.operands;
  Value a[kRows][depth], b[depth][kColumns];
  typename Accumulator::Sum sum[kRows][kColumns];

  for (int r = 0; r < 2 * blocks; r++) {
    const Row& bits = warp.source(operands[1].elements[static_cast<size_t>(r)]);
    for (int lane = 0; lane < kLanes; lane++) {
      Value* to = &a[group_of(lane) + r % 2 * 8][along_k(lane, r / 2, packed)];
      for (int i = 0; i < packed; i++) to[i] = FormatA::element(static_cast<uint32_t>(bits[lane]), i);
    }
  }
  for (int r = 0; r < blocks; r++) {
    const Row& bits = warp.source(operands[2].elements[static_cast<size_t>(r)]);
    for (int lane = 0; lane < kLanes; lane++) {
      const int k = along_k(lane, r, packed);
      for (int i = 0; i < packed; i++) {
        b[k + i][group_of(lane)] = FormatB::element(static_cast<uint32_t>(bits[lane]), i);
      }
    }
  }
  for (int element = 0; element < kAccumulated; element++) {
    const Row& bits = warp.source(operands[3].elements[static_cast<size_t>(element / Accumulator::kPacked)]);
    for (int lane = 0; lane < kLanes; lane++) {
      const Place place = accumulator_place(lane, element);
      sum[place.row][place.column] =
          Accumulator::load(static_cast<uint32_t>(bits[lane]), element % Accumulator::kPacked);
    }
  }

  multiply_add(sum, a, b);

  for (int element = 0; element < kAccumulated; element++) {
    const int shift = element % Accumulator::kPacked * 16;
    Row& bits = warp.destination(operands[0].elements[static_cast<size_t>(element / Accumulator::kPacked)]);
    for (int lane = 0; lane < kLanes; lane++) {
      const Place place = accumulator_place(lane, element);
      const uint64_t value = Accumulator::store(sum[place.row][place.column]);
      bits[lane] = shift == 0 ? value : bits[lane] | value << shift;
    }
  }
  return Outcome::kDone;
}

// --- the decoder

// What a combination of types and shape runs, and how many registers its operands have.
struct Form {
  Execute execute;
  size_t a, b, accumulator;
};

template <typename FormatA, typename FormatB, typename Accumulator>
Form form(int depth, const Instruction& instruction) {
  constexpr int block = 4 * FormatA::kPacked;
  constexpr size_t registers = kAccumulated / Accumulator::kPacked;
  if (depth == block) return {mma<FormatA, FormatB, Accumulator, 1>, 2, 1, registers};
  if (depth == 2 * block) return {mma<FormatA, FormatB, Accumulator, 2>, 4, 2, registers};
  unsupported(instruction, "this shape with these types");
}

template <typename FormatA, typename FormatB>
Form with_float_sum(std::string_view sum, int depth, const Instruction& instruction) {
  if (sum == "f32") return form<FormatA, FormatB, FloatSum>(depth, instruction);
  if (sum == "f16" && !std::is_same_v<FormatA, Bfloat> && !std::is_same_v<FormatA, Tf32>) {
    return form<FormatA, FormatB, HalfSum>(depth, instruction);
  }
  unsupported(instruction, "this type of accumulators");
}

template <typename FormatA, typename FormatB>
Form with_integer_sum(std::string_view sum, int depth, bool saturate, const Instruction& instruction) {
  require(instruction, sum == "s32", "this type of accumulators");
  return saturate ? form<FormatA, FormatB, IntegerSum<true>>(depth, instruction)
                  : form<FormatA, FormatB, IntegerSum<false>>(depth, instruction);
}

// The types of an instruction: D, A, B, C.
struct Types {
  std::string_view d, a, b, c;
};

Form form_of(const Types& types, int depth, bool saturate, const Instruction& instruction) {
  const auto is = [&](std::string_view a, std::string_view b) { return types.a == a && types.b == b; };
  if (is("s8", "s8")) return with_integer_sum<Signed, Signed>(types.d, depth, saturate, instruction);
  if (is("s8", "u8")) return with_integer_sum<Signed, Unsigned>(types.d, depth, saturate, instruction);
  if (is("u8", "s8")) return with_integer_sum<Unsigned, Signed>(types.d, depth, saturate, instruction);
  if (is("u8", "u8")) return with_integer_sum<Unsigned, Unsigned>(types.d, depth, saturate, instruction);
  require(instruction, !saturate, ".satfinite with types that are not integers");
  if (is("f16", "f16")) return with_float_sum<Half, Half>(types.d, depth, instruction);
  if (is("bf16", "bf16")) return with_float_sum<Bfloat, Bfloat>(types.d, depth, instruction);
  if (is("tf32", "tf32")) return with_float_sum<Tf32, Tf32>(types.d, depth, instruction);
  if (is("e4m3", "e4m3")) return with_float_sum<E4m3, E4m3>(types.d, depth, instruction);
  if (is("e4m3", "e5m2")) return with_float_sum<E4m3, E5m2>(types.d, depth, instruction);
  if (is("e5m2", "e4m3")) return with_float_sum<E5m2, E4m3>(types.d, depth, instruction);
  if (is("e5m2", "e5m2")) return with_float_sum<E5m2, E5m2>(types.d, depth, instruction);
  unsupported(instruction, "these types of A and B");
}

// .sync.aligned.<shape>.row.col{.satfinite}.<type of D>.<A>.<B>.<C>
bool decode_mma(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.expect("sync");
  modifiers.expect("aligned");
  constexpr int depths[] = {4, 8, 16, 32};
  const int depth = depths[modifiers.choose({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"})];
  modifiers.expect("row");
  modifiers.expect("col");
  const bool fp8_kind = modifiers.accept("kind::f8f6f4");
  const bool saturate = modifiers.accept("satfinite");
  Types types;
  types.d = modifiers.next();
  types.a = modifiers.next();
  types.b = modifiers.next();
  types.c = modifiers.next();
  modifiers.end();
  require(instruction, types.c == types.d, "C and D of different types");

  const Form found = form_of(types, depth, saturate, instruction);
  const bool is_fp8 = types.a == "e4m3" || types.a == "e5m2";
  require(instruction, !fp8_kind || (is_fp8 && depth == 32), ".kind::f8f6f4 with these types or this shape");
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 4 && is_registers(operands[0], found.accumulator) && is_sources(operands[1], found.a) &&
              is_sources(operands[2], found.b) && is_sources(operands[3], found.accumulator),
          "the numbers of registers do not fit shape and types");
  instruction.execute = found.execute;
  return true;
}

}  // namespace

void add_mma(InstructionSet& set) { set.add("mma", decode_mma); }

}  // namespace ptx
