#include "attention/sm90/launch.h"

namespace na::cuda::sm90 {
template cudaError_t run_sm90_grid<Element::kFloat16, 128>(const Problem&, cudaStream_t);
template cudaError_t run_sm90_grid<Element::kBfloat16, 128>(const Problem&, cudaStream_t);
}  // namespace na::cuda::sm90
