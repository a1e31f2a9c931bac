/* What the stand-in CUDA runtime offers beside the functions of cudart: how tests steer it. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STANDIN_API __attribute__((visibility("default")))

/* Where the PTX of kernels is found: *.ptx in the folders compute_90a and compute_80 of this one. The environment
 * variable NODE_ATTENTION_STANDIN_PTX says it otherwise. */
STANDIN_API void standin_ptx_directory(const char* path);

/* The schedule of later launches, see ptx_launch() in c_api.h. */
STANDIN_API void standin_schedule(uint64_t seed, int asynchrony);

/* The report of the first fault, empty when there was none; valid until the next call. */
STANDIN_API const char* standin_last_report(void);

/* The name of the kernel that began last, empty before the first one; valid until the next call. */
STANDIN_API const char* standin_last_kernel(void);

/* How many kernels with this in their names have begun. */
STANDIN_API uint64_t standin_launches(const char* part);

/* The most pieces of work that waited in a stream when the calling thread had put one there, since its last call. */
STANDIN_API uint64_t standin_longest_queue(void);

/* The next kernel to run, on whichever device, faults as if it had touched memory that is not there. */
STANDIN_API void standin_fail_next(void);

/* Fills all pinned memory with NaN once the current device is idle: what is right after that was not read there. */
STANDIN_API void standin_poison_pinned(void);

/* Forgets a sticky error, which on a device only the end of the process does. */
STANDIN_API void standin_reset(void);

#ifdef __cplusplus
}
#endif
