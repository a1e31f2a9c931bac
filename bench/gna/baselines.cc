// The two ways to compute neighborhood attention that fused kernels are compared with (Hassani et al. 2024,
// arXiv:2403.04690), both in three passes with every weight in memory, [head][token][key of the window]:
//   naive    for each query the products with its own keys, a softmax, the weighted sum of its own values
//   unfused  the first and the last pass as matrix products of a tile of queries with all keys that any of them sees
// Stride, dilation and causality are left out, as in the comparison. Tensors are [head][token][dim], float32 or
// bfloat16; weights are of the same type, sums float32. Compiled by baselines.ts for the machine it runs on.

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

namespace {

constexpr int kAxes = 2, kLanes = 16;
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4)));

struct Half {
  uint16_t bits;
};

float widen(float x) { return x; }
float widen(Half x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

void narrow(float x, float* to) { *to = x; }
void narrow(float x, Half* to) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  to->bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Problem {
  int64_t extent[kAxes], window[kAxes];  // one axis is two with an outer extent and window of 1
  int64_t heads, dim, tokens, keys;      // keys: of a window
  float scale;
};

// The first key along an axis that the query at i sees.
int64_t first_key(const Problem& p, int axis, int64_t i) {
  return std::max<int64_t>(0, std::min(i - p.window[axis] / 2, p.extent[axis] - p.window[axis]));
}

// Calls task(0) ... task(count - 1), and returns when all have ended.
template <typename Task>
void in_parallel(int threads, int64_t count, const Task& task) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < count;) task(i);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

template <typename Element>
void softmax(const Problem& p, Element* row) {
  float top = widen(row[0]), sum = 0;
  for (int64_t j = 0; j < p.keys; j++) top = std::max(top, widen(row[j]));
  for (int64_t j = 0; j < p.keys; j++) {
    const float weight = expf(widen(row[j]) - top);
    sum += weight;
    narrow(weight, row + j);
  }
  for (int64_t j = 0; j < p.keys; j++) narrow(widen(row[j]) / sum, row + j);
}

template <typename Element>
void softmax_all(const Problem& p, Element* weights, int threads) {
  in_parallel(threads, p.heads * p.extent[0], [&](int64_t line) {
    for (int64_t x = 0; x < p.extent[1]; x++) softmax(p, weights + (line * p.extent[1] + x) * p.keys);
  });
}

// Calls visit(index in the window, flat key) for the keys that the query at (y, x) sees.
template <typename Visit>
void for_each_key(const Problem& p, int64_t y, int64_t x, const Visit& visit) {
  const int64_t top = first_key(p, 0, y), left = first_key(p, 1, x);
  int64_t index = 0;
  for (int64_t i = 0; i < p.window[0]; i++) {
    for (int64_t j = 0; j < p.window[1]; j++) visit(index++, (top + i) * p.extent[1] + left + j);
  }
}

template <typename Element>
void naive(const Problem& p, const Element* q, const Element* k, const Element* v, Element* out, Element* weights,
           int threads) {
  const auto for_each_query = [&](const auto& task) {
    in_parallel(threads, p.heads * p.extent[0], [&](int64_t line) {
      const int64_t head = line / p.extent[0], y = line % p.extent[0];
      for (int64_t x = 0; x < p.extent[1]; x++) task(head * p.tokens, y, x, head * p.tokens + y * p.extent[1] + x);
    });
  };
  for_each_query([&](int64_t origin, int64_t y, int64_t x, int64_t row) {
    const Element* query = q + row * p.dim;
    for_each_key(p, y, x, [&](int64_t index, int64_t key) {
      const Element* other = k + (origin + key) * p.dim;
      float sum = 0;
      for (int64_t d = 0; d < p.dim; d++) sum += widen(query[d]) * widen(other[d]);
      narrow(sum * p.scale, weights + row * p.keys + index);
    });
  });
  softmax_all(p, weights, threads);
  for_each_query([&](int64_t origin, int64_t y, int64_t x, int64_t row) {
    std::vector<float> sum(p.dim);
    for_each_key(p, y, x, [&](int64_t index, int64_t key) {
      const float weight = widen(weights[row * p.keys + index]);
      const Element* value = v + (origin + key) * p.dim;
      for (int64_t d = 0; d < p.dim; d++) sum[d] += weight * widen(value[d]);
    });
    for (int64_t d = 0; d < p.dim; d++) narrow(sum[d], out + row * p.dim + d);
  });
}

