// Bulk copies: pieces of memory, or tiles of tensors, that the asynchronous proxy moves between global and shared
// memory. Loads signal an mbarrier; stores and reductions belong to bulk groups of their thread.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "../instruction_set.h"
#include "../machine.h"
#include "../swizzle.h"
#include "../tensor_map.h"
#include "form.h"
#include "mbarrier.h"
#include "number.h"

namespace ptx {
namespace {

// --- reductions: what becomes of an element in global memory

using Combine = void (*)(uint8_t* to, const uint8_t* from);
enum class Element { kU32, kS32, kU64, kS64, kF16, kBf16, kF32, kF64, kNone };
enum class Reduction { kAdd, kMin, kMax, kInc, kDec, kAnd, kOr, kXor };

template <typename T, typename Function>
void update(uint8_t* to, const uint8_t* from, Function function) {
  T a, b;
  std::memcpy(&a, to, sizeof a);
  std::memcpy(&b, from, sizeof b);
  a = function(a, b);
  std::memcpy(to, &a, sizeof a);
}

template <typename T, Reduction reduction>
void reduce_integer(uint8_t* to, const uint8_t* from) {
  using Unsigned = std::make_unsigned_t<T>;
  update<T>(to, from, [](T a, T b) -> T {
    switch (reduction) {
      case Reduction::kAdd: return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
      case Reduction::kMin: return std::min(a, b);
      case Reduction::kMax: return std::max(a, b);
      case Reduction::kInc: return a >= b ? 0 : a + 1;
      case Reduction::kDec: return a == 0 || a > b ? b : a - 1;
      case Reduction::kAnd: return a & b;
      case Reduction::kOr: return a | b;
      case Reduction::kXor: return a ^ b;
    }
    return a;
  });
}

template <typename T>
void add_float_values(uint8_t* to, const uint8_t* from) {
  update<T>(to, from, [](T a, T b) { return a + b; });
}

// Of half and bfloat, in double, which holds the exact result.
template <float (*widen)(uint16_t), uint16_t (*narrow)(double, Rounding), Reduction reduction>
void reduce_half(uint8_t* to, const uint8_t* from) {
  update<uint16_t>(to, from, [](uint16_t a, uint16_t b) {
    const double x = widen(a), y = widen(b);
    const double result = reduction == Reduction::kAdd   ? x + y
                          : reduction == Reduction::kMin ? std::fmin(x, y)
                                                         : std::fmax(x, y);
    return narrow(result, Rounding::kNearestEven);
  });
}

template <typename T>
Combine integer_reduction(Reduction reduction) {
  switch (reduction) {
    case Reduction::kAdd: return reduce_integer<T, Reduction::kAdd>;
    case Reduction::kMin: return reduce_integer<T, Reduction::kMin>;
    case Reduction::kMax: return reduce_integer<T, Reduction::kMax>;
    case Reduction::kAnd: return reduce_integer<T, Reduction::kAnd>;
    case Reduction::kOr: return reduce_integer<T, Reduction::kOr>;
    case Reduction::kXor: return reduce_integer<T, Reduction::kXor>;
    default: return nullptr;
  }
}

template <float (*widen)(uint16_t), uint16_t (*narrow)(double, Rounding)>
Combine half_reduction(Reduction reduction) {
  switch (reduction) {
    case Reduction::kAdd: return reduce_half<widen, narrow, Reduction::kAdd>;
    case Reduction::kMin: return reduce_half<widen, narrow, Reduction::kMin>;
    case Reduction::kMax: return reduce_half<widen, narrow, Reduction::kMax>;
    default: return nullptr;
  }
}

// nullptr when there is no such reduction.
Combine combination(Reduction reduction, Element element) {
  switch (element) {
    case Element::kU32:
      if (reduction == Reduction::kInc) return reduce_integer<uint32_t, Reduction::kInc>;
      if (reduction == Reduction::kDec) return reduce_integer<uint32_t, Reduction::kDec>;
      return integer_reduction<uint32_t>(reduction);
    case Element::kS32: return integer_reduction<int32_t>(reduction);
    case Element::kU64: return integer_reduction<uint64_t>(reduction);
    case Element::kS64: return integer_reduction<int64_t>(reduction);
    case Element::kF16: return half_reduction<half_to_float, double_to_half>(reduction);
    case Element::kBf16: return half_reduction<bfloat_to_float, double_to_bfloat>(reduction);
    case Element::kF32: return reduction == Reduction::kAdd ? add_float_values<float> : nullptr;
    case Element::kF64: return reduction == Reduction::kAdd ? add_float_values<double> : nullptr;
    case Element::kNone: return nullptr;
  }
  return nullptr;
}

uint64_t bytes_of(Element element) {
  switch (element) {
    case Element::kF16:
    case Element::kBf16: return 2;
    case Element::kU64:
    case Element::kS64:
    case Element::kF64: return 8;
    default: return 4;
  }
}

// --- what instructions have in common

enum Detail { kMask, kRank, kCombine, kElementBytes, kReduction, kGroups };  // kMask: operand of a multicast, 0: none

using Bytes = std::vector<uint8_t>;

uint64_t aligned(const Warp& warp, const Instruction& by, int lane, uint64_t value, uint64_t to, const char* what) {
  if (value % to != 0) {
    warp.fault(by, lane,
               std::string(what) + " " + std::to_string(value) + " is not a multiple of " + std::to_string(to));
  }
  return value;
}

// A block is alone in its cluster, so that a multicast can only go to itself.
void check_multicast(const Warp& warp, const Instruction& by, int lane) {
  if (by.detail[kMask] == 0) return;
  const uint64_t mask = warp.source(by.operands[by.detail[kMask]])[static_cast<size_t>(lane)] & 0xffff;
  if (mask != 1) {
    warp.fault(by, lane,
               "a multicast with mask " + std::to_string(mask) + ": other blocks than one's own are not supported");
  }
}

// Writes elements to global memory, or reduces them into it.
void put(Warp& warp, const Instruction& by, int lane, uint64_t address, const uint8_t* from, uint64_t bytes,
         Combine combine, uint64_t element_bytes) {
  const Access access = combine ? Access::kReadWrite : Access::kWrite;
  uint8_t* to = warp.memory(by, lane, Space::kGlobal, address, bytes, element_bytes, access);
  if (!combine) {
    std::memcpy(to, from, bytes);
    return;
  }
  for (uint64_t i = 0; i < bytes; i += element_bytes) combine(to + i, from + i);
}

// --- pieces of memory: [destination], [source], size

struct Piece {
  uint64_t to, from, bytes;
};

Piece piece(Warp& warp, const Instruction& by, int lane) {
  const uint64_t size = static_cast<uint32_t>(warp.source(by.operands[2])[static_cast<size_t>(lane)]);
  return {aligned(warp, by, lane, warp.address(by.operands[0], lane), 16, "the destination address"),
          aligned(warp, by, lane, warp.address(by.operands[1], lane), 16, "the source address"),
          aligned(warp, by, lane, size, 16, "the size")};
}

// To shared memory, from global or shared memory; signals the mbarrier of operand 3.
template <bool from_shared>
Outcome load_piece(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const Piece p = piece(warp, by, lane);
    const uint64_t mbarrier = warp.address(by.operands[3], lane);
    check_multicast(warp, by, lane);
    warp.cta().start(by, [&warp, &by, lane, p, mbarrier] {
      Cta& cta = warp.cta();
      const uint8_t* from = from_shared ? cta.shared(&warp, by, lane, p.from, p.bytes, 16, Access::kRead, Proxy::kAsync)
                                        : warp.memory(by, lane, Space::kGlobal, p.from, p.bytes, 16, Access::kRead);
      std::memmove(cta.shared(&warp, by, lane, p.to, p.bytes, 16, Access::kWrite, Proxy::kAsync), from, p.bytes);
      mbarrier_complete_tx(warp, by, lane, mbarrier, static_cast<uint32_t>(p.bytes));
    });
  });
  return Outcome::kDone;
}

