// The interpreter as a C library, for tests written in TypeScript (support/interpreter.ts) and for the stand-in
// runtime.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PTX_API __attribute__((visibility("default")))

typedef struct ptx_module ptx_module;

// Parses and decodes PTX. On failure: NULL, and the reason with its line in `error`.
PTX_API ptx_module* ptx_load(const char* source, char* error, size_t error_size);
PTX_API void ptx_unload(ptx_module*);

// Memory that kernels may touch; `data` must stay where it is until it is removed.
PTX_API void ptx_memory_add(const void* data, uint64_t bytes, int writable);
PTX_API void ptx_memory_remove(const void* data);

// Runs a kernel to its end. `asynchrony`: 0 immediate, 1 late, 2 random. Returns 0, or -1 with the report in `error`.
PTX_API int ptx_launch(ptx_module*, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                       uint32_t dynamic_shared, const void* parameters, uint64_t parameter_bytes, uint64_t seed,
                       int asynchrony, char* error, size_t error_size);

// How many parameters a kernel takes, where each of the first `most` lies and how large it is, and the bytes of all; -1
// when there is no such kernel.
PTX_API int ptx_parameters(ptx_module*, const char* kernel, uint64_t* offsets, uint64_t* sizes, int most,
                           uint64_t* bytes);

// As cuTensorMapEncodeTiled; `map` is 128 bytes.
PTX_API int ptx_tensor_map(void* map, int type, uint32_t rank, const void* address, const uint64_t* extent,
                           const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                           int interleave, int swizzle, int fill, char* error, size_t error_size);

#ifdef __cplusplus
}
#endif
