// Attention for Ampere and later, in the style of the kernels that are shipped: cp.async into a ring of two stages,
// ldmatrix, mma.sync. bfloat16, headDim 64 or 128. A test of the interpreter, not a fast kernel.
//
// Four warps have 16 queries each and share the keys. A stage is read by all warps, so that a barrier of the block
// stands between the last read of a stage and the copies that overwrite it, and another between the wait for one's own
// copies and the first read of what others copied.

#include "launch.h"
#include "ptx.h"

namespace test_kernels {
namespace {

constexpr int kQueries = 64, kKeys = 64, kThreads = 128, kStages = 2;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f, kInfinity = __builtin_huge_valf();

// Rows of kHeadDim elements in chunks of 16 bytes; the chunk is exchanged by the row, so that the eight rows of a
// matrix lie in different banks.
template <int kHeadDim>
__device__ uint32_t chunk_address(uint32_t tile, int row, int chunk) {
  return tile + (row * (kHeadDim / 8) + (chunk ^ row % 8)) * 16;
}

struct Tensors {
  const __nv_bfloat16 *q, *k, *v;
  __nv_bfloat16* out;
  float* lse;
};

// Starts copying rows [first, first + 64) of one head; rows beyond `rows` become zeros.
template <int kHeadDim>
__device__ void load(uint32_t tile, const __nv_bfloat16* tensor, int first, int rows, int heads) {
  constexpr int kChunks = kHeadDim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < rows;
    const __nv_bfloat16* from = tensor + static_cast<int64_t>(valid ? first + row : 0) * heads * kHeadDim + chunk * 8;
    copy_async(chunk_address<kHeadDim>(tile, row, chunk), from, valid);
  }
}

// S = Q K^T of a warp's 16 queries: eight accumulators of 16 x 8.
template <int kHeadDim>
__device__ void multiply_keys(float (&scores)[8][4], const uint32_t (&q)[kHeadDim / 16][4], uint32_t k, int lane) {
#pragma unroll
  for (int key = 0; key < kKeys; key += 16) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; step++) {
      uint32_t b[4];  // keys 0-7 and 8-15, each for the lower and the upper half of the step
      load_matrix(b, chunk_address<kHeadDim>(k, key + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
      multiply(scores[key / 8], q[step], b[0], b[1]);
      multiply(scores[key / 8 + 1], q[step], b[2], b[3]);
    }
  }
}

// O += P V; an accumulator of scores is, in pairs, the left operand of this product.
template <int kHeadDim>
__device__ void multiply_values(float (&out)[kHeadDim / 8][4], const float (&weights)[8][4], uint32_t v, int lane) {
#pragma unroll
  for (int step = 0; step < kKeys / 16; step++) {
    const float(&low)[4] = weights[2 * step], (&high)[4] = weights[2 * step + 1];
    const uint32_t a[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])};
#pragma unroll
    for (int column = 0; column < kHeadDim; column += 16) {
      uint32_t b[4];  // columns 0-7 and 8-15, each for keys 0-7 and 8-15 of the step
      load_matrix_transposed(b, chunk_address<kHeadDim>(v, step * 16 + lane % 16, column / 8 + lane / 16));
      multiply(out[column / 8], a, b[0], b[1]);
      multiply(out[column / 8 + 1], a, b[2], b[3]);
    }
  }
}

