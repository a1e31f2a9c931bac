#include "attention/sm80/launch.h"

namespace na::cuda {
template cudaError_t run_sm80<Element::kFloat16, 1, 64, 64>(const Problem&, const Launch&, uint32_t, cudaStream_t);
}
