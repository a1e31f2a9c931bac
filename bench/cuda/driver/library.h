// Shared libraries opened at run time, for the life of the process.
#pragma once

#include <dlfcn.h>

#include "status.h"

namespace bench {

class Library {
 public:
  // Not closed: what it started may still run.
  Status open(const char* path) {
    handle_ = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return handle_ ? Status() : Status(dlerror());
  }

  template <typename Function>
  Status find(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    return function ? Status() : Status(dlerror());
  }

 private:
  void* handle_ = nullptr;
};

}  // namespace bench
