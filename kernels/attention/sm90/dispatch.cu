#include "attention/sm90/dispatch.h"
#include "attention/sm90/tensor_map.h"
#include "tile/score.h"

namespace na::cuda {
namespace {

using namespace sm90;

using Run = cudaError_t (*)(const Problem&, cudaStream_t);

// Problems are padded to the first dimensions that hold theirs.
struct Entry {
  int head_dim, value_dim;
  Run run[2];  // float16, bfloat16
};

template <int kHeadDim, int kValueDim>
constexpr Entry kEntry = {
    kHeadDim,
    kValueDim,
    {run_sm90<Element::kFloat16, kHeadDim, kValueDim>, run_sm90<Element::kBfloat16, kHeadDim, kValueDim>}};
constexpr Entry kEntries[] = {kEntry<64, 64>,   kEntry<96, 96>,   kEntry<128, 128>,
                              kEntry<192, 128>, kEntry<192, 192>, kEntry<256, 256>};

template <int kHeadDim>
constexpr Entry kGridEntry = {
    kHeadDim, kHeadDim, {run_sm90_grid<Element::kFloat16, kHeadDim>, run_sm90_grid<Element::kBfloat16, kHeadDim>}};
constexpr Entry kGridEntries[] = {kGridEntry<64>, kGridEntry<128>, kGridEntry<256>};

template <size_t kCount>
const Entry* find(const Entry (&entries)[kCount], const Problem& problem) {
  const bool computes = computes_biases(problem);
  for (const Entry& entry : entries) {
    if (computes && !may_compute_biases(entry.head_dim, entry.value_dim)) continue;
    if (problem.head_dim <= entry.head_dim && problem.value_dim <= entry.value_dim) return &entry;
  }
  return nullptr;
}

const Entry* find(const Problem& problem) {
  return is_grid(problem) ? find(kGridEntries, problem) : find(kEntries, problem);
}

}  // namespace

bool attention_sm90_takes(const Problem& problem, Element element) {
  if (element == Element::kFloat32 || !find(problem)) return false;
  // Whole chunks of 16 bytes, since outputs are stored by pairs and copied by boxes.
  if (problem.head_dim % 8 != 0 || problem.value_dim % 8 != 0) return false;
  const Grid& grid = problem.grid;
  if (is_grid(problem)) {
    if (modifies_scores(problem)) return false;
    for (const Axis& axis : grid.neighborhoods[0].axes) {
      if (axis.dilation > kMostStep) return false;
    }
  }
  const auto view = [&](const void* data, const Strides& strides, const int64_t(&axes)[kMostAxes], int32_t columns,
                        int32_t heads, int32_t tokens) {
    return has_tensor_map(is_grid(problem) ? view_of_grid(problem, data, strides, axes, columns, heads)
                                           : view_of_tokens(problem, data, strides, columns, heads, tokens));
  };
  return view(problem.q, problem.q_strides, grid.q, problem.head_dim, problem.heads, problem.queries) &&
         view(problem.k, problem.k_strides, grid.k, problem.head_dim, problem.kv_heads, problem.keys) &&
         view(problem.v, problem.v_strides, grid.v, problem.value_dim, problem.kv_heads, problem.keys) &&
         (problem.parts > 0 ||
          view(problem.out, problem.out_strides, grid.out, problem.value_dim, problem.heads, problem.queries));
}

TileShape attention_sm90_tile(const Problem& problem) {
  const Entry* entry = find(problem);
  if (!entry) return {0, 0};
  const Tiling of = tiling(entry->head_dim, entry->value_dim, modifies_scores(problem), is_grid(problem));
  return {64 * of.consumers, of.keys};
}

cudaError_t attention_sm90(const Problem& problem, Element element, cudaStream_t stream) {
  if (!attention_sm90_takes(problem, element)) return cudaErrorInvalidValue;
  return find(problem)->run[element == Element::kBfloat16](problem, stream);
}

}  // namespace na::cuda
