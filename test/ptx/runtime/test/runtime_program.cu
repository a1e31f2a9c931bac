// A program that uses the CUDA runtime as the backend does, one function for each thing that the runtime's tests look
// at.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define CHECK(call)                                             \
  do {                                                          \
    const cudaError_t status = call;                            \
    if (status != cudaSuccess) return cudaGetErrorName(status); \
  } while (false)

namespace {

// What the kernel was compiled for, and its index, times a factor.
__global__ void fill(int* to, int count, char odd, int factor) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
#ifdef __CUDA_ARCH__
  if (i < count) to[i] = __CUDA_ARCH__ * 1000 + i * factor + odd;
#endif
}

__global__ void add(int* to, const int* from, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) to[i] += from[i];
}

__global__ void shared_copy(int* to) {
  extern __shared__ int memory[];
  memory[threadIdx.x] = to[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}

__global__ void double_all(int* to, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) to[i] *= 2;
}

}  // namespace

// kernel<<<>>>, copies in the stream's order.
EXPORT const char* program_fill(int* out, int count, int factor) {
  cudaStream_t stream;
  int* memory;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMallocAsync(&memory, count * sizeof(int), stream));
  fill<<<(count + 63) / 64, 64, 0, stream>>>(memory, count, 5, factor);
  CHECK(cudaGetLastError());
  CHECK(cudaMemcpyAsync(out, memory, count * sizeof(int), cudaMemcpyDeviceToHost, stream));
  CHECK(cudaFreeAsync(memory, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaStreamDestroy(stream));
  return nullptr;
}

// Memory as cudaMalloc leaves it.
EXPORT const char* program_fresh(uint8_t* out, int bytes) {
  void* memory;
  CHECK(cudaMalloc(&memory, bytes));
  CHECK(cudaMemcpy(out, memory, bytes, cudaMemcpyDeviceToHost));
  CHECK(cudaFree(memory));
  return nullptr;
}

// Two streams: the second waits for an event of the first, and adds what the first has made. With `wait` 0 it does not.
EXPORT const char* program_streams(int* out, int count) {
  cudaStream_t first, second;
  cudaEvent_t start, end;
  int *a, *b;
  CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  CHECK(cudaMalloc(&a, count * sizeof(int)));
  CHECK(cudaMalloc(&b, count * sizeof(int)));
  CHECK(cudaEventRecord(start, first));
  fill<<<(count + 63) / 64, 64, 0, first>>>(a, count, 0, 1);
  CHECK(cudaEventRecord(end, first));
  fill<<<(count + 63) / 64, 64, 0, second>>>(b, count, 0, 1);
  CHECK(cudaStreamWaitEvent(second, end, 0));
  add<<<(count + 63) / 64, 64, 0, second>>>(b, a, count);
  CHECK(cudaMemcpyAsync(out, b, count * sizeof(int), cudaMemcpyDeviceToHost, second));
  CHECK(cudaStreamSynchronize(second));
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, start, end));
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(end));
  CHECK(cudaStreamDestroy(first));
  CHECK(cudaStreamDestroy(second));
  CHECK(cudaFree(a));
  CHECK(cudaFree(b));
  return milliseconds >= 0 ? nullptr : "no time has passed";
}

// A captured kernel does nothing until its graph is launched, here `launches` times.
EXPORT const char* program_graph(int* out, int count, int launches) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  int* memory;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMalloc(&memory, count * sizeof(int)));
  fill<<<(count + 63) / 64, 64, 0, stream>>>(memory, count, 0, 1);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  double_all<<<(count + 63) / 64, 64, 0, stream>>>(memory, count);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < launches; i++) CHECK(cudaGraphLaunch(executable, stream));
  CHECK(cudaMemcpyAsync(out, memory, count * sizeof(int), cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  CHECK(cudaFree(memory));
  return nullptr;
}

// Launches that a device refuses: too many threads, no threads, too much shared memory with and without asking.
EXPORT const char* program_refused(int threads, int shared_bytes, int asked_bytes) {
  int* memory;
  CHECK(cudaMalloc(&memory, 1024 * sizeof(int)));
  if (asked_bytes > 0) {
    const auto status = cudaFuncSetAttribute(shared_copy, cudaFuncAttributeMaxDynamicSharedMemorySize, asked_bytes);
    if (status != cudaSuccess) {
      cudaFree(memory);
      return cudaGetErrorName(status);
    }
  }
  shared_copy<<<1, threads, shared_bytes>>>(memory);
  const cudaError_t status = cudaGetLastError();
  CHECK(cudaFree(memory));
  return status == cudaSuccess ? nullptr : cudaGetErrorName(status);
}

// A kernel that writes `over` elements too many; the error is that of the synchronisation.
EXPORT const char* program_overrun(int over) {
  int* memory;
  CHECK(cudaMalloc(&memory, 64 * sizeof(int)));
  fill<<<2, 64>>>(memory, 64 + over, 0, 1);
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaFree(memory));
  return nullptr;
}

