// Attention for Hopper, in the style of the kernels that are shipped: tensor copies into a ring of stages, one producer
// and two consumer warpgroups, wgmma. bfloat16, headDim 128. A test of the interpreter, not a fast kernel.
//
// Who waits for whom: the producer waits for empty[stage] before it overwrites a stage; consumers wait for full[stage],
// which the copies signal by their bytes; each consumer warp arrives at empty[stage] when its products with K and V are
// done.

#include "launch.h"
#include "ptx.h"

namespace test_kernels {
namespace {

constexpr int kQueries = 128, kKeys = 128, kHeadDim = 128, kStages = 2;
constexpr int kConsumers = 2, kThreads = 128 * (1 + kConsumers);
constexpr int kRows = kQueries / kConsumers;  // of a consumer warpgroup
// A tile lies in two halves of 64 columns, each row of a half 128 bytes, swizzled.
constexpr int kColumns = 64, kRowBytes = 128, kHalfBytes = kKeys * kRowBytes, kTileBytes = 2 * kHalfBytes;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f, kInfinity = __builtin_huge_valf();

struct Shared {
  alignas(1024) uint8_t q[kTileBytes];  // later O
  alignas(1024) uint8_t k[kStages][kTileBytes];
  alignas(1024) uint8_t v[kStages][kTileBytes];
  uint64_t q_full, full[kStages], empty[kStages];
};

// What the block (x: query tile, y: head, z: batch) has to do.
struct Work {
  int query, head, batch, tiles;
};

__device__ Work work_of(int queries, int keys, bool causal) {
  Work work = {static_cast<int>(blockIdx.x) * kQueries, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z), 0};
  const int last = min(work.query + kQueries, queries) - 1;
  const int visible = causal ? min(keys, last + keys - queries + 1) : keys;
  work.tiles = max(0, (visible + kKeys - 1) / kKeys);
  return work;
}

__device__ void load(uint8_t* to, const CUtensorMap* map, uint64_t* barrier, const Work& work, int token) {
  load_tile(to, map, barrier, 0, work.head, token, work.batch);
  load_tile(to + kHalfBytes, map, barrier, kColumns, work.head, token, work.batch);
}

__device__ void produce(Shared& shared, const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v,
                        const Work& work) {
  barrier_expect(&shared.q_full, kTileBytes);
  load(shared.q, q, &shared.q_full, work, work.query);
  for (int tile = 0; tile < work.tiles; tile++) {
    const int stage = tile % kStages, round = tile / kStages;
    barrier_wait(&shared.empty[stage], (round + 1) % 2);
    barrier_expect(&shared.full[stage], 2 * kTileBytes);
    load(shared.k[stage], k, &shared.full[stage], work, tile * kKeys);
    load(shared.v[stage], v, &shared.full[stage], work, tile * kKeys);
  }
}

// The rows of an accumulator that a thread holds: row[0] in elements 4j and 4j + 1, row[1] in 4j + 2 and 4j + 3,
// columns 8j + column and the next.
struct Place {
  int row[2], column;
};

// The running maximum (times scale, in units of log2) and sum of a thread's two rows.
struct Softmax {
  float maximum[2] = {-kInfinity, -kInfinity}, sum[2] = {0, 0};
};

// The sum or maximum over the four threads that share a row.
template <typename Combine>
__device__ float across_row(float x, Combine combine) {
  x = combine(x, __shfl_xor_sync(0xffffffff, x, 1));
  return combine(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ void mask(float (&scores)[64], const Place& place, const Work& work, int first_key, int queries, int keys,
                     bool causal) {
#pragma unroll
  for (int i = 0; i < 64; i++) {
    const int key = first_key + i / 4 * 8 + place.column + i % 2;
    const int position = work.query + place.row[i / 2 % 2] + keys - queries;
    if (key >= keys || (causal && key > position)) scores[i] = -kInfinity;
  }
}

// Scores become weights; the output so far is scaled to the new maximum.
__device__ void soften(float (&scores)[64], float (&out)[64], Softmax& softmax, float scale) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float top = softmax.maximum[r];
#pragma unroll
    for (int i = 0; i < 64; i++) {
      if (i / 2 % 2 == r) top = fmaxf(top, scores[i] * scale);
    }
    top = across_row(top, [](float a, float b) { return fmaxf(a, b); });
    const float zero = top == -kInfinity ? 0 : top, decay = exp2f(softmax.maximum[r] - zero);
    softmax.maximum[r] = top;
    softmax.sum[r] *= decay;
#pragma unroll
    for (int i = 0; i < 64; i++) {
      if (i / 2 % 2 != r) continue;
      scores[i] = exp2f(scores[i] * scale - zero);
      softmax.sum[r] += scores[i];
      out[i] *= decay;
    }
  }
}

__device__ void multiply_keys(float (&scores)[64], uint32_t q, uint32_t k) {
  multiply_fence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; step++) {
    const uint32_t at = step / 4 * kHalfBytes + step % 4 * 32;
    multiply_shared(scores, matrix(q + at, 16, 8 * kRowBytes), matrix(k + at, 16, 8 * kRowBytes), step > 0);
  }
  multiply_commit();
  multiply_wait();
}

__device__ void multiply_values(float (&out)[64], const float (&weights)[64], uint32_t v) {
  uint32_t a[kKeys / 16][4];
#pragma unroll
  for (int i = 0; i < 32; i++) a[i / 4][i % 4] = pack(weights[2 * i], weights[2 * i + 1]);
  multiply_fence();
#pragma unroll
  for (int step = 0; step < kKeys / 16; step++) {
    multiply_registers(out, a[step], matrix(v + step * 16 * kRowBytes, kHalfBytes, 8 * kRowBytes));
  }
  multiply_commit();
  multiply_wait();
}