// c[row][column] = the sum over i of a[row][i] * b[i][column], in blocks of 6 rows and 4 vectors that stay in
// registers. Rows and columns are multiples of those; b and c have `columns` columns, a has `inner`.
constexpr int kBlockRows = 6, kBlockVectors = 4, kBlockColumns = kBlockVectors * kLanes;

int64_t at_panel(int64_t inner, int64_t row, int64_t column) {
  return (column / kBlockColumns * inner + row) * kBlockColumns + column % kBlockColumns;
}

void multiply(int64_t rows, int64_t columns, int64_t inner, const float* a, const float* b, float* c) {
  for (int64_t column = 0; column < columns; column += kBlockColumns) {
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      Vector sum[kBlockRows][kBlockVectors] = {};
      for (int64_t i = 0; i < inner; i++) {
        Vector line[kBlockVectors];
        const float* from = b + at_panel(inner, i, column);
        for (int u = 0; u < kBlockVectors; u++) memcpy(&line[u], from + u * kLanes, sizeof(Vector));
        for (int r = 0; r < kBlockRows; r++) {
          const float element = a[(row + r) * inner + i];
          for (int u = 0; u < kBlockVectors; u++) sum[r][u] += element * line[u];
        }
      }
      for (int r = 0; r < kBlockRows; r++) {
        for (int u = 0; u < kBlockVectors; u++) {
          memcpy(c + (row + r) * columns + column + u * kLanes, &sum[r][u], sizeof(Vector));
        }
      }
    }
  }
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Queries of a tile, by whether there is one axis or two.
constexpr int64_t kTile[2][kAxes] = {{1, 96}, {8, 12}};

// A tile of queries, the box of keys that they see, and scratch for both products.
struct Tile {
  int64_t origin, begin[kAxes], count[kAxes], key_begin[kAxes], key_count[kAxes], queries, keys, columns;
  std::vector<float> left, right, product;

  Tile(const Problem& p, int64_t index) {
    const int64_t* box = kTile[p.extent[0] > 1];
    const int64_t across = (p.extent[1] + box[1] - 1) / box[1], down = (p.extent[0] + box[0] - 1) / box[0];
    origin = index / (across * down) * p.tokens;
    begin[0] = index / across % down * box[0];
    begin[1] = index % across * box[1];
    queries = keys = 1;
    for (int a = 0; a < kAxes; a++) {
      count[a] = std::min(box[a], p.extent[a] - begin[a]);
      key_begin[a] = first_key(p, a, begin[a]);
      key_count[a] = first_key(p, a, begin[a] + count[a] - 1) + p.window[a] - key_begin[a];
      queries *= count[a];
      keys *= key_count[a];
    }
    columns = round_up(keys, kBlockColumns);
  }

  static int64_t number(const Problem& p) {
    const int64_t* box = kTile[p.extent[0] > 1];
    return p.heads * ((p.extent[0] + box[0] - 1) / box[0]) * ((p.extent[1] + box[1] - 1) / box[1]);
  }

  int64_t query(const Problem& p, int64_t n) const {
    return origin + (begin[0] + n / count[1]) * p.extent[1] + begin[1] + n % count[1];
  }

  int64_t key(const Problem& p, int64_t n) const {
    return origin + (key_begin[0] + n / key_count[1]) * p.extent[1] + key_begin[1] + n % key_count[1];
  }

  // Calls visit(weight of the query, key of the tile) for lines of window[1] adjoining keys.
  template <typename Visit>
  void for_each_line(const Problem& p, int64_t n, const Visit& visit) const {
    const int64_t top = first_key(p, 0, begin[0] + n / count[1]) - key_begin[0];
    const int64_t left = first_key(p, 1, begin[1] + n % count[1]) - key_begin[1];
    for (int64_t i = 0; i < p.window[0]; i++) visit(i * p.window[1], (top + i) * key_count[1] + left);
  }
};

