// ldmatrix, stmatrix, movmatrix: 8x8 matrices of 16-bit elements between shared memory and the registers of a warp.
#include "../instruction_set.h"
#include "../machine.h"
#include "collective.h"
#include "form.h"

namespace ptx {
namespace {

constexpr int kSide = 8;
constexpr uint64_t kRowBytes = 16;

struct Matrix {
  uint16_t element[kSide][kSide];
};

// A fragment: each lane holds two neighbours of a row, four lanes a row.
uint16_t& held(Matrix& matrix, int lane, int half) { return matrix.element[lane / 4][lane % 4 * 2 + half]; }

void to_row(Matrix& matrix, Row& row) {
  for (int lane = 0; lane < kLanes; lane++) {
    row[lane] = held(matrix, lane, 0) | static_cast<uint32_t>(held(matrix, lane, 1)) << 16;
  }
}

Matrix from_row(const Row& row) {
  Matrix matrix;
  for (int lane = 0; lane < kLanes; lane++) {
    held(matrix, lane, 0) = static_cast<uint16_t>(row[lane]);
    held(matrix, lane, 1) = static_cast<uint16_t>(row[lane] >> 16);
  }
  return matrix;
}

Matrix transposed(const Matrix& matrix) {
  Matrix result;
  for (int i = 0; i < kSide; i++) {
    for (int j = 0; j < kSide; j++) result.element[i][j] = matrix.element[j][i];
  }
  return result;
}

// --- ldmatrix, stmatrix

enum Detail { kTransposed, kSpace };

// The addresses of the rows of matrix m come from lanes 8m to 8m + 7. The address is the last operand of ldmatrix and
// the first of stmatrix.
uint8_t* row_of(Warp& warp, const Instruction& instruction, const Operand& address, size_t matrix, int row,
                Access access) {
  const int lane = static_cast<int>(matrix) * kSide + row;
  const auto space = static_cast<Space>(instruction.detail[kSpace]);
  const uint64_t place = warp.address(address, lane);
  if (space == Space::kGeneric && (place & kWindowMask) != kSharedWindow) {
    warp.fault(instruction, lane, "the address is not in shared memory");
  }
  return warp.memory(instruction, lane, space, place, kRowBytes, kRowBytes, access);
}

Outcome ldmatrix(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  if (!assemble_warp(warp, instruction, lanes)) return Outcome::kWaiting;
  const auto& registers = instruction.operands[0].elements;
  Matrix matrices[4];  // read all, then write: the address may be one of the destinations
  for (size_t m = 0; m < registers.size(); m++) {
    for (int i = 0; i < kSide; i++) {
      std::memcpy(matrices[m].element[i], row_of(warp, instruction, instruction.operands[1], m, i, Access::kRead),
                  kRowBytes);
    }
  }
  for (size_t m = 0; m < registers.size(); m++) {
    if (instruction.detail[kTransposed] != 0) matrices[m] = transposed(matrices[m]);
    to_row(matrices[m], warp.destination(registers[m]));
  }
  return Outcome::kDone;
}

Outcome stmatrix(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  if (!assemble_warp(warp, instruction, lanes)) return Outcome::kWaiting;
  const auto& registers = instruction.operands[1].elements;
  for (size_t m = 0; m < registers.size(); m++) {
    Matrix matrix = from_row(warp.source(registers[m]));
    if (instruction.detail[kTransposed] != 0) matrix = transposed(matrix);
    for (int i = 0; i < kSide; i++) {
      std::memcpy(row_of(warp, instruction, instruction.operands[0], m, i, Access::kWrite), matrix.element[i],
                  kRowBytes);
    }
  }
  return Outcome::kDone;
}

// .sync.aligned.m8n8.x{1,2,4}{.trans}{.shared{::cta}}.b16. Unlike others, ptxas takes shape, number and .trans in any
// order, and published kernels do write the number first.
size_t decode_form(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.expect("sync");
  modifiers.expect("aligned");
  bool shape = false, transpose = false;
  size_t number = 0;
  for (;;) {
    if (!shape && modifiers.accept("m8n8")) {
      shape = true;
    } else if (!transpose && modifiers.accept("trans")) {
      transpose = true;
    } else if (number == 0 && modifiers.accept("x1")) {
      number = 1;
    } else if (number == 0 && modifiers.accept("x2")) {
      number = 2;
    } else if (number == 0 && modifiers.accept("x4")) {
      number = 4;
    } else {
      break;
    }
  }
  require(instruction, shape && number != 0, "the shape is not .m8n8 with .x1, .x2 or .x4");
  const bool shared = modifiers.accept("shared") || modifiers.accept("shared::cta");
  modifiers.expect("b16");
  modifiers.end();
  instruction.detail[kTransposed] = transpose;
  instruction.detail[kSpace] = static_cast<uint64_t>(shared ? Space::kShared : Space::kGeneric);
  return number;
}

bool decode_ldmatrix(Instruction& instruction) {
  const size_t number = decode_form(instruction);
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 2 && is_registers(operands[0], number) && operands[1].kind == Operand::Kind::kAddress,
          "the operands are not {registers}, [address]");
  instruction.execute = ldmatrix;
  return true;
}

bool decode_stmatrix(Instruction& instruction) {
  const size_t number = decode_form(instruction);
  const auto& operands = instruction.operands;
  require(instruction,
          operands.size() == 2 && operands[0].kind == Operand::Kind::kAddress && is_sources(operands[1], number),
          "the operands are not [address], {registers}");
  instruction.execute = stmatrix;
  return true;
}

// --- movmatrix

Outcome movmatrix(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  if (!assemble_warp(warp, instruction, lanes)) return Outcome::kWaiting;
  Matrix matrix = transposed(from_row(warp.source(instruction.operands[1])));
  to_row(matrix, warp.destination(instruction.operands[0]));
  return Outcome::kDone;
}

bool decode_movmatrix(Instruction& instruction) {
  Modifiers modifiers(instruction);
  for (const char* modifier : {"sync", "aligned", "m8n8", "trans", "b16"}) modifiers.expect(modifier);
  modifiers.end();
  require_no_pair(instruction);
  const auto& operands = instruction.operands;
  require(instruction, operands.size() == 2 && is_destination(operands[0]) && is_source(operands[1]),
          "the operands are not d, a");
  instruction.execute = movmatrix;
  return true;
}

}  // namespace

void add_matrix_move(InstructionSet& set) {
  set.add("ldmatrix", decode_ldmatrix);
  set.add("stmatrix", decode_stmatrix);
  set.add("movmatrix", decode_movmatrix);
}

}  // namespace ptx
