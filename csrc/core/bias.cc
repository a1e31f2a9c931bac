#include "core/bias.h"

namespace na {
namespace {

using Count = long long;

// Backends count elements of a table in 32 bits.
constexpr int64_t kMostTableSpan = INT32_MAX;

struct Resolver {
  const ScoreShape& shape;
  const size_t position;
  na_bias* const bias;
  std::vector<Ref<Tensor>>* const held;
  std::vector<int32_t>* const places;

  Status check(const char* name, const Tensor* tensor) const {
    if (tensor->view.dtype != NA_FLOAT32) {
      return error(NA_ERR_DTYPE, "bias %zu: %s must be float32, not %s: convert it with to()", position, name,
                   dtype_name(tensor->view.dtype));
    }
    if (tensor->device() != shape.device) {
      return error(NA_ERR_DEVICE, "bias %zu: %s is on %s but q is on %s: move it with to()", position, name,
                   tensor->device()->name.c_str(), shape.device->name.c_str());
    }
    return {};
  }

  // A view of `given`, whose axis i is axes[i] among `full`. Its length there must be the same, or 1 where `broadcast`
  // has a bit; all other axes are broadcast. `wanted` says it in words.
  Status spread(const char* name, const char* wanted, Tensor* given, const int* axes, const Shape& full,
                unsigned broadcast, const na_tensor** result) {
    const na_tensor& from = given->view;
    na_tensor view{};
    view.data = from.data;
    view.dtype = NA_FLOAT32;
    view.rank = static_cast<int32_t>(full.size());
    for (int i = 0; i < view.rank; i++) view.shape[i] = full[static_cast<size_t>(i)];
    bool fits = axes != nullptr;
    for (int i = 0; fits && i < from.rank; i++) {
      const int64_t length = view.shape[axes[i]];
      if (from.shape[i] == length) {
        view.stride[axes[i]] = length == 1 ? 0 : from.stride[i];
      } else {
        fits = from.shape[i] == 1 && (broadcast >> axes[i] & 1);
      }
    }
    if (!fits) {
      return error(NA_ERR_SHAPE, "bias %zu: %s of shape %s is not %s = %s", position, name, shape_text(from).c_str(),
                   wanted, shape_text(full).c_str());
    }
    held->push_back(Ref<Tensor>(new Tensor(view, given->storage)));
    *result = &held->back()->view;
    return {};
  }

  Status key_bias(Tensor* given) {
    static const int kAxes[4][3] = {{}, {3}, {0, 3}, {0, 1, 3}};
    NA_TRY(check("keyBias", given));
    const int32_t rank = given->view.rank;
    return spread("keyBias", "[Lk], [batch, Lk] or [batch, heads, Lk] for [batch, heads, Lq, Lk]", given,
                  rank >= 1 && rank <= 3 ? kAxes[rank] : nullptr, scores(), 3, &bias->tensor);
  }

  Status dense(Tensor* given, const std::vector<int64_t>& heads) {
    static const int kAxes[4] = {0, 1, 2, 3};
    NA_TRY(check("denseBias", given));
    const int32_t rank = given->view.rank;
    Shape full = scores();
    if (!heads.empty()) {
      NA_TRY(place(heads));
      full[1] = static_cast<int64_t>(heads.size());
    }
    return spread("denseBias", "broadcastable to [batch, heads, Lq, Lk]", given,
                  rank >= 1 && rank <= 4 ? kAxes + (4 - rank) : nullptr, full, 15, &bias->tensor);
  }

  Status place(const std::vector<int64_t>& heads) {
    places->assign(static_cast<size_t>(shape.heads), -1);
    for (size_t i = 0; i < heads.size(); i++) {
      if (heads[i] < 0 || heads[i] >= shape.heads) {
        return error(NA_ERR_OPTION, "bias %zu: denseBias: heads[%zu] is %lld; q has heads 0 to %lld", position, i,
                     static_cast<Count>(heads[i]), static_cast<Count>(shape.heads - 1));
      }
      (*places)[static_cast<size_t>(heads[i])] = static_cast<int32_t>(i);
    }
    bias->places = places->data();
    return {};
  }

