#define NA_WIDTH 8
#define NA_VECTORS 2
#define NA_ROWS 6
#include "cpu/executor/best_scores.h"
#include "cpu/executor/cluster.h"
#include "cpu/executor/retrieve.h"
#include "cpu/executor/scan.h"
#include "cpu/executor/tile.h"

namespace na::cpu {

void run_avx2(const Problem& problem, Tile& tile, Sums& sums) { run_tile(problem, tile, sums); }

void pack_best_avx2(const BestScores& wanted) { pack_best(wanted); }
void best_scores_avx2(const BestScores& wanted) { best_scores(wanted); }

void scan_rows_avx2(const Scan& scan) { scan_rows(scan); }

void score_list_avx2(const RowList& list, const float* query, float* scores) { score_list(list, query, scores); }

void add_list_avx2(const RowList& list, const float* weights, float* sums) { add_list(list, weights, sums); }

float reached_by_avx2(const float* values, int64_t count, int64_t wanted) { return reached_by(values, count, wanted); }

void assign_keys_avx2(const Assign& assign) { assign_keys(assign); }

}  // namespace na::cpu
