#include "parser.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <utility>

#include "instruction_set.h"
#include "lexer.h"
#include "memory.h"

namespace ptx {
namespace {

const std::unordered_map<std::string_view, int>& special_registers() {
  static const std::unordered_map<std::string_view, int> names = {
      {"%tid.x", kTidX},
      {"%tid.y", kTidY},
      {"%tid.z", kTidZ},
      {"%ntid.x", kNtidX},
      {"%ntid.y", kNtidY},
      {"%ntid.z", kNtidZ},
      {"%ctaid.x", kCtaidX},
      {"%ctaid.y", kCtaidY},
      {"%ctaid.z", kCtaidZ},
      {"%nctaid.x", kNctaidX},
      {"%nctaid.y", kNctaidY},
      {"%nctaid.z", kNctaidZ},
      {"%laneid", kLaneid},
      {"%warpid", kWarpid},
      {"%nwarpid", kNwarpid},
      {"%smid", kSmid},
      {"%nsmid", kNsmid},
      {"%gridid", kGridid},
      {"%lanemask_eq", kLanemaskEq},
      {"%lanemask_le", kLanemaskLe},
      {"%lanemask_lt", kLanemaskLt},
      {"%lanemask_ge", kLanemaskGe},
      {"%lanemask_gt", kLanemaskGt},
      {"%clock", kClock},
      {"%clock_hi", kClockHi},
      {"%clock64", kClock64},
      {"%globaltimer", kGlobaltimer},
      {"%globaltimer_lo", kGlobaltimerLo},
      {"%globaltimer_hi", kGlobaltimerHi},
      {"%clusterid.x", kClusteridX},
      {"%clusterid.y", kClusteridY},
      {"%clusterid.z", kClusteridZ},
      {"%nclusterid.x", kNclusteridX},
      {"%nclusterid.y", kNclusteridY},
      {"%nclusterid.z", kNclusteridZ},
      {"%cluster_ctaid.x", kClusterCtaidX},
      {"%cluster_ctaid.y", kClusterCtaidY},
      {"%cluster_ctaid.z", kClusterCtaidZ},
      {"%cluster_nctaid.x", kClusterNctaidX},
      {"%cluster_nctaid.y", kClusterNctaidY},
      {"%cluster_nctaid.z", kClusterNctaidZ},
      {"%cluster_ctarank", kClusterCtarank},
      {"%cluster_nctarank", kClusterNctarank},
      {"%is_explicit_cluster", kIsExplicitCluster},
      {"%dynamic_smem_size", kDynamicSmemSize},
      {"%total_smem_size", kTotalSmemSize},
  };
  return names;
}

uint64_t bytes_of(std::string_view type, int line) {
  static const std::unordered_map<std::string_view, uint64_t> sizes = {
      {".b8", 1},   {".u8", 1},  {".s8", 1},    {".b16", 2},    {".u16", 2},  {".s16", 2},  {".f16", 2},
      {".bf16", 2}, {".b32", 4}, {".u32", 4},   {".s32", 4},    {".f32", 4},  {".b64", 8},  {".u64", 8},
      {".s64", 8},  {".f64", 8}, {".f16x2", 4}, {".bf16x2", 4}, {".pred", 1}, {".b128", 16}};
  const auto found = sizes.find(type);
  if (found == sizes.end()) throw ParseError(line, "unknown type " + std::string(type));
  return found->second;
}

uint64_t align_up(uint64_t value, uint64_t align) { return (value + align - 1) / align * align; }

// What a name of the text stands for.
struct Symbol {
  enum class Kind { kRegister, kPredicate, kAddress, kShared };
  Kind kind;
  int index = -1;        // of registers and predicates, the first of a range
  int count = 0;         // of a range: %r<9> is %r0 to %r8; 0 for a single name
  uint64_t address = 0;  // of variables, in their space
};
using Scope = std::unordered_map<std::string_view, Symbol>;

std::shared_ptr<const Row> constant_row(uint64_t bits) {
  auto row = std::make_shared<Row>();
  row->fill(bits);
  return row;
}

class Parser {
 public:
  explicit Parser(std::string source) : module_(std::make_unique<Module>()) {
    module_->source = std::move(source);
    tokens_ = tokenize(module_->source);
  }

