// wgmma: products of matrices that the four warps of a warpgroup start together and later wait for. A lies in shared
// memory or in registers, B in shared memory, the sums in registers.
//
// The warps meet at each wgmma.fence and wgmma.mma_async; an operation exists when all four have come. It executes at
// once or when somebody waits for it, as the schedule says, after those that were issued before it.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "../instruction_set.h"
#include "../machine.h"
#include "../swizzle.h"
#include "collective.h"
#include "form.h"
#include "number.h"

namespace ptx {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 64;
constexpr int kDepthBytes = 32;  // of a row of A, and of a column of B, in every type
constexpr int kChunk = 16;       // bytes that stay together whatever the layout
constexpr int kCore = 8;         // rows of a core matrix, which are a chunk long

enum class Type { kF16, kBf16, kTf32, kE4m3, kE5m2, kS8, kU8 };
enum class Sum { kF32, kF16, kS32 };

enum Detail { kColumns, kTypeA, kTypeB, kSum, kFlags };
enum Flag : uint64_t {
  kRegistersA = 1,
  kTransposedA = 2,
  kTransposedB = 4,
  kNegatedA = 8,
  kNegatedB = 16,
  kSaturate = 32
};

bool has(const Instruction& by, Flag flag) { return (by.detail[kFlags] & flag) != 0; }
int columns_of(const Instruction& by) { return static_cast<int>(by.detail[kColumns]); }
Sum sum_of(const Instruction& by) { return static_cast<Sum>(by.detail[kSum]); }

int bytes_of(Type type) {
  switch (type) {
    case Type::kF16:
    case Type::kBf16: return 2;
    case Type::kTf32: return 4;
    default: return 1;
  }
}

// --- the meeting of the four warps

// True when this warp may go on; `together` is called once, by the last to come.
template <typename Together>
bool meet(Warp& warp, const Instruction& by, Together together) {
  Warpgroup& group = warp.cta().warpgroup(warp.warpgroup());
  const uint32_t bit = 1u << warp.index() % kWarps, all = (1u << kWarps) - 1;
  if ((group.released & bit) != 0) {
    group.released &= ~bit;
    return true;
  }
  if (warp.cta().threads() < static_cast<uint32_t>(warp.warpgroup() + 1) * kWarps * kLanes) {
    warp.fault(by, 0, "wgmma needs a warpgroup of four whole warps");
  }
  if (group.meeting != nullptr && group.meeting != &by) {
    warp.fault(by, 0,
               "another warp of the warpgroup executes a different wgmma instruction, in line " +
                   std::to_string(group.meeting->line));
  }
  group.meeting = &by;
  group.arrived |= bit;
  if (group.arrived != all) return false;
  together(group);
  group.meeting = nullptr;
  group.arrived = 0;
  group.released = all & ~bit;
  warp.cta().progress();
  return true;
}

// --- matrices in shared memory

// What the 64 bits say about where a matrix lies.
struct Descriptor {
  uint64_t start, leading, stride;
  Swizzle swizzle;
};

Descriptor read_descriptor(const Warp& warp, const Instruction& by, uint64_t bits) {
  constexpr uint64_t kUsed = 0xc00e'3fff'3fff'3fff;
  if ((bits & ~kUsed) != 0) warp.fault(by, 0, "reserved bits of a matrix descriptor are set");
  if ((bits >> 49 & 7) != 0) warp.fault(by, 0, "a matrix descriptor with a base offset is not supported");
  constexpr Swizzle modes[] = {Swizzle::kNone, Swizzle::k128, Swizzle::k64, Swizzle::k32};
  const auto field = [bits](int at) { return (bits >> at & 0x3fff) << 4; };
  return {field(0), field(16), field(32), modes[bits >> 62]};
}

// The address of a chunk. Along a line (a row of A or a column of B when K is contiguous; else one step of K) chunks
// are numbered by `chunk`; lines by `line`. Core matrices are eight lines of one chunk.
uint64_t chunk_address(const Descriptor& d, bool transposed, int line, int chunk) {
  const auto in_core = static_cast<uint64_t>(line % kCore), core = static_cast<uint64_t>(line / kCore);
  const auto along = static_cast<uint64_t>(chunk);
  const uint64_t span = swizzle_span(d.swizzle), chunks = span / kChunk;
  const uint64_t base = d.start + in_core * span;
  if (d.swizzle == Swizzle::kNone) {
    // The stride offset leads along rows (columns of B), the leading one along K, whatever is contiguous.
    return transposed ? base + along * d.stride + core * d.leading : base + core * d.stride + along * d.leading;
  }
  // Lines are as long as the span. K never is longer than that; rows (columns of B) go on in the next atom.
  const uint64_t inside = along % chunks * kChunk, atom = along / chunks;
  return swizzled(d.swizzle, base + inside + atom * d.leading + core * d.stride);
}

// The chunks of `lines` lines, one line after the other.
std::vector<uint8_t> gather(Warp& warp, const Instruction& by, uint64_t descriptor, bool transposed, int lines,
                            int chunks) {
  const Descriptor d = read_descriptor(warp, by, descriptor);
  std::vector<uint8_t> bytes(static_cast<size_t>(lines * chunks * kChunk));
  uint8_t* to = bytes.data();
  for (int line = 0; line < lines; line++) {
    for (int chunk = 0; chunk < chunks; chunk++, to += kChunk) {
      const uint64_t address = chunk_address(d, transposed, line, chunk);
      std::memcpy(to, warp.cta().shared(&warp, by, 0, address, kChunk, kChunk, Access::kRead, Proxy::kAsync), kChunk);
    }
  }
  return bytes;
}

// --- elements

template <typename Bits, typename Widen, typename Value>
void widen_all(const std::vector<uint8_t>& bytes, Widen widen, std::vector<Value>& values) {
  for (size_t i = 0; i < values.size(); i++) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i * sizeof bits, sizeof bits);
    values[i] = static_cast<Value>(widen(bits));
  }
}

