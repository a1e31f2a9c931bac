#include "cuda/attention.h"

#include <algorithm>

#include "attention/attention.h"
#include "copy/copy.h"
#include "core/dtype.h"

namespace na::cuda {
namespace {

constexpr int64_t kMostHeadDim = 256;
constexpr int64_t kAlignment = 256;

// From so many queries on the rows of a wgmma tile are mostly used. Fewer go to the kernel that packs the heads of a
// group into a tile and splits its keys among warps.
constexpr int32_t kManyQueries = 64;

// Splitting over keys. A part costs writing and reading a float32 result, so it must have keys worth that much time;
// and it serves only while there are multiprocessors without a block.
constexpr int64_t kLeastPartKeys = 512;
constexpr int64_t kMostParts = 128;
constexpr int64_t kBlocksPerMultiprocessor = 2;  // of the tiles of few rows, which are the ones that are split

Element element_of(int32_t dtype) {
  switch (dtype) {
    case NA_FLOAT32: return Element::kFloat32;
    case NA_FLOAT16: return Element::kFloat16;
    default: return Element::kBfloat16;
  }
}

int64_t tokens_of(const na_tensor& tensor, int32_t heads_axis) {
  int64_t tokens = 1;
  for (int32_t axis = 1; axis < heads_axis; axis++) tokens *= tensor.shape[axis];
  return tokens;
}

na_tensor packed(const na_tensor& tensor, void* data) {
  na_tensor view = tensor;
  view.data = data;
  int64_t stride = 1;
  for (int32_t axis = tensor.rank - 1; axis >= 0; axis--) {
    view.stride[axis] = stride;
    stride *= tensor.shape[axis];
  }
  return view;
}

// Whether all token axes are evenly spaced, so that kernels can count through them as one.
bool flat(const na_tensor& tensor) {
  const int32_t heads_axis = tensor.rank - 2;
  int64_t expected = 0;
  bool first = true;
  for (int32_t axis = heads_axis - 1; axis >= 1; axis--) {
    if (tensor.shape[axis] == 1) continue;
    if (!first && tensor.stride[axis] != expected) return false;
    expected = tensor.stride[axis] * tensor.shape[axis];
    first = false;
  }
  return true;
}

Strides strides_of(const na_tensor& tensor) {
  const int32_t heads_axis = tensor.rank - 2;
  int64_t token = 0;
  for (int32_t axis = heads_axis - 1; axis >= 1; axis--) {
    if (tensor.shape[axis] == 1) continue;
    token = tensor.stride[axis];
    break;
  }
  return {tensor.stride[0], token, tensor.stride[heads_axis]};
}

int64_t bytes_of(const na_tensor& tensor) {
  int64_t bytes = dtype_size(tensor.dtype);
  for (int32_t axis = 0; axis < tensor.rank; axis++) bytes *= tensor.shape[axis];
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// How far a window reaches; distances beyond every sequence are no limit.
int32_t reach(int64_t distance) {
  return distance < 0 || distance >= (int64_t{1} << 30) ? kUnlimited : static_cast<int32_t>(distance);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Everything that a call needs, worked out from its shapes alone: the same at its check and at its launch.
class Plan {
 public:
  Plan(const Device& device, const na_attention& a) : device_(device), call_(a), element_(element_of(a.q->dtype)) {
    describe();
    split();
  }

  int64_t workspace_bytes() const { return used_; }

  cudaError_t run(cudaStream_t stream) {
    if (problem_.batch == 0 || problem_.queries == 0) return cudaSuccess;
    cudaError_t status = cudaSuccess;
    for (int i = 0; i < inputs_ && status == cudaSuccess; i++) status = copy(*input_[i].from, input_[i].to, stream);
    if (status == cudaSuccess) status = run_keys(problem_, stream);
    if (status == cudaSuccess && call_.extra_k) status = run_keys(extra(), stream);
    if (status == cudaSuccess && slots_ > 0) status = combine(problem_, element_, slots_, stream);
    if (status == cudaSuccess && scattered_) status = copy(out_, *call_.out, stream);
    return status;
  }

 private:
  struct Gathered {
    const na_tensor* from;
    na_tensor to;
  };

  char* take(int64_t bytes) {
    // An address, not a place, while there is no workspace yet.
    char* piece = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(call_.workspace) + static_cast<uintptr_t>(used_));
    used_ += ceil_div(bytes, kAlignment) * kAlignment;
    return piece;
  }

  // The tensor itself, or a contiguous place for it in the workspace.
  na_tensor flattened(const na_tensor& tensor, bool input) {
    if (flat(tensor)) return tensor;
    const na_tensor place = packed(tensor, take(bytes_of(tensor)));
    if (input) input_[inputs_++] = {&tensor, place};
    return place;
  }

  void describe() {
    Problem& p = problem_;
    const na_tensor &q = *call_.q, &k = *call_.k, &v = *call_.v;
    const na_tensor q_view = flattened(q, true), k_view = flattened(k, true), v_view = flattened(v, true);
    out_ = flattened(*call_.out, false);
    scattered_ = out_.data != call_.out->data;
    p.q = q_view.data;
    p.k = k_view.data;
    p.v = v_view.data;
    p.out = out_.data;
    p.lse = static_cast<float*>(call_.lse->data);
    p.q_strides = strides_of(q_view);
    p.k_strides = strides_of(k_view);
    p.v_strides = strides_of(v_view);
    p.out_strides = strides_of(out_);
    p.batch = static_cast<int32_t>(q.shape[0]);
    p.heads = static_cast<int32_t>(q.shape[q.rank - 2]);
    p.kv_heads = static_cast<int32_t>(k.shape[k.rank - 2]);
    p.queries = static_cast<int32_t>(tokens_of(q, q.rank - 2));
    p.keys = static_cast<int32_t>(tokens_of(k, k.rank - 2));
    p.head_dim = static_cast<int32_t>(q.shape[q.rank - 1]);
    p.value_dim = static_cast<int32_t>(v.shape[v.rank - 1]);
    p.left = p.right = kUnlimited;
    for (int32_t i = 0; i < call_.mask_count; i++) {
      p.left = std::min(p.left, reach(call_.masks[i].left));
      p.right = std::min(p.right, reach(call_.masks[i].right));
    }
    p.scale = call_.scale;
    p.softcap = call_.softcap;
    if (call_.sinks) {
      p.sinks = static_cast<const float*>(call_.sinks->data);
      p.sink_stride = call_.sinks->stride[0];
    }
    p.bias_count = call_.bias_count;
    for (int32_t i = 0; i < call_.bias_count; i++) {
      const na_tensor& bias = *call_.biases[i].tensor;
      p.biases[i] = {static_cast<const float*>(bias.data), bias.stride[0], bias.stride[1], bias.stride[2],
                     bias.stride[3]};
    }
    if (call_.cu_q) {
      p.cu_q = static_cast<const int32_t*>(call_.cu_q->data);
      p.cu_k = static_cast<const int32_t*>(call_.cu_k->data);
      p.cu_q_stride = call_.cu_q->stride[0];
      p.cu_k_stride = call_.cu_k->stride[0];
      p.sequences = static_cast<int32_t>(call_.cu_q->shape[0]) - 1;
    }
  }

  // Extra keys are a problem of their own, whose result is one more part: no mask, no bias, and every query sees them
  // whatever its sequence.
  Problem extra() const {
    Problem p = problem_;
    p.k = call_.extra_k->data;
    p.v = call_.extra_v->data;
    p.k_strides = strides_of(*call_.extra_k);
    p.v_strides = strides_of(*call_.extra_v);
    p.keys = static_cast<int32_t>(call_.extra_k->shape[1]);
    p.left = p.right = kUnlimited;
    p.bias_count = 0;
    p.cu_q = p.cu_k = nullptr;
    p.sequences = 0;
    p.parts = 1;
    p.first_slot = problem_.parts;
    return p;
  }

  bool takes_wgmma(const Problem& problem) const {
    return device_.properties.major == 9 && problem.queries >= kManyQueries && attention_sm90_takes(problem, element_);
  }

  // How many parts the keys are shared out to: as many as it takes to give every multiprocessor its blocks, but none
  // when the query tiles do that by themselves. Of ragged batches nothing is known but the sums of lengths, so they are
  // taken as equally long.
  int32_t parts() const {
    const Problem& p = problem_;
    const TileShape tile = attention_sm80_tile(p, element_);
    const int64_t group = p.heads / p.kv_heads, sequences = p.cu_q ? std::max(p.sequences, 1) : 1;
    const int64_t queries = ceil_div(p.queries, sequences);
    const int64_t blocks = p.batch * sequences * p.kv_heads * ceil_div(queries * group, tile.rows);
    const int64_t room = device_.properties.multiProcessorCount * kBlocksPerMultiprocessor;
    int64_t keys = ceil_div(p.keys, sequences);
    if (p.left != kUnlimited && p.right != kUnlimited) {
      keys = std::min<int64_t>(keys, int64_t{p.left} + p.right + queries);
    }
    const int64_t most = std::min(kMostParts, keys / std::max<int64_t>(kLeastPartKeys, tile.keys));
    return static_cast<int32_t>(std::max<int64_t>(1, std::min(room / std::max<int64_t>(blocks, 1), most)));
  }

  void split() {
    Problem& p = problem_;
    if (p.batch == 0 || p.queries == 0) return;
    const int32_t count = takes_wgmma(p) ? 1 : parts();
    if (count == 1 && !call_.extra_k) return;
    p.parts = count;
    slots_ = count + (call_.extra_k ? 1 : 0);
    const int64_t rows = int64_t{p.batch} * p.queries * p.heads;
    p.part_out = reinterpret_cast<float*>(take(slots_ * rows * p.value_dim * 4));
    p.part_lse = reinterpret_cast<float*>(take(slots_ * rows * 4));
  }

  cudaError_t run_keys(const Problem& problem, cudaStream_t stream) const {
    if (takes_wgmma(problem)) return attention_sm90(problem, element_, stream);
    return attention_sm80(problem, element_, call_.tf32 != 0, stream);
  }

  const Device& device_;
  const na_attention& call_;
  const Element element_;
  Problem problem_{};
  Gathered input_[3];
  int inputs_ = 0;
  na_tensor out_{};
  bool scattered_ = false;
  int32_t slots_ = 0;
  int64_t used_ = 0;
};

}  // namespace

Status check_attention(const Device& device, const na_attention& a, int64_t* workspace_bytes) {
  const struct {
    const char* name;
    const na_tensor* tensor;
  } given[] = {{"q", a.q}, {"v", a.v}};
  for (const auto& [name, tensor] : given) {
    const int64_t head_dim = tensor->shape[tensor->rank - 1];
    if (head_dim > kMostHeadDim) {
      return error(NA_ERR_SHAPE, "headDim of %s is %lld; on CUDA it is at most %lld (on the CPU 512)", name,
                   static_cast<long long>(head_dim), static_cast<long long>(kMostHeadDim));
    }
  }
  for (int64_t length : {a.q->shape[0], a.q->shape[a.q->rank - 2]}) {
    if (length > INT32_MAX / 2) {
      return error(NA_ERR_SHAPE, "q has an axis of %lld; on CUDA batch and heads are at most %d",
                   static_cast<long long>(length), INT32_MAX / 2);
    }
  }
  for (int32_t i = 0; i < a.mask_count; i++) {
    if (a.masks[i].kind != NA_MASK_WINDOW) {
      return error(NA_ERR_OPTION, "mask: neighborhood does not run on CUDA yet; use device 'cpu', or window()");
    }
  }
  if (a.bias_count > kMostBiases) {
    return error(NA_ERR_OPTION, "bias has %d entries; on CUDA at most %d are supported: add some of them beforehand",
                 a.bias_count, kMostBiases);
  }
  *workspace_bytes = Plan(device, a).workspace_bytes();
  return {};
}

cudaError_t attention(const Device& device, const na_attention& a, cudaStream_t stream) {
  return Plan(device, a).run(stream);
}

}  // namespace na::cuda