// From shared to global memory, as a copy or a reduction; belongs to a bulk group.
Outcome store_piece(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const Piece p = piece(warp, by, lane);
    const auto work = [&warp, &by, lane, p] {
      const uint8_t* from = warp.cta().shared(&warp, by, lane, p.from, p.bytes, 16, Access::kRead, Proxy::kAsync);
      put(warp, by, lane, p.to, from, p.bytes, reinterpret_cast<Combine>(by.detail[kCombine]),
          by.detail[kElementBytes]);
    };
    warp.bulk(lane).add(warp.cta().defer(by, work));
  });
  return Outcome::kDone;
}

Outcome prefetch_piece(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const uint64_t size = static_cast<uint32_t>(warp.source(by.operands[1])[static_cast<size_t>(lane)]);
    aligned(warp, by, lane, size, 16, "the size");
    warp.memory(by, lane, Space::kGlobal, warp.address(by.operands[0], lane), size, 16, Access::kRead);
  });
  return Outcome::kDone;
}

// --- tiles of tensors

constexpr uint64_t kTileAlign = 128;
constexpr int kAxes = 5;

TensorMap tensor_map(Warp& warp, const Instruction& by, int lane, uint64_t address) {
  TensorMap map;
  std::memcpy(&map, warp.memory(by, lane, Space::kGeneric, address, sizeof map, 64, Access::kRead), sizeof map);
  if (map.magic != kTensorMapMagic) warp.fault(by, lane, "there is no tensor map at this address");
  return map;
}