template <int kHeadDim, bool kCausal>
__device__ void attend(const Tensors& tensors, int queries, int keys, float scale) {
  constexpr uint32_t kTileBytes = kKeys * kHeadDim * sizeof(__nv_bfloat16);
  extern __shared__ __align__(128) uint8_t memory[];
  const int first_query = static_cast<int>(blockIdx.x) * kQueries, heads = static_cast<int>(gridDim.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t batch = blockIdx.z, head = blockIdx.y;
  const int64_t q_at = (batch * queries * heads + head) * kHeadDim, k_at = (batch * keys * heads + head) * kHeadDim;
  const uint32_t q_tile = shared_address(memory);
  const auto k_tile = [&](int tile) { return q_tile + (1 + tile % kStages) * kTileBytes; };
  const auto v_tile = [&](int tile) { return q_tile + (1 + kStages + tile % kStages) * kTileBytes; };

  const int last = min(first_query + kQueries, queries) - 1;
  const int visible = kCausal ? min(keys, last + keys - queries + 1) : keys;
  const int tiles = max(0, (visible + kKeys - 1) / kKeys);
  load<kHeadDim>(q_tile, tensors.q + q_at, first_query, queries, heads);
  const auto load_keys = [&](int tile) {
    if (tile < tiles) {
      load<kHeadDim>(k_tile(tile), tensors.k + k_at, tile * kKeys, keys, heads);
      load<kHeadDim>(v_tile(tile), tensors.v + k_at, tile * kKeys, keys, heads);
    }
    copy_async_commit();  // also when there is nothing, so that groups and tiles keep in step
  };
  load_keys(0);

  uint32_t q[kHeadDim / 16][4];
  float out[kHeadDim / 8][4] = {}, maximum[2] = {-kInfinity, -kInfinity}, sum[2] = {0, 0};
  const int row[2] = {first_query + warp * 16 + lane / 4, first_query + warp * 16 + lane / 4 + 8};
  for (int tile = 0; tile < tiles; tile++) {
    load_keys(tile + 1);
    copy_async_wait<1>();
    __syncthreads();  // what all threads copied is there
    if (tile == 0) {
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; step++) {
        load_matrix(q[step], chunk_address<kHeadDim>(q_tile, warp * 16 + lane % 16, step * 2 + lane / 16));
      }
    }
    float scores[8][4] = {};
    multiply_keys<kHeadDim>(scores, q, k_tile(tile), lane);
    const int first_key = tile * kKeys;
    if (first_key + kKeys > keys || (kCausal && first_key + kKeys - 1 > first_query + keys - queries)) {
#pragma unroll
      for (int i = 0; i < 32; i++) {
        const int key = first_key + i / 4 * 8 + lane % 4 * 2 + i % 2, position = row[i / 2 % 2] + keys - queries;
        if (key >= keys || (kCausal && key > position)) scores[i / 4][i % 4] = -kInfinity;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float top = maximum[r];
#pragma unroll
      for (int i = 0; i < 16; i++) top = fmaxf(top, scores[i / 2][2 * r + i % 2] * scale);
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
      const float zero = top == -kInfinity ? 0 : top, decay = exp2f(maximum[r] - zero);
      maximum[r] = top;
      sum[r] *= decay;
#pragma unroll
      for (int i = 0; i < 16; i++) {
        float& score = scores[i / 2][2 * r + i % 2];
        score = exp2f(score * scale - zero);
        sum[r] += score;
      }
#pragma unroll
      for (int i = 0; i < kHeadDim / 4; i++) out[i / 2][2 * r + i % 2] *= decay;
    }
    multiply_values<kHeadDim>(out, scores, v_tile(tile), lane);
    __syncthreads();  // all have read the stage that the next round overwrites
  }

  for (int r = 0; r < 2; r++) {
    sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 2);
    if (row[r] >= queries) continue;
    const float share = sum[r] == 0 ? 0 : 1 / sum[r];
    __nv_bfloat16* to = tensors.out + q_at + static_cast<int64_t>(row[r]) * heads * kHeadDim + lane % 4 * 2;
    for (int i = 0; i < kHeadDim / 8; i++) {
      *reinterpret_cast<uint32_t*>(to + i * 8) = pack(out[i][2 * r] * share, out[i][2 * r + 1] * share);
    }
    if (lane % 4 == 0) {
      tensors.lse[(batch * queries + row[r]) * heads + head] =
          sum[r] == 0 ? -kInfinity : maximum[r] * kLn2 + logf(sum[r]);
    }
  }
}

}  // namespace

template <int kHeadDim, bool kCausal>
__global__ void __launch_bounds__(kThreads)
    ampere_kernel(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, __nv_bfloat16* out,
                  float* lse, int queries, int keys, float scale) {
  attend<kHeadDim, kCausal>({q, k, v, out, lse}, queries, keys, scale * kLog2E);
}

namespace {

template <int kHeadDim, bool kCausal>
Problem start(const void* q, const void* k, const void* v, void* out, float* lse, const Shape& shape,
              cudaStream_t stream) {
  const dim3 grid((shape.queries + kQueries - 1) / kQueries, shape.heads, shape.batch);
  const size_t bytes = (1 + 2 * kStages) * kKeys * kHeadDim * sizeof(__nv_bfloat16);
  using Element = __nv_bfloat16;
  return launch(ampere_kernel<kHeadDim, kCausal>, grid, kThreads, bytes, stream, static_cast<const Element*>(q),
                static_cast<const Element*>(k), static_cast<const Element*>(v), static_cast<Element*>(out), lse,
                shape.queries, shape.keys, shape.scale);
}

}  // namespace

// Tensors are device memory, [batch, tokens, heads, headDim]; lse is [batch, tokens, heads]. Empty, or what went wrong.
Problem ampere_attention(const void* q, const void* k, const void* v, void* out, float* lse, const Shape& shape,
                         cudaStream_t stream) {
  if (shape.head_dim == 64) {
    return shape.causal ? start<64, true>(q, k, v, out, lse, shape, stream)
                        : start<64, false>(q, k, v, out, lse, shape, stream);
  }
  return shape.causal ? start<128, true>(q, k, v, out, lse, shape, stream)
                      : start<128, false>(q, k, v, out, lse, shape, stream);
}

}  // namespace test_kernels
