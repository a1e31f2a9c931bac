#include "core/loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace na {
namespace {

constexpr const char* kLibrary = "libnode_attention_cuda.so";
constexpr int kOldestDriver = 12080;  // CUDA 12.8; a library may want a newer one
constexpr int kNoDevice = 100;        // CUDA_ERROR_NO_DEVICE

// The file that the address lies in.
std::string file_of(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

// The addon's own folder; the current directory and the loader's search path are never asked.
std::string addon_folder() {
  const std::string path = file_of(reinterpret_cast<const void*>(&load_cuda_backend));
  return path.substr(0, path.rfind('/') + 1);
}

// 12080 is CUDA 12.8.
std::string cuda_text(int version) {
  return "CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string devices_text(int count) { return std::to_string(count) + (count == 1 ? " device" : " devices"); }

// Looks for one thing after the other until something is missing.
class Search {
 public:
  LoadedBackend run() {
    if (allowed() && find_driver() && open_library() && fits()) result_.reason = "ok";
    return std::move(result_);
  }

 private:
  void step(std::string text) { result_.steps.push_back(std::move(text)); }

  // The search ends here.
  bool end(const char* reason, const std::string& message) {
    step(message);
    result_.reason = reason;
    result_.message = message;
    return false;
  }

  bool new_enough(int oldest) {
    if (driver_version_ >= oldest) return true;
    return end("driver-too-old", "the NVIDIA driver speaks " + cuda_text(driver_version_) + "; install one for " +
                                     cuda_text(oldest) + " or newer");
  }

  bool allowed() {
    const char* wanted = getenv("NODE_ATTENTION_DEVICE");
    if (wanted && strcmp(wanted, "cpu") == 0) {
      return end("disabled", "NODE_ATTENTION_DEVICE=cpu keeps the CUDA backend closed");
    }
    if (wanted && *wanted) {
      return end("disabled",
                 std::string("NODE_ATTENTION_DEVICE=") + wanted + " is not known: set it to cpu, or unset it");
    }
    step("NODE_ATTENTION_DEVICE is not set: a driver is looked for");
    return true;
  }

  bool find_driver() {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) {
      const char* text = dlerror();
      return end("no-driver", std::string("no NVIDIA driver: ") + (text ? text : "libcuda.so.1 not found"));
    }
    using Initialise = int (*)(unsigned);
    using GetInt = int (*)(int*);
    const auto initialise = reinterpret_cast<Initialise>(dlsym(driver, "cuInit"));
    const auto version = reinterpret_cast<GetInt>(dlsym(driver, "cuDriverGetVersion"));
    const auto count = reinterpret_cast<GetInt>(dlsym(driver, "cuDeviceGetCount"));
    if (!initialise || !version || !count || version(&driver_version_)) {
      return end("load-failed", "libcuda.so.1 lacks cuInit, cuDriverGetVersion or cuDeviceGetCount");
    }
    step("the driver is " + file_of(reinterpret_cast<const void*>(initialise)) + ", for " + cuda_text(driver_version_));
    if (!new_enough(kOldestDriver)) return false;
    const int failure = initialise(0);
    if (failure && failure != kNoDevice) {
      return end("load-failed",
                 "the NVIDIA driver cannot be initialised: cuInit gives error " + std::to_string(failure));
    }
    int devices = 0;
    if (failure || count(&devices) || devices == 0) {
      return end("no-device", "the NVIDIA driver is installed but reports no device");
    }
    step("it reports " + devices_text(devices));
    return true;
  }

  bool open_library() {
    path_ = addon_folder() + kLibrary;
    library_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_) return true;
    const char* text = dlerror();
    const std::string reason = text ? text : path_;
    return end(reason.find("No such file") == std::string::npos ? "load-failed" : "library-missing", reason);
  }

  // Whether it is the library that was built with this addon, and can use driver and devices.
  bool fits() {
    const auto entry = reinterpret_cast<na_backend_entry>(dlsym(library_, "node_attention_backend"));
    if (!entry) return end("load-failed", path_ + " is not the CUDA backend of node-attention: reinstall the package");
    const na_backend* stamped = entry(0);
    const std::string build = stamped && stamped->build ? stamped->build : "an earlier version";
    if (build != NODE_ATTENTION_BUILD) {
      return end("load-failed", path_ + " is of another build (" + build + ") than the addon beside it (" +
                                    NODE_ATTENTION_BUILD +
                                    "): reinstall the package, or in a checkout run npm run build:cuda");
    }
    const na_backend* table = entry(NA_BACKEND_ABI);
    if (!table || table->abi != NA_BACKEND_ABI || table->size != sizeof(na_backend)) {
      return end("load-failed", path_ + " speaks another version of the backend table: reinstall the package");
    }
    step(path_ + " is of the addon's build, " + build);
    if (!new_enough(table->oldest_driver)) return false;
    const int usable = table->device_count();
    if (usable == 0) {
      return end("unsupported-arch", "no device has an architecture that " + path_ + " was built for (sm_80 or newer)");
    }
    step("it can use " + devices_text(usable));
    result_.table = table;
    return true;
  }

  LoadedBackend result_;
  int driver_version_ = 0;
  void* library_ = nullptr;
  std::string path_;
};

}  // namespace

LoadedBackend load_cuda_backend() { return Search().run(); }

}  // namespace na