// What one instruction accesses: a box of a tensor, and where it lies densely in shared memory.
struct Tile {
  TensorMap map;
  std::array<int64_t, kAxes> start = {};  // coordinates of the box; may be out of bounds on either side
  std::array<int64_t, kAxes> count = {};  // elements along each axis
  uint64_t shared = 0;

  Swizzle swizzle() const { return static_cast<Swizzle>(map.swizzle); }
  uint64_t row_bytes() const { return static_cast<uint64_t>(count[0]) * map.element_bytes; }
  uint64_t rows() const { return static_cast<uint64_t>(count[1] * count[2] * count[3] * count[4]); }
  uint64_t bytes() const { return rows() * row_bytes(); }
};

// The part of a row of a box that lies in the tensor: elements [first, last), the first of them at `address`.
struct RowPart {
  uint64_t shared;  // of the whole row
  uint64_t address;
  int64_t first, last;
};

Tile tile(Warp& warp, const Instruction& by, int lane, const Operand& tensor, const Operand& shared) {
  Tile t;
  t.map = tensor_map(warp, by, lane, warp.address(tensor, lane));
  if (t.map.rank != by.detail[kRank]) {
    warp.fault(by, lane, "the tensor map is of rank " + std::to_string(t.map.rank));
  }
  for (size_t i = 0; i < kAxes; i++) {
    const int64_t stride = t.map.element_stride[i];
    t.count[i] = (t.map.box[i] + stride - 1) / stride;
    if (i < t.map.rank) {
      t.start[i] = static_cast<int32_t>(warp.source(tensor.elements[i])[static_cast<size_t>(lane)]);
    }
  }
  if (t.swizzle() != Swizzle::kNone && t.row_bytes() != swizzle_span(t.swizzle())) {
    warp.fault(by, lane, "a box whose rows are narrower than the swizzle span is not supported");
  }
  t.shared = aligned(warp, by, lane, warp.address(shared, lane), kTileAlign, "the shared address of a tile");
  return t;
}

RowPart row_part(const Tile& t, const std::array<int64_t, kAxes>& at, uint64_t row) {
  RowPart part = {t.shared + row * t.row_bytes(), t.map.address, 0, 0};
  for (size_t i = 1; i < t.map.rank; i++) {
    const int64_t coordinate = t.start[i] + at[i] * t.map.element_stride[i];
    if (coordinate < 0 || coordinate > t.map.extent_minus_1[i]) return part;
    part.address += static_cast<uint64_t>(coordinate) * t.map.bytes_stride[i - 1];
  }
  part.first = std::max<int64_t>(0, -t.start[0]);
  part.last = std::min(t.count[0], int64_t{t.map.extent_minus_1[0]} + 1 - t.start[0]);
  part.last = std::max(part.first, part.last);
  part.address += static_cast<uint64_t>(t.start[0] + part.first) * t.map.element_bytes;
  return part;
}

// Rows in the order of shared memory: axis 1 fastest.
template <typename Visit>
void for_rows(const Tile& t, Visit visit) {
  std::array<int64_t, kAxes> at = {};
  for (uint64_t row = 0; row < t.rows(); row++) {
    visit(row_part(t, at, row));
    for (size_t i = 1; i < kAxes && ++at[i] == t.count[i]; i++) at[i] = 0;
  }
}