  Status factor(const char* name, Tensor* given, const char* wanted, int64_t tokens, const na_tensor** result) {
    static const int kAxes[4] = {0, 2, 1, 3};
    NA_TRY(check(name, given));
    const na_tensor& view = given->view;
    const int64_t rank = view.rank == 4 ? view.shape[3] : 0;
    NA_TRY(spread(name, wanted, given, view.rank == 4 ? kAxes : nullptr, {shape.batch, shape.heads, tokens, rank}, 3,
                  result));
    if (rank < 1) return error(NA_ERR_SHAPE, "bias %zu: %s has rank 0: it must have 1 or more", position, name);
    if (rank > 1 && view.stride[3] != 1) {
      return error(NA_ERR_SHAPE, "bias %zu: %s has stride %lld on its last axis; it must be 1: copy it with to()",
                   position, name, static_cast<Count>(view.stride[3]));
    }
    return {};
  }

  Status low_rank(const BiasSpec& spec) {
    bias->path = spec.path;
    NA_TRY(factor("phiQ of lowRankBias", spec.query,
                  "[batch or 1, Lq, heads or 1, R], which would make [batch, heads, Lq, R]", shape.queries,
                  &bias->query));
    NA_TRY(factor("phiK of lowRankBias", spec.key,
                  "[batch or 1, Lk, heads or 1, R], which would make [batch, heads, Lk, R]", shape.keys, &bias->key));
    if (bias->query->shape[3] == bias->key->shape[3]) return {};
    return error(NA_ERR_SHAPE, "bias %zu: phiQ of lowRankBias has rank %lld but phiK has %lld: they must be equal",
                 position, static_cast<Count>(bias->query->shape[3]), static_cast<Count>(bias->key->shape[3]));
  }

  Status alibi(Tensor* slopes) {
    static const int kAxes[1] = {0};
    if (shape.query_axes.size() != 1 || shape.key_axes.size() != 1) {
      return error(NA_ERR_SHAPE, "bias %zu: alibi needs one token axis, not %s in q and %s in k: use distanceBias()",
                   position, shape_text(shape.query_axes).c_str(), shape_text(shape.key_axes).c_str());
    }
    if (!slopes) return {};
    NA_TRY(check("slopes of alibi", slopes));
    return spread("slopes of alibi", "[heads]", slopes, slopes->view.rank == 1 ? kAxes : nullptr, {shape.heads}, 0,
                  &bias->tensor);
  }

  Status coordinates(const char* name, Tensor* given, const char* wanted, int64_t tokens, const na_tensor** result) {
    static const int kAxes[3] = {0, 1, 2};
    NA_TRY(check(name, given));
    const na_tensor& view = given->view;
    const bool known = view.rank == 2 || view.rank == 3;
    const int64_t dimensions = known ? view.shape[view.rank - 1] : 0;
    NA_TRY(spread(name, wanted, given, known ? kAxes + (3 - view.rank) : nullptr, {shape.batch, tokens, dimensions}, 1,
                  result));
    if (dimensions >= 1 && dimensions <= NA_MAX_COORDINATES) return {};
    return error(NA_ERR_SHAPE, "bias %zu: %s has %lld coordinates to a token: 1 to %d are supported", position, name,
                 static_cast<Count>(dimensions), NA_MAX_COORDINATES);
  }

  Status distance(const BiasSpec& spec) {
    NA_TRY(coordinates("q of distanceBias", spec.query,
                       "[Lq, n] or [batch or 1, Lq, n], which would make [batch, Lq, n]", shape.queries, &bias->query));
    NA_TRY(coordinates("k of distanceBias", spec.key, "[Lk, n] or [batch or 1, Lk, n], which would make [batch, Lk, n]",
                       shape.keys, &bias->key));
    if (bias->query->shape[2] != bias->key->shape[2]) {
      return error(NA_ERR_SHAPE, "bias %zu: q of distanceBias has %lld coordinates but k has %lld: they must be equal",
                   position, static_cast<Count>(bias->query->shape[2]), static_cast<Count>(bias->key->shape[2]));
    }
    if (!spec.tensor) return {};
    static const int kByHead[1] = {1}, kByQuery[3] = {0, 2, 1};
    NA_TRY(check("weight of distanceBias", spec.tensor));
    const int32_t rank = spec.tensor->view.rank;
    return spread("weight of distanceBias",
                  "[heads] or [batch or 1, Lq, heads or 1], which would make [batch, heads, Lq]", spec.tensor,
                  rank == 1   ? kByHead
                  : rank == 3 ? kByQuery
                              : nullptr,
                  {shape.batch, shape.heads, shape.queries}, 3, &bias->tensor);
  }

