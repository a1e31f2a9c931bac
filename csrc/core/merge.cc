#include "core/merge.h"

namespace na {
namespace {

class MergeOperation final : public Operation {
 public:
  MergeOperation(const std::vector<MergePart>& parts, Tensor* out, Tensor* lse) : Operation(NA_OP_MERGE) {
    for (const MergePart& part : parts) {
      outs_.push_back(&part.out->view);
      lses_.push_back(&part.lse->view);
    }
    merge_.out = &out->view;
    merge_.lse = &lse->view;
    finish();
  }
  MergeOperation(const MergeOperation& other)
      : Operation(other), merge_(other.merge_), outs_(other.outs_), lses_(other.lses_) {
    finish();
  }

  void each_tensor(Visit visit, void* context) const override {
    for (const na_tensor* part : outs_) visit(context, Tensor::of(part), false);
    for (const na_tensor* part : lses_) visit(context, Tensor::of(part), false);
    visit(context, Tensor::of(merge_.out), true);
    visit(context, Tensor::of(merge_.lse), true);
  }
  Operation* clone() const override { return new MergeOperation(*this); }

 private:
  void** workspace() override { return &merge_.workspace; }
  void finish() {
    merge_.count = static_cast<int32_t>(outs_.size());
    merge_.outs = outs_.data();
    merge_.lses = lses_.data();
    args = &merge_;
    retain_tensors();
  }

  na_merge merge_{};
  std::vector<const na_tensor*> outs_, lses_;
};

}  // namespace

Status merge(const std::vector<MergePart>& parts, Submission* all, AttentionResult* result) {
  if (parts.empty()) return error(NA_ERR_OPTION, "parts is empty; merge needs at least one { out, lse }");
  const na_tensor& first = parts[0].out->view;
  Device* device = parts[0].out->device();
  NA_TRY(all->stream->check_device(device, "parts[0].out"));
  NA_TRY(all->stream->room());
  if (!dtype_is_float(first.dtype)) {
    return error(NA_ERR_DTYPE, "parts[0].out is %s; merge takes float32, float16 or bfloat16", dtype_name(first.dtype));
  }
  if (first.rank < 2) {
    return error(NA_ERR_SHAPE, "parts[0].out has shape %s; expected [batch, tokens..., heads, headDim]",
                 shape_text(first).c_str());
  }
  const Shape out_shape = shape_of(first);
  const Shape lse_shape(out_shape.begin(), out_shape.end() - 1);
  std::vector<Tensor*> inputs;
  for (size_t i = 0; i < parts.size(); i++) {
    const na_tensor &part_out = parts[i].out->view, &part_lse = parts[i].lse->view;
    if (part_out.dtype != first.dtype) {
      return error(NA_ERR_DTYPE, "parts[%zu].out is %s but parts[0].out is %s; convert one with to()", i,
                   dtype_name(part_out.dtype), dtype_name(first.dtype));
    }
    if (part_lse.dtype != NA_FLOAT32) {
      return error(NA_ERR_DTYPE, "parts[%zu].lse is %s; it must be float32", i, dtype_name(part_lse.dtype));
    }
    if (shape_of(part_out) != out_shape || shape_of(part_lse) != lse_shape) {
      return error(NA_ERR_SHAPE, "parts[%zu] has out %s and lse %s; expected %s and %s", i,
                   shape_text(part_out).c_str(), shape_text(part_lse).c_str(), shape_text(out_shape).c_str(),
                   shape_text(lse_shape).c_str());
    }
    for (Tensor* tensor : {parts[i].out, parts[i].lse}) {
      if (tensor->device() != device) {
        return error(NA_ERR_DEVICE, "parts[%zu] is on %s but parts[0] is on %s; move it with to()", i,
                     tensor->device()->name.c_str(), device->name.c_str());
      }
      inputs.push_back(tensor);
    }
  }
  Ref<Tensor>&out = result->out, &lse = result->lse;
  if (out) NA_TRY(check_out(out.get(), out_shape, first.dtype, device, inputs));
  if (!out) NA_TRY(Tensor::allocate(device, first.dtype, out_shape, false, false, &out));
  if (!lse) NA_TRY(Tensor::allocate(device, NA_FLOAT32, lse_shape, false, false, &lse));
  all->add(new MergeOperation(parts, out.get(), lse.get()));
  return {};
}

}  // namespace na
