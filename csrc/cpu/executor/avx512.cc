#define NA_WIDTH 16
#define NA_VECTORS 4
#define NA_ROWS 4
#include "cpu/executor/best_scores.h"
#include "cpu/executor/cluster.h"
#include "cpu/executor/retrieve.h"
#include "cpu/executor/tile.h"

namespace na::cpu {

void run_avx512(const Problem& problem, Tile& tile, Sums& sums) { run_tile(problem, tile, sums); }

void pack_best_avx512(const BestScores& wanted) { pack_best(wanted); }
void best_scores_avx512(const BestScores& wanted) { best_scores(wanted); }

void score_list_avx512(const RowList& list, const float* query, float* scores) { score_list(list, query, scores); }

void add_list_avx512(const RowList& list, const float* weights, float* sums) { add_list(list, weights, sums); }

float reached_by_avx512(const float* values, int64_t count, int64_t wanted) {
  return reached_by(values, count, wanted);
}

void assign_keys_avx512(const Assign& assign) { assign_keys(assign); }

}  // namespace na::cpu