  std::unique_ptr<Module> run() {
    scopes_.emplace_back();
    while (peek().kind != Token::Kind::kEnd) module_item();
    place_shared();
    add_callable();
    for (const Pending& pending : pending_) resolve(pending);
    for (Instruction& instruction : module_->code) instruction_set().decode(instruction);
    return std::move(module_);
  }

 private:
  // An operand that could not be resolved where it stood: a label or function that follows, or shared memory, which is
  // placed when all of the module is known.
  struct Pending {
    size_t instruction;
    std::vector<int> path;  // operand, then element within vectors
    std::string_view name;
    int function;
    int line;
  };
  struct SharedVariable {
    std::string_view name;
    uint64_t size, align;
    int function;  // -1: of the module
    bool dynamic;
    uint64_t address;
  };

  // --- tokens

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() {
    const Token& token = peek();
    if (token.kind != Token::Kind::kEnd) at_++;
    return token;
  }
  bool accept(std::string_view text) {
    if (!peek().is(text)) return false;
    at_++;
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) fail("expected '" + std::string(text) + "' instead of '" + std::string(peek().text) + "'");
  }
  [[noreturn]] void fail(const std::string& what) const { throw ParseError(peek().line, what); }
  void skip_to(std::string_view end) {
    while (!peek().is(end)) {
      if (next().kind == Token::Kind::kEnd) fail("the text ends before '" + std::string(end) + "'");
    }
    at_++;
  }

  static std::optional<uint64_t> integer(std::string_view text) {
    if (text.empty() || text[0] < '0' || text[0] > '9') return std::nullopt;
    std::string digits(text);
    if (digits.back() == 'U') digits.pop_back();
    char* end = nullptr;
    const uint64_t value = digits.compare(0, 2, "0b") == 0 ? std::strtoull(digits.c_str() + 2, &end, 2)
                                                           : std::strtoull(digits.c_str(), &end, 0);
    return *end == 0 ? std::optional<uint64_t>(value) : std::nullopt;
  }
  uint64_t number() {
    const auto value = integer(peek().text);
    if (!value) fail("expected a number instead of '" + std::string(peek().text) + "'");
    at_++;
    return *value;
  }
  // A number literal of any kind as bits; a decimal fraction takes its width from the instruction.
  std::optional<uint64_t> literal(std::string_view text, bool negative, bool is_double) const {
    if (text.size() == 10 && (text.compare(0, 2, "0f") == 0 || text.compare(0, 2, "0F") == 0)) {
      const uint64_t bits = std::strtoull(std::string(text.substr(2)).c_str(), nullptr, 16);
      return negative ? bits ^ 0x8000'0000u : bits;
    }
    if (text.size() == 18 && (text.compare(0, 2, "0d") == 0 || text.compare(0, 2, "0D") == 0)) {
      const uint64_t bits = std::strtoull(std::string(text.substr(2)).c_str(), nullptr, 16);
      return negative ? bits ^ (uint64_t{1} << 63) : bits;
    }
    if (const auto value = integer(text)) return negative ? 0 - *value : *value;
    if (!text.empty() && text[0] >= '0' && text[0] <= '9' && text.find('.') != std::string_view::npos) {
      const std::string digits(text);
      char* end = nullptr;
      const double value = std::strtod(digits.c_str(), &end) * (negative ? -1 : 1);
      if (*end != 0) return std::nullopt;
      uint64_t bits = 0;
      const auto single = static_cast<float>(value);
      if (is_double) {
        std::memcpy(&bits, &value, sizeof value);
      } else {
        std::memcpy(&bits, &single, sizeof single);
      }
      return bits;
    }
    if (text == "WARP_SZ") return kLanes;
    return std::nullopt;
  }

  // --- the module

