// The host side of the kernels of one tile.
#pragma once

#include <atomic>

#include "attention/sm90/dispatch.h"
#include "attention/sm90/executor.h"
#include "attention/sm90/tensor_map.h"

namespace na::cuda::sm90 {

// Bytes of keys and values that heads of a section have together: the second-level cache of an H100 has 50 MB.
constexpr int64_t kSectionBytes = 32 << 20;

template <typename T>
cudaError_t describe(const Problem& problem, Launch* launch) {
  const int64_t parts = problem.parts > 0 ? problem.parts : 1, group = problem.heads / problem.kv_heads;
  launch->heads = T::kGrid ? problem.grid.heads : problem.heads;
  const int64_t slots = T::kGrid ? query_tiles(problem.grid) : tile_slots(problem, T::kRows);
  const int64_t units = int64_t{problem.batch} * launch->heads * parts;
  if (units > (1 << 30) / slots) return cudaErrorInvalidConfiguration;
  const int64_t head_bytes = int64_t{problem.keys} * (problem.head_dim + problem.value_dim) * 2;
  const int64_t section = (kSectionBytes / head_bytes > 1 ? kSectionBytes / head_bytes : 1) * group * parts;
  launch->units = static_cast<int32_t>(units);
  launch->section = static_cast<int32_t>(section < units ? section : units);
  launch->slots = static_cast<int32_t>(slots);
  launch->items = static_cast<int32_t>(units * slots);
  launch->group = static_cast<int32_t>(group);
  launch->cleans = T::kGrid || problem.cu_q || problem.left != kUnlimited || problem.right != kUnlimited;
  launch->key_rows = T::kKeys;
  launch->query_rows = T::kOwnRows;
  return cudaSuccess;
}

template <typename T>
cudaError_t describe_band(const Problem& problem, Maps* maps) {
  const auto encode = [&](CUtensorMap* map, const void* data, const Strides& strides, int32_t columns, int32_t heads,
                          int32_t tokens, int box_tokens) {
    return encode_tensor_map(map, view_of_tokens(problem, data, strides, columns, heads, tokens), T::kElement,
                             {{T::kBoxColumns, 1, box_tokens, 1}, {1, 1, 1, 1}});
  };
  cudaError_t status =
      encode(&maps->q, problem.q, problem.q_strides, problem.head_dim, problem.heads, problem.queries, T::kOwnRows);
  if (status == cudaSuccess) {
    status = encode(&maps->k, problem.k, problem.k_strides, problem.head_dim, problem.kv_heads, problem.keys, T::kKeys);
  }
  if (status == cudaSuccess) {
    status =
        encode(&maps->v, problem.v, problem.v_strides, problem.value_dim, problem.kv_heads, problem.keys, T::kKeys);
  }
  if (status == cudaSuccess && problem.parts == 0) {
    status = encode(&maps->out, problem.out, problem.out_strides, problem.value_dim, problem.heads, problem.queries,
                    T::kOwnRows);
  }
  return status;
}

// The box of one copy: the first 2^n tokens of a box of a grid, with its sides' exponents, so few that no side spans
// more than a copy may.
struct Piece {
  int32_t rows, side[kMostAxes];

  Piece(const Grid& grid, const int32_t (&box)[kMostAxes], int32_t most) : rows(1) {
    for (int a = kMostAxes - 1; a >= 0; a--) {
      side[a] = 1;
      // A slower axis begins once the faster ones are whole.
      for (int32_t n = 0; n < box[a] && whole_ && 2 * rows <= most; n++) {
        if (2 * side[a] * grid.neighborhoods[0].axes[a].dilation > kMostSpan) break;
        side[a] *= 2;
        rows *= 2;
      }
      whole_ &= side[a] == 1 << box[a];
    }
  }