// Runs of a row that are contiguous in shared memory: (offset in the row, address, bytes).
template <typename Visit>
void for_runs(const Tile& t, uint64_t shared, Visit visit) {
  const uint64_t run = t.swizzle() == Swizzle::kNone ? t.row_bytes() : 16;
  for (uint64_t offset = 0; offset < t.row_bytes(); offset += run) {
    visit(offset, swizzled(t.swizzle(), shared + offset), run);
  }
}

// What elements out of bounds become.
void fill(const TensorMap& map, Bytes& row) {
  std::fill(row.begin(), row.end(), 0);
  if (!map.fill_nan) return;
  std::fill(row.begin(), row.end(), 0xff);
  for (size_t i = map.element_bytes - 1; i < row.size(); i += map.element_bytes) row[i] = 0x7f;
}

void load(Warp& warp, const Instruction& by, int lane, const Tile& t) {
  Bytes row(t.row_bytes());
  for_rows(t, [&](const RowPart& part) {
    const auto bytes = static_cast<uint64_t>(part.last - part.first) * t.map.element_bytes;
    if (bytes < row.size()) fill(t.map, row);
    if (bytes > 0) {
      std::memcpy(row.data() + part.first * t.map.element_bytes,
                  warp.memory(by, lane, Space::kGlobal, part.address, bytes, t.map.element_bytes, Access::kRead),
                  bytes);
    }
    for_runs(t, part.shared, [&](uint64_t offset, uint64_t address, uint64_t run) {
      std::memcpy(warp.cta().shared(&warp, by, lane, address, run, 16, Access::kWrite, Proxy::kAsync),
                  row.data() + offset, run);
    });
  });
}

void store(Warp& warp, const Instruction& by, int lane, const Tile& t, Combine combine) {
  Bytes row(t.row_bytes());
  for_rows(t, [&](const RowPart& part) {
    for_runs(t, part.shared, [&](uint64_t offset, uint64_t address, uint64_t run) {
      std::memcpy(row.data() + offset,
                  warp.cta().shared(&warp, by, lane, address, run, 16, Access::kRead, Proxy::kAsync), run);
    });
    const auto bytes = static_cast<uint64_t>(part.last - part.first) * t.map.element_bytes;
    if (bytes == 0) return;
    put(warp, by, lane, part.address, row.data() + part.first * t.map.element_bytes, bytes, combine,
        t.map.element_bytes);
  });
}

// [shared], [map, {coordinates}], [mbarrier]
Outcome load_tile(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const Tile t = tile(warp, by, lane, by.operands[1], by.operands[0]);
    const uint64_t mbarrier = warp.address(by.operands[2], lane);
    check_multicast(warp, by, lane);
    warp.cta().start(by, [&warp, &by, lane, t, mbarrier] {
      load(warp, by, lane, t);
      mbarrier_complete_tx(warp, by, lane, mbarrier, static_cast<uint32_t>(t.bytes()));
    });
  });
  return Outcome::kDone;
}

Element element_of(const TensorMap& map) {
  constexpr Element elements[] = {Element::kNone, Element::kNone, Element::kU32, Element::kS32, Element::kU64,
                                  Element::kS64,  Element::kF16,  Element::kF32, Element::kF64, Element::kBf16};
  return elements[map.type];
}

// [map, {coordinates}], [shared]
template <bool reduces>
Outcome store_tile(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const Tile t = tile(warp, by, lane, by.operands[0], by.operands[1]);
    Combine combine = nullptr;
    if (reduces) {
      combine = combination(static_cast<Reduction>(by.detail[kReduction]), element_of(t.map));
      if (!combine) warp.fault(by, lane, "there is no such reduction of the type of the tensor map");
    }
    const auto work = [&warp, &by, lane, t, combine] { store(warp, by, lane, t, combine); };
    warp.bulk(lane).add(warp.cta().defer(by, work));
  });
  return Outcome::kDone;
}

// Prefetches do nothing but look whether there is a map.
Outcome prefetch_map(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { tensor_map(warp, by, lane, warp.address(by.operands[0], lane)); });
  return Outcome::kDone;
}

// --- groups

Outcome commit_group(Warp& warp, const Instruction&, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { warp.bulk(lane).commit(); });
  return Outcome::kDone;
}

// With .read the sources may be reused, but the writes need not be visible yet. Both happen together here.
Outcome wait_group(Warp& warp, const Instruction& by, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { warp.bulk(lane).wait(by.detail[kGroups]); });
  return Outcome::kDone;
}

// --- decoding