  void module_item() {
    const Token& token = next();
    if (token.is(".version") || token.is(".address_size")) {
      next();
    } else if (token.is(".target")) {
      const std::string name(next().text);
      if (name.compare(0, 3, "sm_") != 0) fail("unknown target " + name);
      module_->target = std::atoi(name.c_str() + 3);
      while (accept(",")) next();
    } else if (token.is(".file")) {
      while (peek().line == token.line) next();
    } else if (token.is(".section")) {
      skip_to("}");
    } else if (token.is(".pragma")) {
      skip_to(";");
    } else if (token.is(".visible") || token.is(".weak") || token.is(".common") || token.is(".extern")) {
      external_ = token.is(".extern");
    } else if (token.is(".entry")) {
      function(true);
    } else if (token.is(".func")) {
      function(false);
    } else if (token.is(".global") || token.is(".const") || token.is(".shared")) {
      variable(token.text, -1);
    } else if (!token.is(";")) {
      at_--;
      fail("unexpected '" + std::string(token.text) + "'");
    }
  }

  // .space [.align n] .type name[extent]... [= values] ; several names may follow each other.
  void variable(std::string_view space, int function) {
    uint64_t align = 0;
    std::string_view type;
    while (peek().is_directive()) {
      if (accept(".align")) {
        align = number();
      } else if (accept(".attribute")) {
        skip_to(")");
      } else {
        type = next().text;
      }
    }
    const uint64_t element = bytes_of(type, peek().line);
    align = std::max(align, element);
    do {
      const std::string_view name = next().text;
      uint64_t size = element;
      bool sized = true;
      while (accept("[")) {
        if (accept("]")) {
          sized = false;
        } else {
          size *= number();
          expect("]");
        }
      }
      std::vector<uint8_t> values;
      if (accept("=")) initial_values(element, values);
      if (!sized) size = values.size();
      place(space, name, {std::string(name), size, align, 0}, values, function);
    } while (accept(","));
    expect(";");
    external_ = false;
  }

  void initial_values(uint64_t element, std::vector<uint8_t>& bytes) {
    if (accept("{")) {
      do initial_values(element, bytes);
      while (accept(","));
      expect("}");
      return;
    }
    const bool negative = accept("-");
    const auto bits = literal(peek().text, negative, element == 8);
    if (!bits) fail("an initial value that is not a number is not supported");
    at_++;
    for (uint64_t i = 0; i < element; i++) bytes.push_back(static_cast<uint8_t>(*bits >> 8 * i));
  }

  void place(std::string_view space, std::string_view name, Variable variable, const std::vector<uint8_t>& values,
             int function) {
    Symbol symbol = {Symbol::Kind::kAddress};
    if (space == ".shared") {
      symbol.kind = Symbol::Kind::kShared;
      shared_.push_back({name, variable.size, variable.align, function, external_, 0});
    } else if (space == ".local") {
      symbol.address = module_->local_bytes = align_up(module_->local_bytes, std::max<uint64_t>(variable.align, 16));
      module_->local_bytes += variable.size;
    } else if (space == ".param") {
      module_->call_bytes = align_up(module_->call_bytes, std::max<uint64_t>(variable.align, 16));
      symbol.address = kParamWindow + kCallParameters + module_->call_bytes;
      module_->call_bytes += variable.size;
    } else {
      if (external_) fail("an external global variable is not supported");
      // Each has an allocation of its own, so that running over its end is found.
      auto storage = std::make_unique<uint8_t[]>(variable.size + variable.align);
      auto base = reinterpret_cast<uint64_t>(storage.get());
      variable.address = symbol.address = align_up(base, variable.align);
      std::copy(values.begin(), values.end(), reinterpret_cast<uint8_t*>(variable.address));
      module_->storage.push_back(std::move(storage));
      module_->globals.push_back(std::move(variable));
    }
    scopes_.back()[name] = symbol;
  }

  // --- functions

