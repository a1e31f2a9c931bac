#include "lexer.h"

#include <cctype>

namespace ptx {
namespace {

bool in_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
}

}  // namespace

ParseError::ParseError(int line, const std::string& what)
    : std::runtime_error("line " + std::to_string(line) + ": " + what) {}

std::vector<Token> tokenize(std::string_view source) {
  std::vector<Token> tokens;
  int line = 1;
  size_t at = 0;
  const auto starts = [&](std::string_view text) { return source.substr(at, text.size()) == text; };
  while (at < source.size()) {
    const char c = source[at];
    if (c == '\n') {
      line++;
      at++;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      at++;
    } else if (starts("//")) {
      while (at < source.size() && source[at] != '\n') at++;
    } else if (starts("/*")) {
      const size_t end = source.find("*/", at + 2);
      if (end == std::string_view::npos) throw ParseError(line, "a comment does not end");
      for (; at < end + 2; at++) line += source[at] == '\n';
    } else if (c == '"') {
      const size_t end = source.find('"', at + 1);
      if (end == std::string_view::npos) throw ParseError(line, "a string does not end");
      tokens.push_back({Token::Kind::kString, source.substr(at + 1, end - at - 1), line});
      at = end + 1;
    } else if (in_word(c)) {
      const size_t start = at++;
      // Directives may follow each other without a space: ".reg.b16".
      const bool is_directive = c == '.';
      while (!(is_directive && source[at] == '.') && at < source.size() &&
             (in_word(source[at]) || (starts("::") && in_word(source[at + 2])))) {
        at += source[at] == ':' ? 2 : 1;
      }
      tokens.push_back({Token::Kind::kWord, source.substr(start, at - start), line});
    } else {
      tokens.push_back({Token::Kind::kPunctuation, source.substr(at, 1), line});
      at++;
    }
  }
  tokens.push_back({Token::Kind::kEnd, {}, line});
  return tokens;
}

}  // namespace ptx
