#include "core/pooling.h"

namespace na {
namespace {

class PoolOperation final : public Operation {
 public:
  PoolOperation(const na_pool& pool) : Operation(NA_OP_POOL), pool_(pool) {
    args = &pool_;
    retain_tensors();
  }
  PoolOperation(const PoolOperation& other) : Operation(other), pool_(other.pool_) {
    args = &pool_;
    retain_tensors();
  }
  void each_tensor(Visit visit, void* context) const override {
    visit(context, Tensor::of(pool_.k), false);
    visit(context, Tensor::of(pool_.out), true);
  }
  Operation* clone() const override { return new PoolOperation(*this); }

 private:
  void** workspace() override { return &pool_.workspace; }
  na_pool pool_;
};

}  // namespace

int64_t token_count(const na_tensor& view) {
  int64_t count = 1;
  for (int axis = 1; axis < view.rank - 2; axis++) count *= view.shape[axis];
  return count;
}

Status check_even_tokens(const char* name, const Tensor& tensor) {
  const na_tensor& view = tensor.view;
  if (view.rank < 4 || view.rank > 3 + NA_MAX_AXES) {
    return error(NA_ERR_SHAPE,
                 "%s has shape %s; expected [batch, tokens..., heads, headDim] with one to three token axes", name,
                 shape_text(view).c_str());
  }
  if (!dtype_is_float(view.dtype)) {
    return error(NA_ERR_DTYPE, "%s is %s; selectors take float32, float16 or bfloat16", name, dtype_name(view.dtype));
  }
  if (tensor.elements() == 0 || token_count(view) > kMostPooledTokens) {
    return error(NA_ERR_SHAPE, "%s has shape %s; selectors need 1 to %lld tokens", name, shape_text(view).c_str(),
                 static_cast<long long>(kMostPooledTokens));
  }
  bool even = view.shape[view.rank - 1] == 1 || view.stride[view.rank - 1] == 1;
  for (int axis = 1; axis < view.rank - 3; axis++) {
    even &= view.stride[axis] == view.stride[axis + 1] * view.shape[axis + 1];
  }
  if (!even) return error(NA_ERR_SHAPE, "%s does not have its tokens evenly spaced: copy it with to()", name);
  return {};
}

Status pool(Tensor* tokens, int64_t block, na_pooling pooling, int32_t dtype, Stream* stream, Ref<Tensor>* pooled) {
  const na_tensor& view = tokens->view;
  const int64_t blocks = (token_count(view) + block - 1) / block;
  const int64_t features = view.shape[view.rank - 1] * (pooling == NA_POOL_BOUNDS ? 2 : 1);
  NA_TRY(Tensor::allocate(tokens->device(), dtype, {view.shape[0], blocks, view.shape[view.rank - 2], features}, false,
                          false, pooled));
  na_pool call{};
  call.pooling = pooling;
  call.block = static_cast<int32_t>(block);
  call.k = &view;
  call.out = &(*pooled)->view;
  return stream->run(new PoolOperation(call));
}

}  // namespace na
