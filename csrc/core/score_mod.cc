#include "core/score_mod.h"

namespace na {
namespace {

using Count = long long;

// The value of an axis: the one value given for all, or its own.
Status per_axis(const char* name, const PerAxis& values, size_t axis, size_t axes, int64_t* value) {
  if (values.size() != 1 && values.size() != axes) {
    return error(NA_ERR_OPTION, "neighborhood: %s has %zu values for %zu token axes: give one value or one per axis",
                 name, values.size(), axes);
  }
  *value = values.size() == 1 ? values[0] : values[axis];
  return {};
}

Status resolve(const NeighborhoodSpec& spec, const Shape& extents, na_neighborhood* result) {
  const size_t axes = extents.size();
  for (size_t a = 0; a < axes; a++) {
    const int64_t extent = extents[a];
    int64_t window, stride, dilation, causal, wrap;
    NA_TRY(per_axis("window", spec.window, a, axes, &window));
    NA_TRY(per_axis("stride", spec.stride, a, axes, &stride));
    NA_TRY(per_axis("dilation", spec.dilation, a, axes, &dilation));
    NA_TRY(per_axis("causal", spec.causal, a, axes, &causal));
    NA_TRY(per_axis("wrap", spec.wrap, a, axes, &wrap));
    if (dilation < 1 || dilation > extent) {
      return error(NA_ERR_OPTION, "neighborhood: dilation %lld of axis %zu is not in 1 ... %lld, the extent",
                   Count(dilation), a, Count(extent));
    }
    if (window == -1) window = extent / dilation;
    if (window < 1 || window > extent / dilation) {
      return error(
          NA_ERR_OPTION,
          "neighborhood: window %lld times dilation %lld of axis %zu exceeds its extent %lld: the window is at most "
          "%lld, or -1 for all",
          Count(window), Count(dilation), a, Count(extent), Count(extent / dilation));
    }
    if (stride < 1 || stride > window) {
      return error(NA_ERR_OPTION, "neighborhood: stride %lld of axis %zu is not in 1 ... %lld, the window",
                   Count(stride), a, Count(window));
    }
    if (wrap && causal) {
      return error(NA_ERR_OPTION, "neighborhood: axis %zu cannot both wrap and be causal", a);
    }
    if (wrap && (extent % dilation != 0 || extent / dilation % stride != 0)) {
      return error(
          NA_ERR_OPTION,
          "neighborhood: axis %zu wraps, so its extent %lld must be divisible by dilation %lld and what remains by "
          "stride %lld",
          a, Count(extent), Count(dilation), Count(stride));
    }
    result->window[a] = window;
    result->stride[a] = stride;
    result->dilation[a] = dilation;
    result->causal[a] = causal != 0;
    result->wrap[a] = wrap != 0;
  }
  return {};
}

// Refuses a plan that does not fit the call.
Status check_plan(const SparsePlan& plan, const ScoreShape& shape) {
  const na_plan& p = plan.view;
  if (shape.ragged) {
    return error(NA_ERR_OPTION, "mask: a sparse plan cannot be used with cuSeqlens; call attention() per sequence");
  }
  if (plan.device() != shape.device) {
    return error(NA_ERR_DEVICE, "mask: the sparse plan is on %s but q is on %s; move it with to()",
                 plan.device()->name.c_str(), shape.device->name.c_str());
  }
  if (p.queries != shape.queries || p.keys != shape.keys) {
    return error(NA_ERR_SHAPE, "mask: the sparse plan is for %lld queries and %lld keys, q and k have %lld and %lld",
                 Count(p.queries), Count(p.keys), Count(shape.queries), Count(shape.keys));
  }
  if (p.batch != 1 && p.batch != shape.batch) {
    return error(NA_ERR_SHAPE, "mask: the sparse plan is for a batch of %lld, q has one of %lld", Count(p.batch),
                 Count(shape.batch));
  }
  // The heads of a pattern are those of whole key heads, or a part of those of one.
  if (shape.heads % p.heads != 0 || (shape.kv_heads % p.heads != 0 && p.heads % shape.kv_heads != 0)) {
    return error(NA_ERR_SHAPE,
                 "mask: the sparse plan has %lld patterns of heads for %lld heads and %lld kvHeads: give 1, or one per "
                 "key head, or one per head",
                 Count(p.heads), Count(shape.heads), Count(shape.kv_heads));
  }
  return {};
}

}  // namespace

Status ScoreMod::make(const std::vector<MaskSpec>& masks, const std::vector<BiasSpec>& biases, const ScoreShape& shape,
                      Ref<ScoreMod>* result) {
  if (masks.empty() && biases.empty()) return {};
  Ref<ScoreMod> mod(new ScoreMod);
  mod->settings_.reserve(masks.size());  // masks_ points into it
  for (const MaskSpec& spec : masks) NA_TRY(mod->add_mask(spec, shape));
  mod->places_.resize(biases.size());
  for (size_t i = 0; i < biases.size(); i++) {
    na_bias bias{};
    NA_TRY(resolve_bias(biases[i], shape, i, &bias, &mod->tensors_, &mod->places_[i]));
    mod->biases_.push_back(bias);
  }
  *result = std::move(mod);
  return {};
}

Status ScoreMod::add_mask(const MaskSpec& spec, const ScoreShape& shape) {
  na_mask mask{};
  mask.kind = spec.kind;
  mask.left = spec.left;
  mask.right = spec.right;
  if (spec.kind == NA_MASK_WINDOW) {
    if (spec.left < -1 || spec.right < -1) {
      return error(NA_ERR_OPTION, "window: left %lld and right %lld must be -1 (unlimited), 0 or more",
                   Count(spec.left), Count(spec.right));
    }
  } else if (spec.kind == NA_MASK_PLAN) {
    if (plan_) return error(NA_ERR_OPTION, "mask: more than one sparse plan; make one of them with intersect()");
    NA_TRY(check_plan(*spec.plan, shape));
    plan_ = spec.plan;
    if (plan_->complete) {  // all that it says is its causality: no backend reads it, and dense attention runs
      if (plan_->view.causal == 0) return {};
      mask.kind = NA_MASK_WINDOW;
      mask.right = 0;
    } else {
      plan_->each_tensor([&](const Ref<Tensor>& tensor) { tensors_.push_back(tensor); });
      mask.plan = &plan_->view;
    }
  } else {
    if (shape.ragged) {
      return error(NA_ERR_OPTION, "mask: neighborhood needs a grid and cannot be used with cuSeqlens; use window()");
    }
    if (shape.query_axes != shape.key_axes) {
      return error(NA_ERR_SHAPE, "mask: neighborhood needs the same token axes in q and k, not %s and %s",
                   shape_text(shape.query_axes).c_str(), shape_text(shape.key_axes).c_str());
    }
    if (spec.settings.size() != 1 && static_cast<int64_t>(spec.settings.size()) != shape.heads) {
      return error(NA_ERR_OPTION, "neighborhood: %zu settings for %lld query heads: give one, or one per head",
                   spec.settings.size(), Count(shape.heads));
    }
    std::vector<na_neighborhood> settings(spec.settings.size());
    // Without queries there is nothing to see, and no extent to check against.
    if (shape.queries > 0) {
      for (size_t i = 0; i < settings.size(); i++) NA_TRY(resolve(spec.settings[i], shape.query_axes, &settings[i]));
    }
    settings_.push_back(std::move(settings));
    mask.settings = settings_.back().data();
    mask.settings_count = static_cast<int32_t>(settings_.back().size());
  }
  masks_.push_back(mask);
  return {};
}

}  // namespace na