// A kernel whose memory is given back before it may run.
EXPORT const char* program_use_after_free() {
  cudaStream_t stream;
  int* memory;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMallocAsync(&memory, 64 * sizeof(int), stream));
  CHECK(cudaFreeAsync(memory, stream));
  fill<<<1, 64, 0, stream>>>(memory, 64, 0, 1);
  CHECK(cudaStreamSynchronize(stream));
  return nullptr;
}

// A copy that goes beyond its allocation, or that says host of device memory.
EXPORT const char* program_bad_copy(int bytes, int kind) {
  char *memory, host[64] = {};
  CHECK(cudaMalloc(&memory, 64));
  const cudaError_t status = cudaMemcpy(memory, host, bytes, static_cast<cudaMemcpyKind>(kind));
  CHECK(cudaFree(memory));
  return status == cudaSuccess ? nullptr : cudaGetErrorName(status);
}

// The driver's encoder of tensor maps, found through the runtime; `stride` must be a multiple of 16.
EXPORT const char* program_tensor_map(int stride) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) return "not found";
  void* memory;
  CHECK(cudaMalloc(&memory, 4096));
  CUtensorMap map;
  const cuuint64_t extent[] = {16, 8}, strides[] = {static_cast<cuuint64_t>(stride)};
  const cuuint32_t box[] = {16, 8}, steps[] = {1, 1};
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      &map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, memory, extent, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(cudaFree(memory));
  return result == CUDA_SUCCESS ? nullptr : "refused";
}

EXPORT const char* program_unknown_symbol() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  CHECK(cudaGetDriverEntryPointByVersion("cuNoSuchThing", &function, 12000, cudaEnableDefault, &found));
  return found == cudaDriverEntryPointSymbolNotFound && !function ? nullptr : "found";
}

// The order of host functions and copies in a stream, with pinned memory that is read when the stream comes to it.
EXPORT const char* program_pinned(int* seen) {
  cudaStream_t stream;
  int *pinned, *memory;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMallocHost(&pinned, sizeof(int)));
  CHECK(cudaMalloc(&memory, sizeof(int)));
  *pinned = 1;
  CHECK(cudaLaunchHostFunc(stream, [](void* data) { *static_cast<int*>(data) = 42; }, pinned));
  CHECK(cudaMemcpyAsync(memory, pinned, sizeof(int), cudaMemcpyHostToDevice, stream));
  CHECK(cudaMemcpyAsync(seen, memory, sizeof(int), cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  cudaPointerAttributes attributes;
  CHECK(cudaPointerGetAttributes(&attributes, pinned));
  const bool host = attributes.type == cudaMemoryTypeHost;
  CHECK(cudaPointerGetAttributes(&attributes, memory));
  const bool device = attributes.type == cudaMemoryTypeDevice;
  CHECK(cudaFreeHost(pinned));
  CHECK(cudaFree(memory));
  CHECK(cudaStreamDestroy(stream));
  return host && device ? nullptr : "memory of another kind";
}

EXPORT const char* program_out_of_memory() {
  void* memory;
  const cudaError_t status = cudaMalloc(&memory, size_t{1} << 40);
  cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorName(status);
}

EXPORT int program_capability() {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return 10 * major + minor;
}