  void function(bool is_entry) {
    Function function;
    function.is_entry = is_entry;
    const int index = static_cast<int>(module_->functions.size());
    scopes_.emplace_back();
    if (!is_entry && accept("(")) parameters(function.results, false);
    function.name = std::string(next().text);
    if (accept("(")) parameters(function.parameters, is_entry);
    for (const Variable& p : function.parameters) {
      function.parameter_bytes = std::max(function.parameter_bytes, p.address + p.size);
    }
    while (!peek().is("{") && !peek().is(";")) performance_directive(function);
    if (accept(";")) {  // a declaration; the definition may follow
      scopes_.pop_back();
      external_ = false;
      return;
    }
    module_->functions.push_back(function);
    module_->function_by_name[function.name] = index;
    labels_.emplace_back();
    module_->functions[index].first = static_cast<int>(module_->code.size());
    // An entry may lie where others do, but not where a function that it calls does.
    registers_ = is_entry ? callable_registers_ : most_registers_;
    predicates_ = is_entry ? callable_predicates_ : most_predicates_;
    expect("{");
    body(index);
    final_ret();
    scopes_.pop_back();
    module_->functions[index].end = static_cast<int>(module_->code.size());
    module_->functions[index].registers = registers_;
    module_->functions[index].predicates = predicates_;
    most_registers_ = std::max(most_registers_, registers_);
    most_predicates_ = std::max(most_predicates_, predicates_);
    if (is_entry) return;
    callable_registers_ = registers_;
    callable_predicates_ = predicates_;
  }

  void performance_directive(Function& function) {
    const Token& token = next();
    if (token.is(".maxntid") || token.is(".reqntid")) {
      function.max_threads = static_cast<int>(number());
      while (accept(",")) function.max_threads *= static_cast<int>(number());
    } else if (token.is(".minnctapersm") || token.is(".maxnreg") || token.is(".maxclusterrank")) {
      number();
    } else if (token.is(".reqnctapercluster")) {
      do
        if (number() != 1) fail("clusters of more than one block are not supported");
      while (accept(","));
    } else if (!token.is(".explicitcluster") && !token.is(".noreturn") && !token.is(".blocksareclusters")) {
      at_--;
      fail("unknown directive '" + std::string(token.text) + "'");
    }
  }

  // (.param [.align n] .type name[size], ...). Those of an entry are laid out as the launch gives them.
  void parameters(std::vector<Variable>& list, bool is_entry) {
    uint64_t offset = 0;
    if (accept(")")) return;
    do {
      Variable variable;
      uint64_t align = 0;
      std::string_view type;
      while (peek().is_directive()) {
        if (accept(".align")) {
          align = number();
        } else if (accept(".ptr")) {  // what a pointer parameter points to says nothing about the parameter
          if (peek().is(".global") || peek().is(".shared") || peek().is(".local") || peek().is(".const")) next();
          if (accept(".align")) number();
        } else if (!accept(".param") && !accept(".reg")) {
          type = next().text;
        }
      }
      const std::string_view name = next().text;
      variable.name = std::string(name);
      variable.size = bytes_of(type, peek().line);
      variable.align = std::max(align, variable.size);
      while (accept("[")) {
        variable.size *= number();
        expect("]");
      }
      if (is_entry) {
        offset = variable.address = align_up(offset, variable.align);
        offset += variable.size;
        scopes_.back()[name] = {Symbol::Kind::kAddress, -1, 0, kParamWindow + variable.address};
      } else {
        place(".param", name, variable, {}, -1);
        variable.address = scopes_.back()[name].address;
      }
      list.push_back(std::move(variable));
    } while (accept(","));
    expect(")");
  }

  void body(int function) {
    const size_t depth = scopes_.size();
    while (scopes_.size() >= depth) {
      const Token& token = next();
      if (token.kind == Token::Kind::kEnd) fail("a function does not end");
      if (token.is("{")) {
        scopes_.emplace_back();
      } else if (token.is("}")) {
        if (scopes_.size() == depth) return;
        scopes_.pop_back();
      } else if (token.is(".reg")) {
        registers();
      } else if (token.is(".local") || token.is(".shared") || token.is(".param")) {
        variable(token.text, function);
      } else if (token.is(".pragma")) {
        skip_to(";");
      } else if (token.is(".loc")) {
        while (peek().line == token.line) next();
      } else if (token.is_directive()) {
        at_--;
        fail("unknown directive '" + std::string(token.text) + "'");
      } else if (peek().is(":") && token.kind == Token::Kind::kWord) {
        at_++;
        labels_[function][token.text] = static_cast<int>(module_->code.size());
      } else if (!token.is(";")) {
        at_--;
        instruction(function);
      }
    }
  }

