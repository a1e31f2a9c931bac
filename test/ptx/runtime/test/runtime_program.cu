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

// Columns 1 and 2 of 4 rows of 4, by way of the device and of memory that is pinned after it was made.
EXPORT const char* program_columns(const int* from, int* to) {
  cudaStream_t stream;
  int *memory, host[8];
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMalloc(&memory, sizeof host));
  CHECK(cudaHostRegister(host, sizeof host, cudaHostRegisterDefault));
  if (cudaHostRegister(host + 1, 4, cudaHostRegisterDefault) != cudaErrorHostMemoryAlreadyRegistered) return "twice";
  CHECK(cudaMemcpy2DAsync(memory, 8, from + 1, 16, 8, 4, cudaMemcpyHostToDevice, stream));
  CHECK(cudaMemcpyAsync(host, memory, sizeof host, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaHostUnregister(host));
  if (cudaHostUnregister(host) != cudaErrorHostMemoryNotRegistered) return "never registered";
  if (cudaMemcpy2DAsync(memory, 4, from, 16, 8, 4, cudaMemcpyHostToDevice, stream) != cudaErrorInvalidPitchValue) {
    return "wider than its rows";
  }
  for (int i = 0; i < 8; i++) to[i] = host[i];
  CHECK(cudaFree(memory));
  CHECK(cudaStreamDestroy(stream));
  return nullptr;
}

// The default pool says what is in use.
EXPORT const char* program_pool() {
  cudaMemPool_t pool;
  cudaStream_t stream;
  uint64_t before = 0, after = 0, threshold = UINT64_MAX;
  void* memory;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &before));
  CHECK(cudaMallocFromPoolAsync(&memory, 1000, pool, stream));
  CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &after));
  CHECK(cudaFreeAsync(memory, stream));
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaMemPoolTrimTo(pool, 0));
  CHECK(cudaStreamDestroy(stream));
  return after - before == 1000 ? nullptr : "not counted";
}

EXPORT const char* program_attributes() {
  cudaFuncAttributes attributes;
  CHECK(cudaFuncSetAttribute(shared_copy, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
  CHECK(cudaFuncGetAttributes(&attributes, shared_copy));
  return attributes.maxDynamicSharedSizeBytes == 100 << 10 ? nullptr : "another size";
}

// Two devices: streams and events are their device's, and when one has failed the other goes on.
EXPORT const char* program_two_devices(int* out) {
  int count = 0, device = -1;
  CHECK(cudaGetDeviceCount(&count));
  if (count != 2) return "not two devices";
  cudaStream_t streams[2];
  cudaEvent_t events[2];
  int* memory[2];
  for (int i = 0; i < 2; i++) {
    CHECK(cudaSetDevice(i));
    CHECK(cudaStreamCreate(&streams[i]));
    CHECK(cudaEventCreate(&events[i]));
    CHECK(cudaMalloc(&memory[i], 64 * sizeof(int)));
    fill<<<1, 64, 0, streams[i]>>>(memory[i], 64, i, 1);
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(events[i], streams[i]));
  }
  cudaPointerAttributes attributes;
  CHECK(cudaPointerGetAttributes(&attributes, memory[1]));
  CHECK(cudaStreamGetDevice(streams[0], &device));
  if (attributes.device != 1 || device != 0) return "of another device";
  if (cudaSetDevice(2) != cudaErrorInvalidDevice) return "a third device";
  fill<<<1, 64, 0, streams[0]>>>(memory[0], 64, 0, 1);
  if (cudaGetLastError() != cudaErrorInvalidResourceHandle) return "launched on a stream of the other";
  if (cudaEventRecord(events[1], streams[0]) != cudaErrorInvalidResourceHandle)
    return "recorded in a stream of the other";
  cudaGetLastError();
  CHECK(cudaStreamWaitEvent(streams[1], events[0], 0));
  CHECK(cudaMemcpyPeerAsync(memory[1], 1, memory[0], 0, 32 * sizeof(int), streams[1]));
  CHECK(cudaMemcpyAsync(out, memory[1], 64 * sizeof(int), cudaMemcpyDeviceToHost, streams[1]));
  CHECK(cudaStreamSynchronize(streams[1]));

  CHECK(cudaSetDevice(0));
  fill<<<2, 64, 0, streams[0]>>>(memory[0], 65, 0, 1);
  if (cudaStreamSynchronize(streams[0]) != cudaErrorIllegalAddress) return "no error";
  if (cudaMalloc(&memory[0], 4) != cudaErrorIllegalAddress) return "not for good";
  CHECK(cudaSetDevice(1));
  fill<<<1, 64, 0, streams[1]>>>(memory[1], 64, 1, 1);
  CHECK(cudaStreamSynchronize(streams[1]));
  CHECK(cudaFree(memory[1]));
  return nullptr;
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
