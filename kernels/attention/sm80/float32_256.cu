#include "attention/sm80/launch.h"

namespace na::cuda {
template cudaError_t run_sm80<Element::kFloat32, 3, 256, 256>(const Problem&, const Launch&, uint32_t, cudaStream_t);
}
