#include "attention/sm80/launch.h"

namespace na::cuda {
template cudaError_t run_sm80_key_major<Element::kFloat16, 64>(const Problem&, const Launch&, bool, bool, uint32_t,
                                                               cudaStream_t);
template cudaError_t run_sm80_key_major<Element::kFloat16, 128>(const Problem&, const Launch&, bool, bool, uint32_t,
                                                                cudaStream_t);
template cudaError_t run_sm80_key_major<Element::kFloat16, 256>(const Problem&, const Launch&, bool, bool, uint32_t,
                                                                cudaStream_t);
}  // namespace na::cuda
