#define NA_WIDTH 4
#define NA_VECTORS 2
#define NA_ROWS 4
#include "cpu/executor/best_scores.h"
#include "cpu/executor/cluster.h"
#include "cpu/executor/retrieve.h"
#include "cpu/executor/scan.h"
#include "cpu/executor/tile.h"

namespace na::cpu {

void run_generic(const Problem& problem, Tile& tile, Sums& sums) { run_tile(problem, tile, sums); }

void pack_best_generic(const BestScores& wanted) { pack_best(wanted); }
void best_scores_generic(const BestScores& wanted) { best_scores(wanted); }

void scan_rows_generic(const Scan& scan) { scan_rows(scan); }

void score_list_generic(const RowList& list, const float* query, float* scores) { score_list(list, query, scores); }

void add_list_generic(const RowList& list, const float* weights, float* sums) { add_list(list, weights, sums); }

float reached_by_generic(const float* values, int64_t count, int64_t wanted) {
  return reached_by(values, count, wanted);
}

void assign_keys_generic(const Assign& assign) { assign_keys(assign); }

}  // namespace na::cpu
