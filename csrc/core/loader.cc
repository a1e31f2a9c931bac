#include "core/loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace na {
namespace {

constexpr const char* kLibrary = "libnode_attention_cuda.so";
constexpr int kOldestDriver = 12080;  // CUDA 12.8, what the shipped machine code needs

// The addon's own folder, by the address of a function in it; the current directory and the loader's search
// path are never asked.
std::string addon_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(&load_cuda_backend), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

LoadedBackend unusable(const char* reason, std::string message) { return {nullptr, reason, std::move(message)}; }

}  // namespace

LoadedBackend load_cuda_backend() {
  const char* wanted = getenv("NODE_ATTENTION_DEVICE");
  if (wanted && strcmp(wanted, "cpu") == 0) {
    return unusable("disabled", "NODE_ATTENTION_DEVICE=cpu keeps the CUDA backend closed");
  }
  if (wanted && *wanted) {
    return unusable("disabled",
                    std::string("NODE_ATTENTION_DEVICE=") + wanted + " is not known: set it to cpu, or unset it");
  }
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver) {
    const char* text = dlerror();
    return unusable("no-driver", std::string("no NVIDIA driver: ") + (text ? text : "libcuda.so.1 not found"));
  }
  using Initialise = int (*)(unsigned);
  using GetInt = int (*)(int*);
  const auto initialise = reinterpret_cast<Initialise>(dlsym(driver, "cuInit"));
  const auto version = reinterpret_cast<GetInt>(dlsym(driver, "cuDriverGetVersion"));
  const auto count = reinterpret_cast<GetInt>(dlsym(driver, "cuDeviceGetCount"));
  int driver_version = 0, devices = 0;
  if (!initialise || !version || !count || version(&driver_version)) {
    return unusable("load-failed", "libcuda.so.1 lacks cuInit, cuDriverGetVersion or cuDeviceGetCount");
  }
  if (driver_version < kOldestDriver) {
    return unusable("driver-too-old", "the NVIDIA driver speaks CUDA " + std::to_string(driver_version / 1000) + "." +
                                          std::to_string(driver_version % 1000 / 10) +
                                          "; install one for 12.8 or newer");
  }
  if (initialise(0) || count(&devices) || devices == 0) {
    return unusable("no-device", "the NVIDIA driver is installed but reports no device");
  }
  const std::string path = addon_folder() + kLibrary;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* text = dlerror();
    const std::string reason = text ? text : path;
    const bool missing = reason.find("No such file") != std::string::npos;
    return unusable(missing ? "library-missing" : "load-failed", reason);
  }
  const auto entry = reinterpret_cast<na_backend_entry>(dlsym(library, "node_attention_backend"));
  const na_backend* table = entry ? entry(NA_BACKEND_ABI) : nullptr;
  if (!table || table->abi != NA_BACKEND_ABI || table->size != sizeof(na_backend)) {
    return unusable("load-failed", path + " was built for another version of node-attention: reinstall the package");
  }
  if (table->device_count() == 0) {
    return unusable("unsupported-arch",
                    "no device has an architecture that " + path + " was built for (sm_80 or newer)");
  }
  return {table, "ok", ""};
}

}  // namespace na
