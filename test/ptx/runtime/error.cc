#include "error.h"

#include <mutex>

#include "device.h"
#include "standin.h"

namespace standin {
namespace {

std::mutex mutex;
cudaError_t sticky[kMostDevices] = {};
std::string first_report;
thread_local cudaError_t last = cudaSuccess;
thread_local std::string shown_report;

struct Text {
  cudaError_t status;
  const char *name, *sentence;
};
constexpr Text kTexts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

const Text* text_of(cudaError_t status) {
  for (const Text& text : kTexts) {
    if (text.status == status) return &text;
  }
  return nullptr;
}

}  // namespace

cudaError_t finish(cudaError_t status) {
  const cudaError_t failure = device_failure();
  if (failure != cudaSuccess) status = failure;
  if (status != cudaSuccess && status != cudaErrorNotReady) last = status;
  return status;
}

void fail_device(int device, cudaError_t status, const std::string& report) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (sticky[device] != cudaSuccess) return;
  sticky[device] = status;
  if (first_report.empty()) first_report = report;
}

cudaError_t failure_of(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  return sticky[device];
}

cudaError_t device_failure() { return failure_of(current_device()); }

}  // namespace standin

using namespace standin;

const char* standin_last_report(void) {
  const std::lock_guard<std::mutex> lock(mutex);
  shown_report = first_report;
  return shown_report.c_str();
}

void standin_reset(void) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (cudaError_t& status : sticky) status = cudaSuccess;
  first_report.clear();
  last = cudaSuccess;
}

extern "C" {

cudaError_t cudaPeekAtLastError() {
  const cudaError_t failure = device_failure();
  return failure != cudaSuccess ? failure : last;
}

cudaError_t cudaGetLastError() {
  const cudaError_t status = cudaPeekAtLastError();
  last = cudaSuccess;
  return status;
}

const char* cudaGetErrorName(cudaError_t status) {
  const Text* text = text_of(status);
  return text ? text->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t status) {
  const Text* text = text_of(status);
  return text ? text->sentence : "unrecognized error code";
}

}  // extern "C"
