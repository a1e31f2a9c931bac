#include "kernels.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>

#include "device.h"
#include "standin.h"

namespace standin {
namespace {

std::mutex mutex;
std::map<const void*, Kernel>& kernels() {
  static auto* all = new std::map<const void*, Kernel>();
  return *all;
}

struct Source {
  std::string text;
  ptx_module* module = nullptr;
};

std::string directory;
bool scanned = false;
std::map<std::string, Source>& sources() {  // by path
  static auto* all = new std::map<std::string, Source>();
  return *all;
}
std::map<std::string, ptx_module*>& found_modules() {  // by entry: the texts are long
  static auto* all = new std::map<std::string, ptx_module*>();
  return *all;
}

// Reads every PTX file for the device's architecture. Only what is needed is parsed.
void scan() {
  scanned = true;
  const char* fallback = std::getenv("NODE_ATTENTION_STANDIN_PTX");
  const std::string root = !directory.empty() ? directory : fallback ? fallback : "";
  const auto folder = [&](const char* name) {
    std::error_code none;
    for (const auto& file : std::filesystem::directory_iterator(root + "/" + name, none)) {
      if (file.path().extension() != ".ptx") continue;
      std::ostringstream text;
      text << std::ifstream(file.path()).rdbuf();
      sources()[file.path().string()].text = text.str();
    }
  };
  if (device().major >= 9) folder("compute_90a");
  folder("compute_80");
}

bool has_entry(const std::string& text, const std::string& entry) {
  for (size_t at = text.find(entry); at != std::string::npos; at = text.find(entry, at + 1)) {
    constexpr std::string_view kEntry = ".entry ";
    const char next = text[at + entry.size()];
    if (at >= kEntry.size() && text.compare(at - kEntry.size(), kEntry.size(), kEntry) == 0 &&
        (next == '(' || next == ' ' || next == '\n')) {
      return true;
    }
  }
  return false;
}

}  // namespace

Kernel* find_kernel(const void* host_function) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = kernels().find(host_function);
  return found == kernels().end() ? nullptr : &found->second;
}

void add_kernel(const void* host_function, const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  kernels()[host_function].name = name;
}

ptx_module* find_module(const std::string& entry, std::string& problem) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!scanned) scan();
  const auto known = found_modules().find(entry);
  if (known != found_modules().end()) return known->second;
  // compute_90a is last in the order of paths, and preferred.
  for (auto source = sources().rbegin(); source != sources().rend(); ++source) {
    if (!has_entry(source->second.text, entry)) continue;
    ptx_module*& module = source->second.module;
    char error[4096] = {};
    if (!module) module = ptx_load(source->second.text.c_str(), error, sizeof error);
    if (!module) problem = source->first + ": " + error;
    if (module) found_modules()[entry] = module;
    return module;
  }
  problem = "no PTX for this device has the kernel " + entry;
  return nullptr;
}

}  // namespace standin

void standin_ptx_directory(const char* path) {
  const std::lock_guard<std::mutex> lock(standin::mutex);
  standin::directory = path;
  standin::scanned = false;
  standin::found_modules().clear();
}
