#include "cuda/select.h"

#include "select/select.h"

namespace na::cuda {

// What was pooled need not be there yet: this is asked before anything is enqueued.
Status check_select(const na_select& select, int64_t* workspace_bytes) {
  if (select.per_query) {
    const int64_t rows = select.out->batch * select.out->heads;
    if (select.out->queries > INT32_MAX / rows) {
      return error(
          NA_ERR_SHAPE,
          "pooledPlan with queries 'own': %lld queries of %lld batch entries and patterns of heads; CUDA takes "
          "less than 2^31 of them together: select for fewer at once",
          static_cast<long long>(select.out->queries), static_cast<long long>(rows));
    }
  }
  const auto columns = static_cast<long long>(select.q->shape[select.q->rank - 1]);
  if (columns > kMostSelectColumns) {
    return error(NA_ERR_SHAPE, "headDim of q is %lld; CUDA takes 1 to %d, device 'cpu' more", columns,
                 kMostSelectColumns);
  }
  *workspace_bytes = select_workspace(select);
  return {};
}

}  // namespace na::cuda
