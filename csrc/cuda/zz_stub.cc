#include "attention/attention.h"
namespace na::cuda { bool attention_sm90_takes(const Problem&, Element) { return false; } cudaError_t attention_sm90(const Problem&, Element, cudaStream_t) { return cudaErrorNotSupported; } }
