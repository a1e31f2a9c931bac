#include "c_api.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>

#include "machine.h"
#include "parser.h"
#include "tensor_map.h"

struct ptx_module {
  std::unique_ptr<ptx::Module> module;
};

namespace {

void report(const char* what, char* error, size_t size) {
  if (size == 0) return;
  std::strncpy(error, what, size - 1);
  error[size - 1] = 0;
}

const ptx::Function* entry_of(const ptx_module* module, const char* kernel) {
  const auto found = module->module->function_by_name.find(std::string_view(kernel));
  if (found == module->module->function_by_name.end()) return nullptr;
  const ptx::Function& function = module->module->functions[static_cast<size_t>(found->second)];
  return function.is_entry ? &function : nullptr;
}

}  // namespace

ptx_module* ptx_load(const char* source, char* error, size_t error_size) {
  try {
    auto module = ptx::parse(source);
    for (const ptx::Variable& global : module->globals) {
      ptx::global_memory().add(reinterpret_cast<const void*>(global.address), global.size);
    }
    return new ptx_module{std::move(module)};
  } catch (const std::exception& problem) {
    report(problem.what(), error, error_size);
    return nullptr;
  }
}

void ptx_unload(ptx_module* module) {
  if (!module) return;
  for (const ptx::Variable& global : module->module->globals) {
    ptx::global_memory().remove(reinterpret_cast<const void*>(global.address));
  }
  delete module;
}

void ptx_memory_add(const void* data, uint64_t bytes, int writable) {
  ptx::global_memory().add(data, bytes, writable != 0);
}

void ptx_memory_remove(const void* data) { ptx::global_memory().remove(data); }

int ptx_launch(ptx_module* module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
               uint32_t dynamic_shared, const void* parameters, uint64_t parameter_bytes, uint64_t seed, int asynchrony,
               char* error, size_t error_size) {
  const ptx::Function* function = entry_of(module, kernel);
  if (!function) {
    report(("there is no kernel " + std::string(kernel)).c_str(), error, error_size);
    return -1;
  }
  if (parameter_bytes < function->parameter_bytes) {
    report(("kernel " + std::string(kernel) + " takes " + std::to_string(function->parameter_bytes) +
            " bytes of parameters, not " + std::to_string(parameter_bytes))
               .c_str(),
           error, error_size);
    return -1;
  }
  ptx::Launch launch;
  launch.module = module->module.get();
  launch.function = static_cast<int>(function - module->module->functions.data());
  std::copy(grid, grid + 3, launch.grid);
  std::copy(block, block + 3, launch.block);
  launch.dynamic_shared = dynamic_shared;
  launch.parameters = static_cast<const uint8_t*>(parameters);
  launch.parameter_bytes = parameter_bytes;
  launch.schedule = {seed, static_cast<ptx::Asynchrony>(asynchrony)};
  try {
    ptx::run(launch);
    return 0;
  } catch (const std::exception& problem) {
    report(problem.what(), error, error_size);
    return -1;
  }
}

int ptx_parameters(ptx_module* module, const char* kernel, uint64_t* offsets, uint64_t* sizes, int most,
                   uint64_t* bytes) {
  const ptx::Function* function = entry_of(module, kernel);
  if (!function) return -1;
  const int count = static_cast<int>(function->parameters.size());
  for (int i = 0; i < std::min(count, most); i++) {
    offsets[i] = function->parameters[static_cast<size_t>(i)].address;
    sizes[i] = function->parameters[static_cast<size_t>(i)].size;
  }
  *bytes = function->parameter_bytes;
  return count;
}

int ptx_tensor_map(void* map, int type, uint32_t rank, const void* address, const uint64_t* extent,
                   const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides, int interleave,
                   int swizzle, int fill, char* error, size_t error_size) {
  const std::string problem = ptx::encode_tensor_map(map, type, rank, address, extent, strides, box, element_strides,
                                                     interleave, swizzle, fill);
  report(problem.c_str(), error, error_size);
  return problem.empty() ? 0 : -1;
}
