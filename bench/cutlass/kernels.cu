// The kernels of one head dimension and mask: HEAD_DIM, CAUSAL.
#include <cutlass/cutlass.h>

#include <collective/fmha_fusion.hpp>
#include <cute/tensor.hpp>
#include <device/device_universal.hpp>
#include <kernel/fmha_kernel_builder.hpp>

#include "kernels.h"

namespace {

using cute::_1, cute::_64, cute::_128, cute::_256, cute::Shape;
using Simple = cutlass::gemm::KernelTma;
using Cooperative = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using PingPong = cutlass::gemm::KernelTmaWarpSpecializedPingpong;

using Element = cutlass::bfloat16_t;
using Mask =
    std::conditional_t<CAUSAL, cutlass::fmha::collective::CausalFusion, cutlass::fmha::collective::DefaultFusion>;
using Rows = cute::tuple<int, _1, cute::tuple<int, int>>;  // tokens, elements, (batch, heads)

// Tile: queries, keys, head dimension.
template <typename Tile, typename Schedule>
bool launch(const Call& call, cudaStream_t stream) {
  using Attention = typename cutlass::fmha::kernel::FmhaBuilder<Element, float, float, Tile, Rows, Rows, Rows, Mask,
                                                                Schedule>::Kernel;
  const baseline_shape& s = call.shape;
  const int batch = s.batch, heads = s.heads, queries = s.queries, keys = s.keys, head_dim = s.head_dim;
  const int row = heads * head_dim;
  const auto rows = [&](int tokens) { return Rows{row, {}, {tokens * row, head_dim}}; };
  cutlass::KernelHardwareInfo device;
  device.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(device.device_id);
  const typename Attention::Arguments arguments = {
      {batch, heads, queries, keys, head_dim},
      {static_cast<const Element*>(call.q), rows(queries), static_cast<const Element*>(call.k), rows(keys),
       static_cast<const Element*>(call.v), rows(keys)},
      {static_cast<Element*>(call.out), rows(queries), call.lse, {{}, {heads * queries, queries}}},
      device};
  using Operation = cutlass::device::Universal<Attention>;
  if (Operation::can_implement(arguments) != cutlass::Status::kSuccess) return false;
  return Operation().run(arguments, nullptr, stream) == cutlass::Status::kSuccess;
}

}  // namespace

template <>
std::vector<Kernel> kernels<HEAD_DIM, CAUSAL>() {
#if HEAD_DIM == 64
  return {launch<Shape<_64, _128, _64>, Simple>, launch<Shape<_128, _64, _64>, Cooperative>,
          launch<Shape<_128, _64, _64>, PingPong>};
#elif HEAD_DIM == 128
  return {launch<Shape<_128, _128, _128>, Cooperative>, launch<Shape<_128, _128, _128>, PingPong>};
#else
  return {launch<Shape<_128, _64, _256>, Cooperative>};
#endif
}
