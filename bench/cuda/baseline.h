/* Somebody else's attention as a C library, for the benchmark alone: the plan of one shape, run on any stream on any
 * tensors of that shape. cuDNN's is bench/cudnn, that of CUTLASS's example bench/cutlass. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BASELINE_API __attribute__((visibility("default")))

/* q [batch, queries, heads, head_dim], k and v [batch, keys, kv_heads, head_dim], out as q, all contiguous; lse float32
 * [batch, heads, queries], which is how cuDNN lays out its statistics. Causal: the last query sees all keys. */
typedef struct baseline_shape {
  int64_t batch, heads, kv_heads, queries, keys, head_dim;
  int32_t bfloat16; /* or float16 */
  int32_t causal;
  float scale;
  int32_t reserved;
} baseline_shape;

typedef struct baseline_plan baseline_plan;

/* These return 0, or -1 with a sentence in `error`. */

/* Once in a process. Loads what computes, such as cuDNN, from this path, which also says where its other libraries lie;
 * NULL where the baseline is all there is. */
BASELINE_API int baseline_open(const char* library, char* error, uint64_t error_size);
BASELINE_API int baseline_plan_create(const baseline_shape* shape, baseline_plan** plan, int64_t* workspace_bytes,
                                      char* error, uint64_t error_size);
/* The first time it may load code, and try several kernels to keep the fastest: not while a graph is recorded. */
BASELINE_API int baseline_plan_execute(baseline_plan* plan, const void* q, const void* k, const void* v, void* out,
                                       void* lse, void* workspace, void* stream, char* error, uint64_t error_size);

BASELINE_API void baseline_plan_destroy(baseline_plan* plan);

/* The version of what computes, such as 91900 for 9.19.0. */
BASELINE_API int64_t baseline_version(void);

#ifdef __cplusplus
}
#endif
