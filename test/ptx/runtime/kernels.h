// Kernels by the address of their host function, and their PTX.
#pragma once

#include <string>
#include <vector>

#include "c_api.h"

namespace standin {

struct Kernel {
  std::string name;         // of the entry in the PTX
  int dynamic_shared = -1;  // bytes that cudaFuncSetAttribute has allowed; -1: not called
};

// nullptr for a function that no object has registered.
Kernel* find_kernel(const void* host_function);
void add_kernel(const void* host_function, const char* name);

// The module that has the entry, loaded when first needed; nullptr and the reason when there is none.
ptx_module* find_module(const std::string& entry, std::string& problem);

}  // namespace standin
