// The test kernels as a C library: tensors of the host go to the device, the kernel runs on a stream, results come
// back.
#include <vector>

#include "launch.h"

namespace test_kernels {

Problem hopper_attention(const void* q, const void* k, const void* v, void* out, float* lse, const Shape& shape,
                         cudaStream_t stream);
Problem ampere_attention(const void* q, const void* k, const void* v, void* out, float* lse, const Shape& shape,
                         cudaStream_t stream);

namespace {

// Device memory and copies on one stream; keeps the first problem.
class Session {
 public:
  Session() { note(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Session() {
    for (void* memory : memory_) cudaFreeAsync(memory, stream_);
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  void* device(size_t bytes) {
    void* memory = nullptr;
    note(cudaMallocAsync(&memory, bytes, stream_));
    memory_.push_back(memory);
    return memory;
  }
  const void* upload(const void* data, size_t bytes) {
    void* memory = device(bytes);
    note(cudaMemcpyAsync(memory, data, bytes, cudaMemcpyHostToDevice, stream_));
    return memory;
  }
  void download(void* to, const void* from, size_t bytes) {
    note(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
  }
  void note(Problem problem) {
    if (!problem_) problem_ = problem;
  }
  void note(cudaError_t status) { note(problem_of(status)); }
  Problem wait() {
    note(cudaStreamSynchronize(stream_));
    return problem_;
  }
  cudaStream_t stream() const { return stream_; }
  bool good() const { return !problem_; }

 private:
  cudaStream_t stream_ = nullptr;
  std::vector<void*> memory_;
  Problem problem_ = nullptr;
};

}  // namespace
}  // namespace test_kernels

// Attention on tensors of the host, bfloat16 [batch, tokens, heads, headDim]; lse is float32 [batch, tokens, heads].
// nullptr, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char* test_attention(int hopper, const void* q, const void* k,
                                                                             const void* v, void* out, float* lse,
                                                                             int batch, int heads, int queries,
                                                                             int keys, int head_dim, int causal,
                                                                             float scale) {
  using namespace test_kernels;
  const Shape shape = {batch, heads, queries, keys, head_dim, causal, scale};
  const size_t rows = size_t(batch) * queries * heads, row = size_t(head_dim) * 2;
  const size_t q_bytes = rows * row, k_bytes = size_t(batch) * keys * heads * row;
  Session session;
  const void *q_device = session.upload(q, q_bytes), *k_device = session.upload(k, k_bytes),
             *v_device = session.upload(v, k_bytes);
  void* out_device = session.device(q_bytes);
  auto* lse_device = static_cast<float*>(session.device(rows * sizeof(float)));
  if (session.good()) {
    const auto run = hopper ? hopper_attention : ampere_attention;
    session.note(run(q_device, k_device, v_device, out_device, lse_device, shape, session.stream()));
  }
  if (session.good()) {
    session.download(out, out_device, q_bytes);
    session.download(lse, lse_device, rows * sizeof(float));
  }
  return session.wait();
}
