// Arithmetic that the host plans with and kernels repeat. Host files are compiled without nvcc, too.
#pragma once

#ifdef __CUDACC__
#define NA_HOST_DEVICE __host__ __device__
#else
#define NA_HOST_DEVICE
#endif