  // .reg .type %a<n>, %b;
  void registers() {
    const std::string_view type = next().text;
    bytes_of(type, peek().line);
    if (type == ".b128") fail("registers of 128 bits are not supported");
    const bool predicate = type == ".pred";
    do {
      const std::string_view name = next().text;
      int count = 0;
      if (accept("<")) {
        count = static_cast<int>(number());
        expect(">");
      }
      int& used = predicate ? predicates_ : registers_;
      scopes_.back()[name] = {predicate ? Symbol::Kind::kPredicate : Symbol::Kind::kRegister, used, count};
      used += std::max(count, 1);
    } while (accept(","));
    expect(";");
  }

  // --- instructions

  void instruction(int function) {
    Instruction instruction;
    const char* begin = peek().text.data();
    instruction.line = peek().line;
    if (accept("@")) {
      instruction.guard_negated = accept("!");
      Operand guard;
      if (!named(next().text, guard) || guard.kind != Operand::Kind::kPredicate) fail("a guard that is no predicate");
      instruction.guard = guard.index;
    }
    split_opcode(next().text, instruction);
    const bool is_double = instruction.type() == "f64";
    const size_t index = module_->code.size();
    if (!peek().is(";")) {
      do {
        std::vector<int> path = {static_cast<int>(instruction.operands.size())};
        Operand given = operand(index, function, path, is_double);
        if (given.kind == Operand::Kind::kConstant) given.offset = displacement_of(given);
        instruction.operands.push_back(std::move(given));
      } while (accept(","));
    }
    const Token& end = peek();
    expect(";");
    instruction.text = std::string_view(begin, static_cast<size_t>(end.text.data() + 1 - begin));
    module_->code.push_back(std::move(instruction));
    if (module_->code.back().opcode == "call") take_results(index);
  }

  // A second instruction behind each call, which lanes reach when they have come back (instructions/control.cc).
  void take_results(size_t call) {
    Instruction results = module_->code[call];
    results.modifiers.push_back("results");
    module_->code.push_back(std::move(results));
    for (size_t i = 0, count = pending_.size(); i < count; i++) {
      Pending pending = pending_[i];
      if (pending.instruction != call) continue;
      pending.instruction = call + 1;
      pending_.push_back(std::move(pending));
    }
  }

  // A body may end without ret.
  void final_ret() {
    Instruction ret;
    ret.text = tokens_[at_ - 1].text;
    ret.line = tokens_[at_ - 1].line;
    ret.opcode = "ret";
    module_->code.push_back(std::move(ret));
  }

  // Of a variable whose address is an operand (mov.u64 %rd1, table+16): becomes part of the constant.
  int64_t displacement_of(Operand& operand) {
    const int64_t offset = displacement();
    if (offset != 0 && operand.constant) {
      operand.constant = constant_row((*operand.constant)[0] + static_cast<uint64_t>(offset));
    }
    return offset;
  }

  static void split_opcode(std::string_view text, Instruction& instruction) {
    size_t dot = text.find('.');
    instruction.opcode = text.substr(0, dot);
    while (dot != std::string_view::npos) {
      const size_t start = dot + 1;
      dot = text.find('.', start);
      instruction.modifiers.push_back(text.substr(start, dot == std::string_view::npos ? dot : dot - start));
    }
  }

