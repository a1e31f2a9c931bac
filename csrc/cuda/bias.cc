#include "cuda/bias.h"

namespace na::cuda {
namespace {

Factors factors_of(const na_tensor& tensor) {
  const bool by_head = tensor.rank == 4;  // coordinates are those of all heads
  return {static_cast<const float*>(tensor.data), tensor.stride[0], by_head ? tensor.stride[1] : 0,
          tensor.stride[tensor.rank - 2], tensor.stride[tensor.rank - 1]};
}

// multiplier = ceil(2^(31 + shift) / divisor) with the least shift for which 2^shift >= divisor: rounding it up adds
// less than 2^-shift to any quotient of 31 bits, too little to reach the next one.
Divisor divisor_of(int64_t divisor) {
  Divisor result{0, 0};
  while ((int64_t{1} << result.shift) < divisor) result.shift++;
  result.multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + result.shift)) + divisor - 1) / divisor);
  return result;
}

RelativeAxes axes_of(const na_attention& call, const na_bias& given) {
  RelativeAxes result{};
  const na_tensor& q = *call.q;
  const int axes = q.rank - 3;
  result.single = axes == 1;
  for (int a = 0; a < kRelativeAxes; a++) {
    const int own = a - (kRelativeAxes - axes);
    // Positions along a single axis are not those of one tensor: none of them is to be divided.
    const int64_t extent = own < 0 ? 1 : axes == 1 ? INT32_MAX : q.shape[own + 1];
    // A step beyond every position is the same as any other.
    const int64_t step = own < 0 ? 1 : given.step[own] < INT32_MAX ? given.step[own] : INT32_MAX;
    result.extent[a] = static_cast<int32_t>(extent > 0 ? extent : 1);
    result.step[a] = static_cast<int32_t>(step);
    result.by_extent[a] = divisor_of(result.extent[a]);
    result.by_step[a] = divisor_of(step);
    if (own < 0) continue;
    result.reach[a] = static_cast<int32_t>(given.tensor->shape[own + 1] / 2);
    result.stride[a] = static_cast<int32_t>(given.tensor->stride[own + 1]);  // core bounds what a table spans
  }
  return result;
}

}  // namespace

Bias bias_of(const na_attention& call, const na_bias& given) {
  Bias bias{};
  const na_tensor* tensor = given.tensor;
  if (tensor) bias.data = static_cast<const float*>(tensor->data);
  if (given.query) {
    bias.q = factors_of(*given.query);
    bias.k = factors_of(*given.key);
    bias.columns = static_cast<int32_t>(given.key->shape[given.key->rank - 1]);
  }
  switch (given.kind) {
    case NA_BIAS_LOW_RANK: bias.kind = BiasKind::kLowRank; break;
    case NA_BIAS_ALIBI:
      bias.kind = BiasKind::kAlibi;
      if (tensor) bias.head = tensor->stride[0];
      break;
    case NA_BIAS_DISTANCE:
      bias.kind = BiasKind::kDistance;
      if (!tensor) break;
      bias.batch = tensor->stride[0];
      bias.head = tensor->stride[1];
      bias.query = tensor->stride[2];
      break;
    case NA_BIAS_RELATIVE:
      bias.kind = BiasKind::kRelative;
      bias.head = tensor->stride[0];
      bias.axes = axes_of(call, given);
      break;
    default:
      bias.kind = BiasKind::kDense;
      bias.batch = tensor->stride[0];
      bias.head = tensor->stride[1];
      bias.query = tensor->stride[2];
      bias.key = tensor->stride[3];
  }
  return bias;
}

}  // namespace na::cuda
