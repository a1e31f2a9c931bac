// PTX text to a Module whose instructions are decoded.
#pragma once

#include <memory>
#include <string>

#include "ir.h"

namespace ptx {

// Call parameters (.param variables of functions) lie this far into the parameter window, behind those of the entry.
constexpr uint64_t kCallParameters = uint64_t{1} << 40;

// Throws ParseError, or Unsupported for an instruction that no family knows.
std::unique_ptr<Module> parse(std::string source);

}  // namespace ptx
