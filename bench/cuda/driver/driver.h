/*
 * What the GPU benchmark times, as a C library for TypeScript. One attention problem at a time lies on the device, in
 * several sets of tensors that are used in turn, so that no run finds its inputs in the cache. Contestants work on the
 * same q, k and v: this library through the table of its backend, and baselines. Each records a chain of runs as a
 * graph; what is timed is that graph, by the device's own clock, with no JavaScript and no launch in between.
 *
 * Functions that can fail return 0, or -1 with a sentence in driver_error().
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DRIVER_API __attribute__((visibility("default")))

typedef enum driver_contestant { DRIVER_OWN, DRIVER_CUDNN, DRIVER_CUTLASS, DRIVER_CONTESTANTS } driver_contestant;

/* q and out [batch, queries, heads, head_dim], k and v [batch, keys, kv_heads, head_dim], bfloat16, contiguous. Causal:
 * the last query sees all keys. */
typedef struct driver_shape {
  int64_t batch, heads, kv_heads, queries, keys, head_dim;
  int32_t causal;
  float scale;
  int32_t sets; /* of tensors */
  int32_t runs; /* in a pass: a multiple of sets */
} driver_shape;

/* The last error of this thread. */
DRIVER_API const char* driver_error(void);

/* Opens a backend library (libnode_attention_cuda.so) and its first device. */
DRIVER_API int driver_open(const char* backend);
/* Names the first device: its name and its instruction set. */
DRIVER_API int driver_device(char* name, char* instruction_set, uint64_t size, int64_t* memory_bytes);
/* Opens a CUDA runtime library (libcudart.so.13), which baselines and the peaks need. */
DRIVER_API int driver_open_runtime(const char* cudart);
/* Opens the baseline (bench/cuda/baseline.h) of a contestant with the library that it loads, or NULL; needs the
 * runtime. Gives the version. */
DRIVER_API int driver_open_baseline(int32_t contestant, const char* baseline, const char* library, int64_t* version);

/* Puts the problem on the device. Element i of tensor t (0 to 2: q, k, v) of set s is
 * block[(phase + i) % count], where phase = (3 s + t) * DRIVER_PHASE % count. */
#define DRIVER_PHASE 5550101
DRIVER_API int driver_problem(const driver_shape* shape, const uint16_t* block, int64_t count);
DRIVER_API int driver_release(void);

/* Makes the contestant ready for the problem; -1 when it cannot run it. */
DRIVER_API int driver_prepare(int32_t contestant);
/* Fills out and lse of every set with NaN. */
DRIVER_API int driver_poison(void);
/* Copies the results of one set to the host; lse as the contestant lays it out: [batch, queries, heads], that of a
 * baseline [batch, heads, queries]. */
DRIVER_API int driver_results(int32_t set, uint16_t* out, float* lse);
/* Runs `passes` passes after an untimed one; the milliseconds of a run in each. */
DRIVER_API int driver_run(int32_t contestant, int32_t passes, double* milliseconds);

/* Seconds of copies of so many bytes from one place of the device to another, by the backend's clock and by CUDA events
 * (NaN without a runtime): two clocks that must agree. */
DRIVER_API int driver_copy(int64_t bytes, int32_t times, double* backend_seconds, double* event_seconds);
/* Seconds of a kernel that does nothing but bfloat16 matrix products, and how many operations those are; -1 where there
 * is no runtime or no kernel for the device. */
DRIVER_API int driver_matrix(const char* kernels, double* seconds, double* operations);

#ifdef __cplusplus
}
#endif