bool is_address(const Instruction& instruction, size_t operand) {
  const auto& operands = instruction.operands;
  return operand < operands.size() && operands[operand].kind == Operand::Kind::kAddress &&
         operands[operand].elements.empty();
}

// Reads {.multicast::cluster}{.L2::cache_hint} and the operands that they add after the first `count`.
void tail(Instruction& instruction, Modifiers& modifiers, size_t count, bool multicast_allowed) {
  const auto& operands = instruction.operands;
  if (multicast_allowed && modifiers.accept("multicast::cluster")) instruction.detail[kMask] = count++;
  if (modifiers.accept("L2::cache_hint")) count++;
  require_no_pair(instruction);
  require(instruction, operands.size() == count, "the operands are not those of this form");
  if (instruction.detail[kMask] != 0) {
    require(instruction, is_source(operands[instruction.detail[kMask]]), "a mask that is not a register");
  }
  if (instruction.has("L2::cache_hint"))
    require(instruction, is_source(operands.back()), "a policy that is no register");
}

Reduction reduction(Modifiers& modifiers) {
  return static_cast<Reduction>(modifiers.choose({"add", "min", "max", "inc", "dec", "and", "or", "xor"}));
}

void decode_piece(Instruction& instruction, Modifiers& modifiers) {
  size_t count = 3;
  if (modifiers.accept("global")) {
    modifiers.expect("shared::cta");
    modifiers.expect("bulk_group");
    instruction.detail[kElementBytes] = 1;
    instruction.execute = store_piece;
  } else {
    modifiers.choose({"shared::cluster", "shared::cta"});
    const bool from_shared = modifiers.choose({"global", "shared::cta"}) == 1;
    modifiers.expect("mbarrier::complete_tx::bytes");
    instruction.execute = from_shared ? load_piece<true> : load_piece<false>;
    count = 4;
  }
  tail(instruction, modifiers, count, instruction.execute == static_cast<Execute>(load_piece<false>));
  modifiers.end();
  require(instruction,
          is_address(instruction, 0) && is_address(instruction, 1) && is_source(instruction.operands[2]) &&
              (count == 3 || is_address(instruction, 3)),
          "the operands are not those of this form");
}

void decode_reduction(Instruction& instruction, Modifiers& modifiers) {
  modifiers.expect("global");
  modifiers.expect("shared::cta");
  modifiers.expect("bulk_group");
  tail(instruction, modifiers, 3, false);
  const Reduction operation = reduction(modifiers);
  const bool noftz = modifiers.accept("noftz");
  constexpr Element elements[] = {Element::kU32,  Element::kS32, Element::kU64, Element::kS64, Element::kF16,
                                  Element::kBf16, Element::kF32, Element::kF64, Element::kU32, Element::kU64};
  const int type = modifiers.choose({"u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64", "b32", "b64"});
  modifiers.end();
  const bool bits = operation >= Reduction::kAnd;
  require(instruction, bits == (type >= 8), "this operation on this type");
  const Element element = elements[type];
  const bool half = element == Element::kF16 || element == Element::kBf16;
  require(instruction, noftz == (half && operation == Reduction::kAdd), ".noftz belongs to .add of .f16 and .bf16");
  const Combine combine = combination(operation, element);
  const bool signed_sum = element == Element::kS64 && operation == Reduction::kAdd;
  require(instruction, combine != nullptr && !signed_sum, "this operation on this type");
  require(instruction, is_address(instruction, 0) && is_address(instruction, 1) && is_source(instruction.operands[2]),
          "the operands are not those of this form");
  instruction.detail[kCombine] = reinterpret_cast<uint64_t>(combine);
  instruction.detail[kElementBytes] = bytes_of(element);
  instruction.execute = store_piece;
}

// [map, {coordinates}]
void require_tensor(const Instruction& instruction, size_t operand) {
  const auto& operands = instruction.operands;
  require(instruction,
          operand < operands.size() && operands[operand].kind == Operand::Kind::kAddress &&
              operands[operand].elements.size() == instruction.detail[kRank],
          "the tensor coordinates are not as many as the dimensions");
  for (const Operand& coordinate : operands[operand].elements) {
    require(instruction, is_source(coordinate), "a coordinate that is neither a register nor a number");
  }
}

void decode_rank(Instruction& instruction, Modifiers& modifiers) {
  instruction.detail[kRank] = static_cast<uint64_t>(1 + modifiers.choose({"1d", "2d", "3d", "4d", "5d"}));
}

