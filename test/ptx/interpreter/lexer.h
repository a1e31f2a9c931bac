// PTX text as tokens. Words keep their dots ("ld.shared::cta.b32", "%tid.x", ".reg"), since PTX gives them no meaning
// that depends on what surrounds them.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

struct Token {
  enum class Kind { kWord, kString, kPunctuation, kEnd };
  Kind kind = Kind::kEnd;
  std::string_view text;
  int line = 0;  // from 1

  bool is_directive() const { return kind == Kind::kWord && text[0] == '.'; }
  bool is(std::string_view expected) const { return text == expected && kind != Kind::kString; }
};

struct ParseError : std::runtime_error {
  ParseError(int line, const std::string& what);
};

// The tokens of the source, which must outlive them; the last is kEnd. Comments are left out.
std::vector<Token> tokenize(std::string_view source);

}  // namespace ptx
