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

const Entry* find(const Problem& problem) {
  for (const Entry& entry : kEntries) {
    if (problem.head_dim <= entry.head_dim && problem.value_dim <= entry.value_dim) return &entry;
  }
  return nullptr;
}

}  // namespace

bool attention_sm90_takes(const Problem& problem, Element element) {
  if (element == Element::kFloat32 || !find(problem)) return false;
  // Whole chunks of 16 bytes, since outputs are stored by pairs and copied by boxes.
  if (problem.head_dim % 8 != 0 || problem.value_dim % 8 != 0) return false;
  const auto view = [&](const void* data, const Strides& strides, int32_t columns, int32_t heads, int32_t tokens) {
    return has_tensor_map({data, strides, columns, heads, tokens, problem.batch});
  };
  return view(problem.q, problem.q_strides, problem.head_dim, problem.heads, problem.queries) &&
         view(problem.k, problem.k_strides, problem.head_dim, problem.kv_heads, problem.keys) &&
         view(problem.v, problem.v_strides, problem.value_dim, problem.kv_heads, problem.keys) &&
         view(problem.out, problem.out_strides, problem.value_dim, problem.heads, problem.queries);
}

TileShape attention_sm90_tile(const Problem& problem) {
  const Entry* entry = find(problem);
  if (!entry) return {0, 0};
  const Tiling of = tiling(entry->head_dim, entry->value_dim, modifies_scores(problem));
  return {64 * of.consumers, of.keys};
}

cudaError_t attention_sm90(const Problem& problem, Element element, cudaStream_t stream) {
  if (!attention_sm90_takes(problem, element)) return cudaErrorInvalidValue;
  return find(problem)->run[element == Element::kBfloat16](problem, stream);
}

}  // namespace na::cuda