template <typename Element>
void unfused(const Problem& p, const Element* q, const Element* k, const Element* v, Element* out, Element* weights,
             int threads) {
  in_parallel(threads, Tile::number(p), [&](int64_t index) {
    Tile tile(p, index);
    const int64_t rows = round_up(tile.queries, kBlockRows);
    tile.left.resize(rows * p.dim);
    tile.right.resize(p.dim * tile.columns);
    tile.product.resize(rows * tile.columns);
    for (int64_t n = 0; n < tile.queries; n++) {
      const Element* row = q + tile.query(p, n) * p.dim;
      for (int64_t d = 0; d < p.dim; d++) tile.left[n * p.dim + d] = widen(row[d]) * p.scale;
    }
    for (int64_t n = 0; n < tile.keys; n++) {
      const Element* row = k + tile.key(p, n) * p.dim;
      for (int64_t d = 0; d < p.dim; d++) tile.right[at_panel(p.dim, d, n)] = widen(row[d]);
    }
    multiply(rows, tile.columns, p.dim, tile.left.data(), tile.right.data(), tile.product.data());
    for (int64_t n = 0; n < tile.queries; n++) {
      Element* row = weights + tile.query(p, n) * p.keys;
      tile.for_each_line(p, n, [&](int64_t at, int64_t key) {
        const float* score = &tile.product[n * tile.columns + key];
        for (int64_t j = 0; j < p.window[1]; j++) narrow(score[j], row + at + j);
      });
    }
  });
  softmax_all(p, weights, threads);
  in_parallel(threads, Tile::number(p), [&](int64_t index) {
    Tile tile(p, index);
    const int64_t rows = round_up(tile.queries, kBlockRows), columns = round_up(p.dim, kBlockColumns);
    tile.left.assign(rows * tile.keys, 0.0f);
    tile.right.assign(tile.keys * columns, 0.0f);
    tile.product.resize(rows * columns);
    for (int64_t n = 0; n < tile.queries; n++) {
      const Element* row = weights + tile.query(p, n) * p.keys;
      tile.for_each_line(p, n, [&](int64_t at, int64_t key) {
        float* weight = &tile.left[n * tile.keys + key];
        for (int64_t j = 0; j < p.window[1]; j++) weight[j] = widen(row[at + j]);
      });
    }
    for (int64_t n = 0; n < tile.keys; n++) {
      const Element* row = v + tile.key(p, n) * p.dim;
      for (int64_t d = 0; d < p.dim; d++) tile.right[at_panel(tile.keys, n, d)] = widen(row[d]);
    }
    multiply(rows, columns, tile.keys, tile.left.data(), tile.right.data(), tile.product.data());
    for (int64_t n = 0; n < tile.queries; n++) {
      Element* row = out + tile.query(p, n) * p.dim;
      for (int64_t d = 0; d < p.dim; d++) narrow(tile.product[n * columns + d], row + d);
    }
  });
}

template <typename Element>
void run(bool fast, const Problem& p, const void* const* tensors, void* out, void* weights, int threads) {
  const Element *q = static_cast<const Element*>(tensors[0]), *k = static_cast<const Element*>(tensors[1]),
                *v = static_cast<const Element*>(tensors[2]);
  (fast ? unfused<Element> : naive<Element>)(p, q, k, v, static_cast<Element*>(out), static_cast<Element*>(weights),
                                             threads);
}

}  // namespace

extern "C" void baseline(int fast, int half, int64_t rows, int64_t columns, int64_t window_rows, int64_t window_columns,
                         int64_t heads, int64_t dim, const void* q, const void* k, const void* v, void* out,
                         void* weights, int threads) {
  Problem p = {{rows, columns},
               {window_rows, window_columns},
               heads,
               dim,
               rows * columns,
               window_rows * window_columns,
               1.0f / sqrtf(static_cast<float>(dim))};
  const void* const tensors[] = {q, k, v};
  (half ? run<Half> : run<float>)(fast != 0, p, tensors, out, weights, threads);
}