void decode_tile(Instruction& instruction, Modifiers& modifiers) {
  decode_rank(instruction, modifiers);
  if (modifiers.accept("global")) {
    modifiers.expect("shared::cta");
    modifiers.accept("tile");
    modifiers.expect("bulk_group");
    tail(instruction, modifiers, 2, false);
    require_tensor(instruction, 0);
    require(instruction, is_address(instruction, 1), "the source is not an address");
    instruction.execute = store_tile<false>;
  } else {
    modifiers.choose({"shared::cluster", "shared::cta"});
    modifiers.expect("global");
    modifiers.accept("tile");
    modifiers.expect("mbarrier::complete_tx::bytes");
    tail(instruction, modifiers, 3, true);
    require_tensor(instruction, 1);
    require(instruction, is_address(instruction, 0) && is_address(instruction, 2),
            "the destination or the mbarrier is not an address");
    instruction.execute = load_tile;
  }
  modifiers.end();
}

void decode_tile_reduction(Instruction& instruction, Modifiers& modifiers) {
  decode_rank(instruction, modifiers);
  modifiers.expect("global");
  modifiers.expect("shared::cta");
  instruction.detail[kReduction] = static_cast<uint64_t>(reduction(modifiers));
  modifiers.accept("tile");
  modifiers.expect("bulk_group");
  tail(instruction, modifiers, 2, false);
  modifiers.end();
  require_tensor(instruction, 0);
  require(instruction, is_address(instruction, 1), "the source is not an address");
  instruction.execute = store_tile<true>;
}

void decode_prefetch(Instruction& instruction, Modifiers& modifiers) {
  const bool is_tensor = modifiers.accept("tensor");
  if (is_tensor) decode_rank(instruction, modifiers);
  modifiers.expect("L2");
  modifiers.expect("global");
  if (is_tensor) {
    modifiers.accept("tile");
    tail(instruction, modifiers, 1, false);
    require_tensor(instruction, 0);
    instruction.execute = prefetch_map;
  } else {
    tail(instruction, modifiers, 2, false);
    require(instruction, is_address(instruction, 0) && is_source(instruction.operands[1]),
            "the operands are not [address], size");
    instruction.execute = prefetch_piece;
  }
  modifiers.end();
}

void decode_wait(Instruction& instruction, Modifiers& modifiers) {
  modifiers.accept("read");
  modifiers.end();
  const auto& operands = instruction.operands;
  require(instruction, operands.size() == 1 && operands[0].kind == Operand::Kind::kConstant && operands[0].constant,
          "the operand is not a number");
  instruction.detail[kGroups] = (*operands[0].constant)[0];
  instruction.execute = wait_group;
}

bool decode_cp(Instruction& instruction) {
  Modifiers modifiers(instruction);
  const bool reduces = modifiers.accept("reduce");
  if (!modifiers.accept("async") || !modifiers.accept("bulk")) return false;
  if (reduces) {
    (modifiers.accept("tensor") ? decode_tile_reduction : decode_reduction)(instruction, modifiers);
  } else if (modifiers.accept("tensor")) {
    decode_tile(instruction, modifiers);
  } else if (modifiers.accept("prefetch")) {
    decode_prefetch(instruction, modifiers);
  } else if (modifiers.accept("wait_group")) {
    decode_wait(instruction, modifiers);
  } else if (modifiers.accept("commit_group")) {
    modifiers.end();
    require(instruction, instruction.operands.empty(), "an operand");
    instruction.execute = commit_group;
  } else {
    decode_piece(instruction, modifiers);
  }
  return true;
}

// prefetch{.const, .param}.tensormap [map]; other forms belong to memory.cc.
bool decode_prefetch_map(Instruction& instruction) {
  if (!instruction.has("tensormap")) return false;
  Modifiers modifiers(instruction);
  if (!modifiers.accept("const")) modifiers.accept("param");
  modifiers.expect("tensormap");
  modifiers.end();
  require(instruction, instruction.operands.size() == 1 && is_address(instruction, 0), "the operand is not an address");
  instruction.execute = prefetch_map;
  return true;
}

}  // namespace

void add_copy_bulk(InstructionSet& set) {
  set.add("cp", decode_cp);
  set.add("prefetch", decode_prefetch_map);
}

}  // namespace ptx
