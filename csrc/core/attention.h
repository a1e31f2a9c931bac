// attention(): checks the arguments, allocates the results and enqueues the operation.
#pragma once

#include "core/score_mod.h"
#include "core/submission.h"

namespace na {

class KvCache;

struct AttentionArguments {
  Tensor *q = nullptr, *k = nullptr, *v = nullptr;
  KvCache* cache = nullptr;  // instead of k and v
  Tensor *sinks = nullptr, *extra_k = nullptr, *extra_v = nullptr, *cu_q = nullptr, *cu_k = nullptr;
  Tensor *out = nullptr, *lse = nullptr;  // made unless given; lse by recorded calls alone
  std::vector<MaskSpec> masks;
  std::vector<BiasSpec> biases;
  double scale = 0;
  bool has_scale = false;  // otherwise 1/sqrt(headDim)
  double softcap = 0;
  bool has_softcap = false;
  bool tf32 = false;
};

struct AttentionResult {
  Ref<Tensor> out, lse;
};

// Refuses before anything is allocated or enqueued.
Status attention(const AttentionArguments& arguments, Stream* stream, AttentionResult* result);
// As a part of another call.
Status attention(const AttentionArguments& arguments, Submission* all, AttentionResult* result);

// The factor of scores as kernels want it: `scale`, or 1/sqrt(head_dim) where none was given.
Status scale_of(bool given, double scale, int64_t head_dim, float* result);

// Shared with merge(): checks `out` as given by the caller against what the call writes and reads.
Status check_out(Tensor* out, const Shape& shape, int32_t dtype, const Device* device,
                 const std::vector<Tensor*>& inputs);

}  // namespace na