  // The path tells where in the instruction the operand will be, for names that are resolved later.
  Operand operand(size_t instruction, int function, std::vector<int>& path, bool is_double) {
    Operand result;
    if (accept("!")) {
      result = operand(instruction, function, path, is_double);
      if (result.kind != Operand::Kind::kPredicate) fail("'!' before something that is no predicate");
      result.negated = !result.negated;
      return result;
    }
    if (peek().is("{") || peek().is("(")) {
      const std::string_view end = next().is("{") ? "}" : ")";
      result.kind = Operand::Kind::kVector;
      if (accept(end)) return result;
      do {
        path.push_back(static_cast<int>(result.elements.size()));
        result.elements.push_back(operand(instruction, function, path, is_double));
        path.pop_back();
      } while (accept(","));
      expect(end);
      return result;
    }
    if (accept("[")) return address(instruction, function, path, is_double);
    const bool negative = accept("-");
    const Token& token = next();
    if (const auto bits = literal(token.text, negative, is_double)) {
      result.kind = Operand::Kind::kConstant;
      result.constant = constant_row(*bits);
      return result;
    }
    if (negative) fail("'-' before something that is no number");
    if (token.is("_")) {
      result.kind = Operand::Kind::kSink;
    } else if (!named(token.text, result)) {
      if (!token.text.empty() && token.text[0] == '%') {
        at_--;
        fail("unknown register " + std::string(token.text));
      }
      result.kind = Operand::Kind::kLabel;
      pending_.push_back({instruction, path, token.text, function, token.line});
    }
    if (result.kind == Operand::Kind::kConstant && result.index == kUnplaced) {
      pending_.push_back({instruction, path, token.text, function, token.line});
    }
    if (accept("|")) {
      Operand second;
      const Token& name = next();
      if (!name.is("_") && (!named(name.text, second) || second.kind != Operand::Kind::kPredicate)) {
        at_--;
        fail("after '|' a predicate is expected");
      }
      result.pair = second.index;
    }
    return result;
  }

  // + 4, - 4, +-4, or nothing
  int64_t displacement() {
    int64_t sum = 0;
    while (peek().is("+") || peek().is("-")) {
      const bool minus = next().is("-") != accept("-");
      const auto value = static_cast<int64_t>(number());
      sum += minus ? -value : value;
    }
    return sum;
  }

  // [base], [base + offset], [base, {coordinates}]
  Operand address(size_t instruction, int function, std::vector<int>& path, bool is_double) {
    Operand base = operand(instruction, function, path, is_double), result;
    result.kind = Operand::Kind::kAddress;
    if (base.kind == Operand::Kind::kRegister) {
      result.index = base.index;
    } else if (base.kind == Operand::Kind::kConstant) {
      result.constant = base.constant;
    } else {
      fail("an address that is neither a register nor a variable nor a number");
    }
    result.offset = displacement();
    if (accept(",")) {
      std::vector<int> inner = path;
      const Operand coordinates = operand(instruction, function, inner, is_double);
      result.elements = coordinates.elements;
    }
    expect("]");
    return result;
  }

  static constexpr int kUnplaced = -2;  // a shared variable: its address is known at the end