template <typename Value>
std::vector<Value> values_of(const std::vector<uint8_t>& bytes, Type type, bool negated) {
  std::vector<Value> values(bytes.size() / static_cast<size_t>(bytes_of(type)));
  switch (type) {
    case Type::kF16: widen_all<uint16_t>(bytes, half_to_float, values); break;
    case Type::kBf16: widen_all<uint16_t>(bytes, bfloat_to_float, values); break;
    case Type::kTf32:  // the low 13 bits are not looked at
      widen_all<uint32_t>(bytes, [](uint32_t bits) { return from_bits<float>(bits & ~0x1fffu); }, values);
      break;
    case Type::kE4m3: widen_all<uint8_t>(bytes, e4m3_to_float, values); break;
    case Type::kE5m2: widen_all<uint8_t>(bytes, e5m2_to_float, values); break;
    case Type::kS8: widen_all<int8_t>(bytes, [](int8_t value) { return value; }, values); break;
    case Type::kU8: widen_all<uint8_t>(bytes, [](uint8_t value) { return value; }, values); break;
  }
  if (negated) std::transform(values.begin(), values.end(), values.begin(), std::negate<>());
  return values;
}

template <typename Value>
std::vector<Value> transpose(const std::vector<Value>& from, size_t rows, size_t columns) {
  std::vector<Value> to(from.size());
  for (size_t r = 0; r < rows; r++) {
    for (size_t c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
  }
  return to;
}

// --- fragments in registers

// A: register r of a lane holds four bytes of a row. Rows of eight lanes' fours come first, then eight rows further,
// then the next 16 bytes of both.
std::vector<uint8_t> gather_registers(Cta& cta, int first_warp, const Operand& a) {
  std::vector<uint8_t> bytes(kRows * kDepthBytes);
  for (int w = 0; w < kWarps; w++) {
    for (int r = 0; r < 4; r++) {
      const Row& row = cta.warp(first_warp + w).row(a.elements[static_cast<size_t>(r)].index);
      for (int lane = 0; lane < kLanes; lane++) {
        const int line = w * 16 + lane / 4 + r % 2 * 8, at = lane % 4 * 4 + r / 2 * kChunk;
        const auto value = static_cast<uint32_t>(row[static_cast<size_t>(lane)]);
        std::memcpy(bytes.data() + line * kDepthBytes + at, &value, sizeof value);
      }
    }
  }
  return bytes;
}

// Sums: visits pairs of neighbouring columns, (warp, number of the pair in the thread, lane, index of the first).
template <typename Visit>
void for_pairs(int columns, Visit visit) {
  for (int w = 0; w < kWarps; w++) {
    for (int pair = 0; pair < columns / 4; pair++) {
      const int corner = (w * 16 + pair % 2 * 8) * columns + pair / 2 * 8;
      for (int lane = 0; lane < kLanes; lane++) {
        visit(w, pair, lane, static_cast<size_t>(corner + lane / 4 * columns + lane % 4 * 2));
      }
    }
  }
}

Row& register_of(Cta& cta, int first_warp, const Accumulators& sums, int warp, int number) {
  return cta.warp(first_warp + warp).row(sums.registers[static_cast<size_t>(number)]);
}

template <typename Value>
void load_words(Cta& cta, int first_warp, int columns, const Accumulators& sums, std::vector<Value>& matrix) {
  for_pairs(columns, [&](int w, int pair, int lane, size_t at) {
    const auto i = static_cast<size_t>(lane);
    matrix[at] = from_bits<Value>(register_of(cta, first_warp, sums, w, 2 * pair)[i]);
    matrix[at + 1] = from_bits<Value>(register_of(cta, first_warp, sums, w, 2 * pair + 1)[i]);
  });
}

template <typename Value>
void store_words(Cta& cta, int first_warp, int columns, const Accumulators& sums, const std::vector<Value>& matrix) {
  for_pairs(columns, [&](int w, int pair, int lane, size_t at) {
    const auto i = static_cast<size_t>(lane);
    register_of(cta, first_warp, sums, w, 2 * pair)[i] = to_bits(matrix[at]);
    register_of(cta, first_warp, sums, w, 2 * pair + 1)[i] = to_bits(matrix[at + 1]);
  });
}

void load_sums(Cta& cta, int first_warp, const Instruction& by, Accumulators& sums) {
  const int columns = columns_of(by);
  switch (sum_of(by)) {
    case Sum::kF32: load_words(cta, first_warp, columns, sums, sums.floats); break;
    case Sum::kS32: load_words(cta, first_warp, columns, sums, sums.integers); break;
    case Sum::kF16:
      for_pairs(columns, [&](int w, int pair, int lane, size_t at) {
        const uint64_t both = register_of(cta, first_warp, sums, w, pair)[static_cast<size_t>(lane)];
        sums.floats[at] = half_to_float(static_cast<uint16_t>(both));
        sums.floats[at + 1] = half_to_float(static_cast<uint16_t>(both >> 16));
      });
      break;
  }
}

void store_sums(Cta& cta, int first_warp, const Instruction& by, const Accumulators& sums) {
  const int columns = columns_of(by);
  switch (sum_of(by)) {
    case Sum::kF32: store_words(cta, first_warp, columns, sums, sums.floats); break;
    case Sum::kS32: store_words(cta, first_warp, columns, sums, sums.integers); break;
    case Sum::kF16:
      for_pairs(columns, [&](int w, int pair, int lane, size_t at) {
        register_of(cta, first_warp, sums, w, pair)[static_cast<size_t>(lane)] =
            float_to_half(sums.floats[at]) | static_cast<uint64_t>(float_to_half(sums.floats[at + 1])) << 16;
      });
      break;
  }
}

// --- the operation

// All elements of A times B: calls `add(index in the matrix of sums, sum of products)`. A is kRows x depth, B is
// depth x columns. Eight columns at a time, so that the compiler uses vector instructions.
template <typename Value, typename Add>
void multiply(const std::vector<Value>& a, const std::vector<Value>& b, int columns, Add add) {
  constexpr int kBlock = 8;
  const int depth = static_cast<int>(a.size()) / kRows;
  for (int row = 0; row < kRows; row++) {
    const Value* left = a.data() + row * depth;
    for (int column = 0; column < columns; column += kBlock) {
      Value sums[kBlock] = {};
      for (int k = 0; k < depth; k++) {
        const Value* right = b.data() + k * columns + column;
        for (int i = 0; i < kBlock; i++) sums[i] += left[k] * right[i];
      }
      for (int i = 0; i < kBlock; i++) add(static_cast<size_t>(row * columns + column + i), sums[i]);
    }
  }
}

struct Operation {
  Cta* cta;
  int first_warp;
  const Instruction* by;
  uint64_t descriptor_a, descriptor_b;
  bool accumulate;
  std::list<Accumulators>::iterator sums;
  AsyncPtr previous;
};

template <typename Value>
std::vector<Value> matrix_a(const Operation& o) {
  const Instruction& by = *o.by;
  const auto type = static_cast<Type>(by.detail[kTypeA]);
  const bool negated = has(by, kNegatedA);
  if (has(by, kRegistersA)) {
    return values_of<Value>(gather_registers(*o.cta, o.first_warp, by.operands[1]), type, negated);
  }
  Warp& warp = o.cta->warp(o.first_warp);
  const int depth = kDepthBytes / bytes_of(type);
  if (!has(by, kTransposedA)) {
    return values_of<Value>(gather(warp, by, o.descriptor_a, false, kRows, kDepthBytes / kChunk), type, negated);
  }
  const int chunks = kRows * bytes_of(type) / kChunk;
  return transpose(values_of<Value>(gather(warp, by, o.descriptor_a, true, depth, chunks), type, negated),
                   static_cast<size_t>(depth), kRows);
}

template <typename Value>
std::vector<Value> matrix_b(const Operation& o) {
  const Instruction& by = *o.by;
  const auto type = static_cast<Type>(by.detail[kTypeB]);
  const bool negated = has(by, kNegatedB);
  const int columns = columns_of(by), depth = kDepthBytes / bytes_of(type);
  Warp& warp = o.cta->warp(o.first_warp);
  if (has(by, kTransposedB)) {
    const int chunks = columns * bytes_of(type) / kChunk;
    return values_of<Value>(gather(warp, by, o.descriptor_b, true, depth, chunks), type, negated);
  }
  return transpose(
      values_of<Value>(gather(warp, by, o.descriptor_b, false, columns, kDepthBytes / kChunk), type, negated),
      static_cast<size_t>(columns), static_cast<size_t>(depth));
}

void multiply_floats(const Operation& o) {
  std::vector<float>& sums = o.sums->floats;
  const auto a = matrix_a<float>(o), b = matrix_b<float>(o);
  const int columns = columns_of(*o.by);
  if (sum_of(*o.by) == Sum::kF16) {
    multiply(a, b, columns,
             [&sums](size_t i, float products) { sums[i] = half_to_float(float_to_half(sums[i] + products)); });
  } else {
    multiply(a, b, columns, [&sums](size_t i, float products) { sums[i] += products; });
  }
}

void multiply_integers(const Operation& o) {
  std::vector<int32_t>& sums = o.sums->integers;
  const bool saturate = has(*o.by, kSaturate);
  multiply(matrix_a<int32_t>(o), matrix_b<int32_t>(o), columns_of(*o.by), [&](size_t i, int32_t products) {
    const int64_t exact = int64_t{sums[i]} + products;
    sums[i] = static_cast<int32_t>(saturate ? std::clamp<int64_t>(exact, INT32_MIN, INT32_MAX) : exact);
  });
}

void execute(Operation& o) {
  if (o.previous) complete(*o.previous);
  o.previous.reset();
  Accumulators& sums = *o.sums;
  if (!o.accumulate) {
    std::fill(sums.floats.begin(), sums.floats.end(), 0.0f);
    std::fill(sums.integers.begin(), sums.integers.end(), 0);
  }
  (sum_of(*o.by) == Sum::kS32 ? multiply_integers : multiply_floats)(o);
  if (--sums.users > 0) return;
  store_sums(*o.cta, o.first_warp, *o.by, sums);
  o.cta->warpgroup(o.first_warp / kWarps).accumulators.erase(o.sums);
}

// --- issue

// What all threads of the warpgroup must agree on.
uint64_t common(Cta& cta, int first_warp, const Instruction& by, const Operand& operand) {
  const uint64_t value = cta.warp(first_warp).source(operand)[0];
  for (int w = 0; w < kWarps; w++) {
    Warp& warp = cta.warp(first_warp + w);
    const Row& row = warp.source(operand);
    for (int lane = 0; lane < kLanes; lane++) {
      if (row[static_cast<size_t>(lane)] != value) {
        warp.fault(by, lane, "a matrix descriptor that is not the same in all threads of the warpgroup");
      }
    }
  }
  return value;
}

bool accumulates(Cta& cta, int first_warp, const Instruction& by) {
  const Operand& scale = by.operands[3];
  const uint32_t holds = cta.warp(first_warp).holds(scale);
  for (int w = 0; w < kWarps; w++) {
    Warp& warp = cta.warp(first_warp + w);
    const uint32_t mask = warp.holds(scale);
    if (mask != holds || (mask != 0 && mask != ~0u)) {
      warp.fault(by, 0, "scale-d is not the same in all threads of the warpgroup");
    }
  }
  return holds != 0;
}

// The sums of operations under way into the same registers, or those that the registers hold now.
std::list<Accumulators>::iterator claim(Cta& cta, Warpgroup& group, int first_warp, const Instruction& by) {
  Accumulators claimed;
  for (const Operand& element : by.operands[0].elements) claimed.registers.push_back(element.index);
  const auto size = static_cast<size_t>(kRows * columns_of(by));
  if (sum_of(by) == Sum::kS32) {
    claimed.integers.resize(size);
  } else {
    claimed.floats.resize(size);
  }
  for (auto sums = group.accumulators.begin(); sums != group.accumulators.end(); ++sums) {
    if (sums->registers == claimed.registers && sums->floats.size() == claimed.floats.size() &&
        sums->integers.size() == claimed.integers.size()) {
      return sums;
    }
    const auto& theirs = sums->registers;
    if (std::find_first_of(theirs.begin(), theirs.end(), claimed.registers.begin(), claimed.registers.end()) !=
        theirs.end()) {
      cta.warp(first_warp).fault(by, 0, "its sums overlap those of an operation of another shape under way");
    }
  }
  Accumulators& sums = group.accumulators.emplace_back(std::move(claimed));
  load_sums(cta, first_warp, by, sums);
  if (cta.launch().schedule.asynchrony != Asynchrony::kImmediate) {
    for (int w = 0; w < kWarps; w++) {
      for (const int index : sums.registers) cta.warp(first_warp + w).row(index).fill(0xffff'ffff);
    }
  }
  return std::prev(group.accumulators.end());
}

void issue(Warp& warp, const Instruction& by, Warpgroup& group) {
  Cta& cta = warp.cta();
  const int first_warp = warp.warpgroup() * kWarps;
  Operation o = {&cta, first_warp, &by, 0, 0, accumulates(cta, first_warp, by), {}, group.last};
  if (!has(by, kRegistersA)) o.descriptor_a = common(cta, first_warp, by, by.operands[1]);
  o.descriptor_b = common(cta, first_warp, by, by.operands[2]);
  o.sums = claim(cta, group, first_warp, by);
  o.sums->users++;
  const auto shared = std::make_shared<Operation>(std::move(o));
  group.last = cta.defer(by, [shared] { execute(*shared); });
  for (AsyncGroups& groups : group.groups) groups.add(group.last);
}

Outcome mma_async(Warp& warp, const Instruction& by, uint32_t lanes) {
  if (!assemble_warp(warp, by, lanes)) return Outcome::kWaiting;
  const auto together = [&](Warpgroup& group) { issue(warp, by, group); };
  return meet(warp, by, together) ? Outcome::kDone : Outcome::kWaiting;
}

Outcome fence(Warp& warp, const Instruction& by, uint32_t lanes) {
  if (!assemble_warp(warp, by, lanes)) return Outcome::kWaiting;
  return meet(warp, by, [](Warpgroup&) {}) ? Outcome::kDone : Outcome::kWaiting;
}

AsyncGroups& groups_of(Warp& warp) { return warp.cta().warpgroup(warp.warpgroup()).groups[warp.index() % kWarps]; }

Outcome commit_group(Warp& warp, const Instruction& by, uint32_t lanes) {
  if (!assemble_warp(warp, by, lanes)) return Outcome::kWaiting;
  groups_of(warp).commit();
  return Outcome::kDone;
}

Outcome wait_group(Warp& warp, const Instruction& by, uint32_t lanes) {
  if (!assemble_warp(warp, by, lanes)) return Outcome::kWaiting;
  groups_of(warp).wait(by.detail[0]);
  return Outcome::kDone;
}

// --- decoding

// m64nNkK
void decode_shape(Instruction& instruction, Type type) {
  const std::string shape(instruction.modifiers[3]);
  const std::string begin = "m64n", end = "k" + std::to_string(kDepthBytes / bytes_of(type));
  require(instruction,
          shape.size() > begin.size() + end.size() && shape.compare(0, begin.size(), begin) == 0 &&
              shape.compare(shape.size() - end.size(), end.size(), end) == 0,
          "a shape other than .m64nNkK with the K of the type");
  uint64_t columns = 0;
  for (const char c : shape.substr(begin.size(), shape.size() - begin.size() - end.size())) {
    require(instruction, c >= '0' && c <= '9' && columns < 256, "a shape without a number of columns");
    columns = columns * 10 + static_cast<uint64_t>(c - '0');
  }
  const bool integer = type == Type::kS8 || type == Type::kU8;
  require(instruction,
          columns >= 8 && columns <= 256 && columns % 8 == 0 &&
              !(integer && columns % 16 != 0 && columns != 8 && columns != 24),
          "this number of columns");
  instruction.detail[kColumns] = columns;
}

// The sums' type, then those of A and B.
void decode_types(Instruction& instruction, Modifiers& modifiers) {
  if (modifiers.accept("satfinite")) instruction.detail[kFlags] |= kSaturate;
  const auto sum = static_cast<Sum>(modifiers.choose({"f32", "f16", "s32"}));
  const auto a = static_cast<Type>(modifiers.choose({"f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8"}));
  const auto b = static_cast<Type>(modifiers.choose({"f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8"}));
  modifiers.end();
  const bool integer = a >= Type::kS8, fp8 = a == Type::kE4m3 || a == Type::kE5m2;
  const bool mixed = (integer && b >= Type::kS8) || (fp8 && (b == Type::kE4m3 || b == Type::kE5m2));
  require(instruction, a == b || mixed, "these types of A and B together");
  require(instruction, integer ? sum == Sum::kS32 : sum == Sum::kF32 || (sum == Sum::kF16 && (fp8 || a == Type::kF16)),
          "sums of this type");
  require(instruction, integer || !has(instruction, kSaturate), ".satfinite without integers");
  instruction.detail[kSum] = static_cast<uint64_t>(sum);
  instruction.detail[kTypeA] = static_cast<uint64_t>(a);
  instruction.detail[kTypeB] = static_cast<uint64_t>(b);
}

// An immediate that is either `set`, which sets the flag, or `clear`.
void decode_choice(Instruction& instruction, size_t operand, int64_t set, int64_t clear, Flag flag) {
  const auto& operands = instruction.operands;
  require(instruction,
          operand < operands.size() && operands[operand].kind == Operand::Kind::kConstant && operands[operand].constant,
          "an immediate operand is missing");
  const auto value = static_cast<int64_t>((*operands[operand].constant)[0]);
  require(instruction, value == set || value == clear, "an immediate operand has another value than it may have");
  if (value == set) instruction.detail[kFlags] |= flag;
}

// d, a, b, scale-d {, scale-a, scale-b {, trans-a}, trans-b}
void decode_operands(Instruction& instruction) {
  const auto& operands = instruction.operands;
  const auto type = static_cast<Type>(instruction.detail[kTypeA]);
  const auto registers = static_cast<size_t>(columns_of(instruction) / (sum_of(instruction) == Sum::kF16 ? 4 : 2));
  require(instruction,
          operands.size() >= 4 && is_registers(operands[0], registers) && is_source(operands[2]) &&
              (operands[3].kind == Operand::Kind::kPredicate || is_source(operands[3])),
          "the operands are not those of this form");
  if (is_registers(operands[1], 4)) {
    instruction.detail[kFlags] |= kRegistersA;
  } else {
    require(instruction, is_source(operands[1]), "A is neither a descriptor nor four registers");
  }
  size_t next = 4;
  if (type != Type::kS8 && type != Type::kU8) {
    decode_choice(instruction, next++, -1, 1, kNegatedA);
    decode_choice(instruction, next++, -1, 1, kNegatedB);
  }
  if (type == Type::kF16 || type == Type::kBf16) {
    if (!has(instruction, kRegistersA)) decode_choice(instruction, next++, 1, 0, kTransposedA);
    decode_choice(instruction, next++, 1, 0, kTransposedB);
  }
  require(instruction, operands.size() == next, "too many operands");
}

void decode_mma(Instruction& instruction, Modifiers& modifiers) {
  modifiers.expect("sync");
  modifiers.expect("aligned");
  require(instruction, instruction.modifiers.size() > 4, "a shape or types are missing");
  modifiers.accept(instruction.modifiers[3]);
  decode_types(instruction, modifiers);
  decode_shape(instruction, static_cast<Type>(instruction.detail[kTypeA]));
  decode_operands(instruction);
  instruction.execute = mma_async;
}

bool decode(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (modifiers.accept("mma_async")) {
    decode_mma(instruction, modifiers);
    return true;
  }
  constexpr Execute handlers[] = {fence, commit_group, wait_group};
  const int which = modifiers.choose({"fence", "commit_group", "wait_group"});
  modifiers.expect("sync");
  modifiers.expect("aligned");
  modifiers.end();
  const auto& operands = instruction.operands;
  if (which == 2) {
    require(instruction, operands.size() == 1 && operands[0].kind == Operand::Kind::kConstant && operands[0].constant,
            "the operand is not a number");
    instruction.detail[0] = (*operands[0].constant)[0];
  } else {
    require(instruction, operands.empty(), "an operand");
  }
  instruction.execute = handlers[which];
  return true;
}

}  // namespace

void add_wgmma(InstructionSet& set) { set.add("wgmma", decode); }

}  // namespace ptx
