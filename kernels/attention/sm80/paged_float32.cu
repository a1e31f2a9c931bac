#include "attention/sm80/launch.h"

namespace na::cuda {
// Alone, since it takes long to compile: what is narrower is padded.
template cudaError_t run_sm80_paged<Element::kFloat32, 256>(const Problem&, const Launch&, bool, bool, uint32_t,
                                                            cudaStream_t);
}  // namespace na::cuda