  // A register, a special register or a variable in sight. False for other names.
  bool named(std::string_view name, Operand& operand) const {
    const auto special = special_registers().find(name);
    if (special != special_registers().end()) {
      operand.kind = Operand::Kind::kRegister;
      operand.index = special->second;
      return true;
    }
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end() && found->second.count == 0) {
        fill(found->second, 0, operand);
        return true;
      }
      // %r12 of a range %r<20>
      size_t digits = name.size();
      while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9') digits--;
      const auto range = scope->find(name.substr(0, digits));
      if (digits < name.size() && range != scope->end() && range->second.count > 0) {
        const int number = std::atoi(std::string(name.substr(digits)).c_str());
        if (number >= range->second.count) return false;
        fill(range->second, number, operand);
        return true;
      }
    }
    return false;
  }

  static void fill(const Symbol& symbol, int number, Operand& operand) {
    switch (symbol.kind) {
      case Symbol::Kind::kRegister:
        operand.kind = Operand::Kind::kRegister;
        operand.index = symbol.index + number;
        break;
      case Symbol::Kind::kPredicate:
        operand.kind = Operand::Kind::kPredicate;
        operand.index = symbol.index + number;
        break;
      case Symbol::Kind::kAddress:
        operand.kind = Operand::Kind::kConstant;
        operand.constant = constant_row(symbol.address);
        break;
      case Symbol::Kind::kShared:
        operand.kind = Operand::Kind::kConstant;
        operand.index = kUnplaced;
        break;
    }
  }

  // --- what is known only at the end

  // Shared memory of an entry: that of the module and of all device functions, its own, then the dynamic part.
  void place_shared() {
    uint64_t common = kSharedBase, dynamic_align = 16;
    for (SharedVariable& v : shared_) {
      if (v.dynamic) dynamic_align = std::max(dynamic_align, v.align);
      if (v.dynamic || (v.function >= 0 && module_->functions[v.function].is_entry)) continue;
      v.address = align_up(common, v.align);
      common = v.address + v.size;
    }
    dynamic_start_.resize(module_->functions.size());
    for (size_t f = 0; f < module_->functions.size(); f++) {
      if (!module_->functions[f].is_entry) continue;
      uint64_t end = common;
      for (SharedVariable& v : shared_) {
        if (v.dynamic || v.function != static_cast<int>(f)) continue;
        v.address = align_up(end, v.align);
        end = v.address + v.size;
      }
      dynamic_start_[f] = align_up(end, dynamic_align);
      module_->functions[f].static_shared = dynamic_start_[f] - kSharedBase;
    }
  }

  // What a launch needs of all that it may call.
  void add_callable() {
    for (Function& function : module_->functions) {
      function.local_bytes = module_->local_bytes;
      function.registers = std::max(function.registers, callable_registers_);
      function.predicates = std::max(function.predicates, callable_predicates_);
    }
  }

  uint64_t shared_address(const Pending& pending) const {
    const SharedVariable* found = nullptr;
    for (const SharedVariable& v : shared_) {
      if (v.name == pending.name && (v.function == pending.function || v.function < 0)) found = &v;
    }
    if (!found->dynamic) return found->address;
    if (module_->functions[pending.function].is_entry) return dynamic_start_[pending.function];
    uint64_t start = 0;
    for (size_t f = 0; f < module_->functions.size(); f++) {
      if (!module_->functions[f].is_entry) continue;
      if (start != 0 && start != dynamic_start_[f]) {
        throw ParseError(pending.line,
                         "a device function uses dynamic shared memory that starts elsewhere in each kernel");
      }
      start = dynamic_start_[f];
    }
    return start;
  }

  void resolve(const Pending& pending) {
    Operand* operand = &module_->code[pending.instruction].operands[pending.path[0]];
    for (size_t i = 1; i < pending.path.size(); i++) operand = &operand->elements[pending.path[i]];
    const bool is_shared = operand->kind == Operand::Kind::kAddress || operand->kind == Operand::Kind::kConstant;
    if (is_shared) {
      const bool is_constant = operand->kind == Operand::Kind::kConstant;
      operand->constant =
          constant_row(shared_address(pending) + static_cast<uint64_t>(is_constant ? operand->offset : 0));
      operand->index = -1;
      return;
    }
    const auto& labels = labels_[pending.function];
    const auto label = labels.find(pending.name);
    if (label != labels.end()) {
      operand->index = label->second;
      return;
    }
    const auto function = module_->function_by_name.find(pending.name);
    if (function == module_->function_by_name.end()) {
      throw ParseError(pending.line, "unknown name " + std::string(pending.name));
    }
    operand->kind = Operand::Kind::kFunction;
    operand->index = function->second;
  }

  std::unique_ptr<Module> module_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  bool external_ = false;
  // Where the next register is, where those of functions that can be called end, and those of all.
  int registers_ = kSpecials, callable_registers_ = kSpecials, most_registers_ = kSpecials;
  int predicates_ = 0, callable_predicates_ = 0, most_predicates_ = 0;
  std::vector<Scope> scopes_;
  std::vector<std::unordered_map<std::string_view, int>> labels_;  // of each function
  std::vector<SharedVariable> shared_;
  std::vector<uint64_t> dynamic_start_;  // of each entry
  std::vector<Pending> pending_;
};

}  // namespace

std::unique_ptr<Module> parse(std::string source) { return Parser(std::move(source)).run(); }

}  // namespace ptx