// O goes through the shared memory of Q, each warpgroup its own rows, swizzled as the tensor copy expects it. The copy
// drops rows beyond the last query.
__device__ void store(Shared& shared, const CUtensorMap* map, const float (&out)[64], const Softmax& softmax,
                      const Place& place, const Work& work, int consumer) {
#pragma unroll
  for (int i = 0; i < 32; i++) {
    const int r = i % 2, row = place.row[r], column = i / 2 * 8 + place.column;
    const float share = softmax.sum[r] == 0 ? 0 : 1 / softmax.sum[r];
    const int chunk = column % kColumns / 8 ^ row % 8;
    uint8_t* to = shared.q + column / kColumns * kHalfBytes + row * kRowBytes + chunk * 16 + column % 8 * 2;
    *reinterpret_cast<uint32_t*>(to) = pack(out[2 * i] * share, out[2 * i + 1] * share);
  }
  fence_async();
  named_barrier(1 + consumer, 128);
  if (threadIdx.x % 128 != 0) return;
  for (int half = 0; half < 2; half++) {
    store_tile(map, shared.q + half * kHalfBytes + consumer * kRows * kRowBytes, half * kColumns, work.head,
               work.query + consumer * kRows, work.batch);
  }
  store_wait();
}

__device__ void consume(Shared& shared, const CUtensorMap* out_map, float* lse, const Work& work, int queries, int keys,
                        float scale, bool causal) {
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = consumer * kRows + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane / 4;
  const Place place = {{row, row + 8}, lane % 4 * 2};
  float scores[64], out[64] = {};
  Softmax softmax;
  barrier_wait(&shared.q_full, 0);
  for (int tile = 0; tile < work.tiles; tile++) {
    const int stage = tile % kStages, round = tile / kStages;
    barrier_wait(&shared.full[stage], round % 2);
    multiply_keys(scores, shared_address(shared.q) + consumer * kRows * kRowBytes, shared_address(shared.k[stage]));
    const int first_key = tile * kKeys, first_position = work.query + keys - queries;
    if (first_key + kKeys > keys || (causal && first_key + kKeys - 1 > first_position)) {
      mask(scores, place, work, first_key, queries, keys, causal);
    }
    soften(scores, out, softmax, scale * kLog2E);
    multiply_values(out, scores, shared_address(shared.v[stage]));
    if (lane == 0) barrier_arrive(&shared.empty[stage]);
  }
  for (int r = 0; r < 2; r++) {
    softmax.sum[r] = across_row(softmax.sum[r], [](float a, float b) { return a + b; });
    const int query = work.query + place.row[r];
    if (lane % 4 == 0 && query < queries) {
      const float value = softmax.sum[r] == 0 ? -kInfinity : softmax.maximum[r] * kLn2 + logf(softmax.sum[r]);
      lse[(static_cast<int64_t>(work.batch) * queries + query) * gridDim.y + work.head] = value;
    }
  }
  store(shared, out_map, out, softmax, place, work, consumer);
}

}  // namespace

__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap out, float* lse,
                  int queries, int keys, float scale, int causal) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const Work work = work_of(queries, keys, causal != 0);
  if (threadIdx.x == 0) {
    barrier_init(&shared.q_full, 1);
    for (int stage = 0; stage < kStages; stage++) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], kConsumers * 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) produce(shared, &q, &k, &v, work);
  } else {
    take_registers<240>();
    consume(shared, &out, lse, work, queries, keys, scale, causal != 0);
  }
#endif
}

namespace {

// [batch, tokens, heads, 128] in boxes of 64 columns and some tokens of one head.
Problem encode(CUtensorMap* map, const void* data, const Shape& shape, int tokens, int box) {
  const cuuint64_t extent[] = {kHeadDim, cuuint64_t(shape.heads), cuuint64_t(tokens), cuuint64_t(shape.batch)};
  const cuuint64_t row = kHeadDim * sizeof(__nv_bfloat16);
  const cuuint64_t strides[] = {row, row * shape.heads, row * shape.heads * tokens};
  const cuuint32_t boxes[] = {kColumns, 1, cuuint32_t(box), 1}, steps[] = {1, 1, 1, 1};
  return encode_tensor_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(data), extent, strides, boxes,
                           steps, CU_TENSOR_MAP_SWIZZLE_128B);
}

}  // namespace

// Tensors are device memory, [batch, tokens, heads, 128]; lse is [batch, tokens, heads]. Empty, or what went wrong.
Problem hopper_attention(const void* q, const void* k, const void* v, void* out, float* lse, const Shape& shape,
                         cudaStream_t stream) {
  CUtensorMap maps[4];
  if (Problem problem = encode(&maps[0], q, shape, shape.queries, kQueries)) return problem;
  if (Problem problem = encode(&maps[1], k, shape, shape.keys, kKeys)) return problem;
  if (Problem problem = encode(&maps[2], v, shape, shape.keys, kKeys)) return problem;
  if (Problem problem = encode(&maps[3], out, shape, shape.queries, kRows)) return problem;
  const dim3 grid((shape.queries + kQueries - 1) / kQueries, shape.heads, shape.batch);
  return launch(hopper_kernel, grid, kThreads, sizeof(Shared), stream, maps[0], maps[1], maps[2], maps[3], lse,
                shape.queries, shape.keys, shape.scale, shape.causal);
}

}  // namespace test_kernels
