#include "attention/sm90/launch.h"

namespace na::cuda::sm90 {
template cudaError_t run_sm90<Element::kFloat16, 256, 256>(const Problem&, cudaStream_t);
template cudaError_t run_sm90<Element::kBfloat16, 256, 256>(const Problem&, cudaStream_t);
}  // namespace na::cuda::sm90
