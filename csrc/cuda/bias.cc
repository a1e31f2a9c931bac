#include "cuda/bias.h"

#include <algorithm>
#include <climits>
#include <numeric>
#include <vector>

#include "core/dtype.h"
#include "cuda/grid.h"
#include "cuda/plan.h"
#include "kv/kv.h"
#include "tile/divisor.h"

namespace na::cuda {
namespace {

constexpr int64_t kMostRank = 65536;

BiasRows rows_of(const na_tensor& tensor) {
  return {static_cast<const float*>(tensor.data), tensor.stride[0],
          tensor.rank == 4 ? tensor.stride[1] : 0,  // coordinates are those of all heads
          tensor.stride[tensor.rank - 2], tensor.stride[tensor.rank - 1]};
}

// Whether all rows begin at multiples of 8 bytes.
bool is_aligned(const BiasRows& rows) {
  return reinterpret_cast<intptr_t>(rows.data) % 8 == 0 && (rows.batch | rows.head | rows.token) % 2 == 0;
}

Bias bias_of(const na_attention& call, const na_bias& given) {
  Bias bias{};
  const na_tensor* const tensor = given.tensor;
  if (tensor) bias.data = static_cast<const float*>(tensor->data);
  if (given.query) {
    bias.q = rows_of(*given.query);
    bias.k = rows_of(*given.key);
    bias.columns = static_cast<int32_t>(given.key->shape[given.key->rank - 1]);
  }
  switch (given.kind) {
    case NA_BIAS_LOW_RANK:
      bias.kind = BiasKind::kLowRank;
      bias.aligned = bias.columns % 2 == 0 && is_aligned(bias.q) && is_aligned(bias.k);
      break;
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
    case NA_BIAS_RELATIVE: {
      bias.kind = BiasKind::kRelative;
      bias.head = tensor->stride[0];
      const int axes = call.q->rank - 3;
      for (int a = 0; a < kMostAxes; a++) {
        const bool own = a < axes;
        bias.extent[a] = divisor_of(own ? call.q->shape[a + 1] : 1);
        bias.step[a] = divisor_of(own ? std::min<int64_t>(given.step[a], INT32_MAX) : 1);  // no token is farther away
        bias.reach[a] = own ? static_cast<int32_t>(tensor->shape[a + 1] / 2) : 0;
        bias.stride[a] = own ? static_cast<int32_t>(tensor->stride[a + 1]) : 0;
      }
      break;
    }
    default:
      bias.kind = BiasKind::kDense;
      bias.batch = tensor->stride[0];
      bias.head = tensor->stride[1];
      bias.query = tensor->stride[2];
      bias.key = tensor->stride[3];
  }
  return bias;
}

// What the kernels that a call runs on can compute.
Status check_computed(const na_attention& call) {
  if (call.pages || plan_of(call)) {
    return error(NA_ERR_OPTION,
                 "bias: %s, CUDA takes keyBias() and denseBias() alone: give one of these, or use device 'cpu'",
                 call.pages ? "over a KvCache" : "with a SparsePlan");
  }
  const int64_t columns = std::max(call.q->shape[call.q->rank - 1], call.v->shape[call.v->rank - 1]);
  const int most = biased_columns_on_grid(call.q->dtype == NA_FLOAT32 ? Element::kFloat32 : Element::kFloat16);
  if (columns <= most) return {};
  Grids grids;  // none where no neighborhood hides anything: then the call is a dense one
  NA_TRY(find_grids(call, &grids));
  if (grids.count == 0) return {};
  return error(NA_ERR_OPTION,
               "bias: beside a neighborhood, CUDA takes biases of low rank and by formula up to headDim %d in %s, not "
               "%lld: give keyBias() or denseBias(), or use device 'cpu'",
               most, dtype_name(call.q->dtype), static_cast<long long>(columns));
}

// The places of a dense bias, as an operation that writes them.
class Places {
 public:
  Places(const na_attention& call, const na_bias& bias, const int64_t* data)
      : numbers_(static_cast<size_t>(call.q->shape[call.q->rank - 2])),
        values_(bias.places, bias.places + numbers_.size()) {
    std::iota(numbers_.begin(), numbers_.end(), 0);
    to_.data = const_cast<int64_t*>(data);
  }
  na_put put() const { return {&to_, numbers_.data(), values_.data(), static_cast<int64_t>(numbers_.size())}; }

 private:
  std::vector<int64_t> numbers_, values_;
  na_tensor to_{};
};

}  // namespace

Status check_biases(const na_attention& call) {
  for (int32_t i = 0; i < call.bias_count; i++) {
    if (call.biases[i].kind != NA_BIAS_DENSE) NA_TRY(check_computed(call));
  }
  for (int32_t i = 0; i < call.bias_count; i++) {
    if (call.biases[i].kind != NA_BIAS_LOW_RANK) continue;
    if (call.biases[i].path == NA_LOW_RANK_VECTOR) {
      return error(
          NA_ERR_OPTION,
          "bias %d: lowRankBias: path is 'vector', but CUDA multiplies factors on tensor cores alone: give path "
          "'matrix' or 'auto', or use device 'cpu'",
          i);
    }
    const int64_t rank = call.biases[i].key->shape[3];
    if (rank <= kMostRank) continue;
    return error(NA_ERR_SHAPE, "bias %d: lowRankBias of rank %lld; CUDA takes at most %lld: use denseBias()", i,
                 static_cast<long long>(rank), static_cast<long long>(kMostRank));
  }
  if (call.bias_count <= kMostBiases) return {};
  return error(NA_ERR_OPTION, "%d biases; CUDA takes at most %d: add them up beforehand", call.bias_count, kMostBiases);
}

void add_biases(const na_attention& call, Problem* problem) {
  problem->bias_count = call.bias_count;
  for (int32_t i = 0; i < call.bias_count; i++) problem->biases[i] = bias_of(call, call.biases[i]);
}

cudaError_t put_places(const na_attention& call, const Problem& problem, cudaStream_t stream) {
  for (int32_t i = 0; i < call.bias_count; i++) {
    if (!call.biases[i].places) continue;
    const cudaError_t status = put(Places(call, call.biases[i], problem.biases[i].places).put(), stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int64_t put_places_launches(const na_attention& call) {
  int64_t launches = 0;
  for (int32_t i = 0; i < call.bias_count; i++) {
    if (call.biases[i].places) launches += put_launches(Places(call, call.biases[i], nullptr).put());
  }
  return launches;
}

}  // namespace na::cuda
