#include "diagnostics.h"

#include <cstdio>

namespace ptx {

std::string place(const Instruction& instruction) {
  std::string text(instruction.text);
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return "line " + std::to_string(instruction.line) + ": " + text;
}

std::string thread_name(const Cta& cta, int warp, int lane) {
  const uint32_t* block = cta.index();
  std::string name = "block " + std::to_string(block[0]) + "," + std::to_string(block[1]) + "," +
                     std::to_string(block[2]) + " warp " + std::to_string(warp);
  if (lane >= 0) name += " lane " + std::to_string(lane);
  return name;
}

std::string hexadecimal(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string places(Cta& cta) {
  std::string lines;
  for (const auto& warp : cta.warps()) lines += warp->waits_for();
  return lines;
}

std::string deadlock_report(Cta& cta) {
  const uint32_t* block = cta.index();
  return "deadlock in block " + std::to_string(block[0]) + "," + std::to_string(block[1]) + "," +
         std::to_string(block[2]) + ": no thread can go on" + places(cta);
}

}  // namespace ptx
