/* The kernel whose rate counts as the peak of a device: its name, its block, and the operations of a step of a block.
 */
#pragma once

#define PEAK_KERNEL "matrix_peak"
#define PEAK_THREADS 256
#define PEAK_OPERATIONS (2 * 2 * 64 * 128 * 16)
#define PEAK_STEPS 40000
