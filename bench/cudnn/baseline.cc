#include "../cuda/baseline.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // where the frontend looks for cuDNN's functions
}

namespace {

namespace fe = cudnn_frontend;

enum Tensor : int64_t { kQ = 1, kK, kV, kOut, kLse };

cudnnHandle_t handle = nullptr;

int fail(const std::string& sentence, char* error, uint64_t error_size) {
  std::snprintf(error, error_size, "%s", sentence.c_str());
  return -1;
}

// Runs what may throw or give one of the frontend's errors.
template <typename Body>
int guarded(char* error, uint64_t error_size, Body body) {
  try {
    fe::error_t status = body();
    return status.is_good() ? 0 : fail("cuDNN: " + status.get_message(), error, error_size);
  } catch (const std::exception& exception) {
    return fail(exception.what(), error, error_size);
  }
}

std::shared_ptr<fe::graph::Tensor_attributes> input(fe::graph::Graph& graph, Tensor uid, const char* name,
                                                    int64_t batch, int64_t tokens, int64_t heads, int64_t head_dim) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_name(name)
                          .set_uid(uid)
                          .set_dim({batch, heads, tokens, head_dim})
                          .set_stride({tokens * heads * head_dim, head_dim, heads * head_dim, 1}));
}

}  // namespace

struct baseline_plan {
  fe::graph::Graph graph;
};

int baseline_open(const char* library, char* error, uint64_t error_size) {
  if (!fe::cudnn_dlhandle) fe::cudnn_dlhandle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
  if (!fe::cudnn_dlhandle) return fail(dlerror(), error, error_size);
  return guarded(error, error_size, [] {
    const cudnnStatus_t status = handle ? CUDNN_STATUS_SUCCESS : fe::detail::create_handle(&handle);
    if (status == CUDNN_STATUS_SUCCESS) return fe::error_t{};
    return fe::error_t{fe::error_code_t::HANDLE_ERROR, fe::detail::get_error_string(status)};
  });
}

int64_t baseline_version(void) { return static_cast<int64_t>(fe::detail::get_backend_version()); }

int baseline_plan_create(const baseline_shape* shape, baseline_plan** plan, int64_t* workspace_bytes, char* error,
                         uint64_t error_size) {
  return guarded(error, error_size, [&]() -> fe::error_t {
    const baseline_shape& s = *shape;
    auto made = std::make_unique<baseline_plan>();
    fe::graph::Graph& graph = made->graph;
    graph.set_io_data_type(s.bfloat16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true).set_attn_scale(s.scale);
    if (s.causal) {
      // The same mask where there are as many queries as keys, and then the older, most trodden path.
      options.set_diagonal_alignment(s.queries == s.keys ? fe::DiagonalAlignment_t::TOP_LEFT
                                                         : fe::DiagonalAlignment_t::BOTTOM_RIGHT);
      options.set_diagonal_band_right_bound(0);
    }
    const auto [out, lse] =
        graph.sdpa(input(graph, kQ, "q", s.batch, s.queries, s.heads, s.head_dim),
                   input(graph, kK, "k", s.batch, s.keys, s.kv_heads, s.head_dim),
                   input(graph, kV, "v", s.batch, s.keys, s.kv_heads, s.head_dim), std::move(options));
    out->set_output(true)
        .set_uid(kOut)
        .set_dim({s.batch, s.heads, s.queries, s.head_dim})
        .set_stride({s.queries * s.heads * s.head_dim, s.head_dim, s.heads * s.head_dim, 1});
    lse->set_output(true).set_uid(kLse).set_data_type(fe::DataType_t::FLOAT);
    if (auto status = graph.build(handle, {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}); status.is_bad()) {
      return status;
    }
    if (auto status = graph.get_workspace_size(*workspace_bytes); status.is_bad()) return status;
    *plan = made.release();
    return {};
  });
}

int baseline_plan_execute(baseline_plan* plan, const void* q, const void* k, const void* v, void* out, void* lse,
                          void* workspace, void* stream, char* error, uint64_t error_size) {
  return guarded(error, error_size, [&]() -> fe::error_t {
    const cudnnStatus_t status = fe::detail::set_stream(handle, static_cast<cudaStream_t>(stream));
    if (status != CUDNN_STATUS_SUCCESS) {
      return {fe::error_code_t::HANDLE_ERROR, fe::detail::get_error_string(status)};
    }
    std::unordered_map<int64_t, void*> tensors = {
        {kQ, const_cast<void*>(q)}, {kK, const_cast<void*>(k)}, {kV, const_cast<void*>(v)}, {kOut, out}, {kLse, lse}};
    return plan->graph.execute(handle, tensors, workspace);
  });
}

void baseline_plan_destroy(baseline_plan* plan) { delete plan; }