  Status relative(const BiasSpec& spec) {
    static const char* const kName = "table of relativePositionBias";
    static const int kAxes[1 + NA_MAX_AXES] = {0, 1, 2, 3};
    const size_t axes = shape.query_axes.size();
    if (shape.key_axes.size() != axes || (axes > 1 && shape.key_axes != shape.query_axes)) {
      return error(NA_ERR_SHAPE,
                   "bias %zu: relativePositionBias needs one token axis or the same ones in q and k, not %s and %s",
                   position, shape_text(shape.query_axes).c_str(), shape_text(shape.key_axes).c_str());
    }
    NA_TRY(check(kName, spec.tensor));
    const na_tensor& view = spec.tensor->view;
    bool odd = view.rank == static_cast<int32_t>(axes) + 1;
    Shape full = {shape.heads};
    int64_t span = 0;
    for (int32_t a = 0; a < view.rank; a++) {
      if (a > 0) odd &= view.shape[a] % 2 == 1;
      if (a > 0) full.push_back(view.shape[a]);
      span += (view.shape[a] - 1) * view.stride[a];
    }
    if (!odd) {
      return error(NA_ERR_SHAPE,
                   "bias %zu: %s has shape %s: it must be [heads or 1, 2 r + 1 for each of the %zu token axes]",
                   position, kName, shape_text(view).c_str(), axes);
    }
    if (span > kMostTableSpan) {
      return error(NA_ERR_SHAPE, "bias %zu: %s spans %lld elements: at most %lld are supported", position, kName,
                   static_cast<Count>(span), static_cast<Count>(kMostTableSpan));
    }
    if (spec.step.size() != 1 && spec.step.size() != axes) {
      return error(NA_ERR_OPTION,
                   "bias %zu: relativePositionBias: dilation has %zu values for %zu token axes: give one value or one "
                   "per axis",
                   position, spec.step.size(), axes);
    }
    for (size_t a = 0; a < axes; a++) {
      bias->step[a] = spec.step[spec.step.size() == 1 ? 0 : a];
      if (bias->step[a] < 1) {
        return error(NA_ERR_OPTION, "bias %zu: relativePositionBias: dilation %lld must be 1 or more", position,
                     static_cast<Count>(bias->step[a]));
      }
    }
    return spread(kName, "[heads or 1, extents...], which would make [heads, extents...]", spec.tensor, kAxes, full, 1,
                  &bias->tensor);
  }

  Shape scores() const { return {shape.batch, shape.heads, shape.queries, shape.keys}; }
};

}  // namespace

Status resolve_bias(const BiasSpec& spec, const ScoreShape& shape, size_t position, na_bias* bias,
                    std::vector<Ref<Tensor>>* held, std::vector<int32_t>* places) {
  Resolver resolver{shape, position, bias, held, places};
  switch (spec.kind) {
    case BiasSpec::kKey: bias->kind = NA_BIAS_DENSE; return resolver.key_bias(spec.tensor);
    case BiasSpec::kDense: bias->kind = NA_BIAS_DENSE; return resolver.dense(spec.tensor, spec.heads);
    case BiasSpec::kLowRank: bias->kind = NA_BIAS_LOW_RANK; return resolver.low_rank(spec);
    case BiasSpec::kAlibi: bias->kind = NA_BIAS_ALIBI; return resolver.alibi(spec.tensor);
    case BiasSpec::kDistance: bias->kind = NA_BIAS_DISTANCE; return resolver.distance(spec);
    case BiasSpec::kRelative: bias->kind = NA_BIAS_RELATIVE; return resolver.relative(spec);
  }
  return {};
}

}  // namespace na