 private:
  bool whole_ = true;
};

template <typename T>
cudaError_t describe_grid(const Problem& problem, Launch* launch, Maps* maps) {
  const Grid& grid = problem.grid;
  const auto tokens = [](const int32_t(&box)[kMostAxes]) { return 1 << (box[0] + box[1] + box[2]); };
  if (tokens(grid.query_box) != T::kRows || tokens(grid.key_box) != T::kKeys) return cudaErrorInvalidValue;
  const Piece queries(grid, grid.query_box, T::kOwnRows), keys(grid, grid.key_box, T::kKeys);
  launch->query_rows = queries.rows;
  launch->key_rows = keys.rows;
  const auto encode = [&](CUtensorMap* map, const void* data, const Strides& strides, const int64_t(&axes)[kMostAxes],
                          int32_t columns, int32_t heads, const Piece& piece) {
    const Axis(&along)[kMostAxes] = grid.neighborhoods[0].axes;
    return encode_tensor_map(map, view_of_grid(problem, data, strides, axes, columns, heads), T::kElement,
                             {{T::kBoxColumns, 1, piece.side[2], piece.side[1], piece.side[0]},
                              {1, 1, along[2].dilation, along[1].dilation, along[0].dilation}});
  };
  cudaError_t status = encode(&maps->q, problem.q, problem.q_strides, grid.q, problem.head_dim, problem.heads, queries);
  if (status == cudaSuccess) {
    status = encode(&maps->k, problem.k, problem.k_strides, grid.k, problem.head_dim, problem.kv_heads, keys);
  }
  if (status == cudaSuccess) {
    status = encode(&maps->v, problem.v, problem.v_strides, grid.v, problem.value_dim, problem.kv_heads, keys);
  }
  if (status == cudaSuccess && problem.parts == 0) {
    status = encode(&maps->out, problem.out, problem.out_strides, grid.out, problem.value_dim, problem.heads, queries);
  }
  return status;
}

// The multiprocessors of the current device, after the kernel was allowed its shared memory there.
template <typename T>
cudaError_t prepare(int* multiprocessors) {
  static std::atomic<int> prepared[64];  // multiprocessors of each device, 0: not prepared. Doing it twice does no harm
  int device;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  std::atomic<int>* const known = device < 64 ? &prepared[device] : nullptr;
  *multiprocessors = known ? known->load(std::memory_order_relaxed) : 0;
  if (*multiprocessors > 0) return cudaSuccess;
  cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(&attention_sm90_kernel<T>),
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (status == cudaSuccess && known) known->store(*multiprocessors, std::memory_order_relaxed);
  return status;
}

template <typename T>
cudaError_t launch_tile(Problem problem, cudaStream_t stream) {
  Launch launch;
  Maps maps{};
  int multiprocessors;
  cudaError_t status = describe<T>(problem, &launch);
  if constexpr (T::kGrid) {
    if (status == cudaSuccess) status = describe_grid<T>(problem, &launch, &maps);
  } else {
    if (status == cudaSuccess) status = describe_band<T>(problem, &maps);
  }
  if (status == cudaSuccess) status = prepare<T>(&multiprocessors);
  if (status != cudaSuccess) return status;
  launch.blocks = launch.items < multiprocessors ? launch.items : multiprocessors;
  void* arguments[] = {&problem, &launch, &maps};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&attention_sm90_kernel<T>),
                          dim3(static_cast<uint32_t>(launch.blocks)), dim3(T::kThreads), arguments, T::kSharedBytes,
                          stream);
}

template <Element kElement, int kHeadDim, int kValueDim>
cudaError_t run_sm90(const Problem& problem, cudaStream_t stream) {
  return modifies_scores(problem) ? launch_tile<Tile<kElement, kHeadDim, kValueDim, true, false>>(problem, stream)
                                  : launch_tile<Tile<kElement, kHeadDim, kValueDim, false, false>>(problem, stream);
}

template <Element kElement, int kHeadDim>
cudaError_t run_sm90_grid(const Problem& problem, cudaStream_t stream) {
  return launch_tile<Tile<kElement, kHeadDim, kHeadDim, false, true>>(problem, stream);
}

}  // namespace na::cuda::sm90
