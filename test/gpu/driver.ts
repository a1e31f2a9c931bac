// The NVIDIA driver itself, for kernels of the tests' own, in the context that the library uses too.

import koffi from 'koffi';

type Call = (...args: unknown[]) => number;

const PROTOTYPES = {
  cuInit: 'uint32_t',
  cuDevicePrimaryCtxRetain: '_Out_ void**, int',
  cuCtxSetCurrent: 'void*',
  cuCtxSynchronize: '',
  cuModuleLoadData: '_Out_ void**, const char*',
  cuModuleUnload: 'void*',
  cuModuleGetFunction: '_Out_ void**, void*, const char*',
  cuFuncSetAttribute: 'void*, int, int',
  cuFuncGetParamInfo: 'void*, size_t, _Out_ size_t*, _Out_ size_t*',
  cuLaunchKernel: 'void*, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, void*, void*, void*',
  cuMemAlloc_v2: '_Out_ uint64_t*, size_t',
  cuMemFree_v2: 'uint64_t',
  cuMemcpyHtoD_v2: 'uint64_t, const void*, size_t',
  cuMemcpyDtoH_v2: 'void*, uint64_t, size_t',
  cuTensorMapEncodeTiled:
    'void*, int, uint32_t, uint64_t, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*, int, int, int, int',
} as const;

export type DriverFunction = keyof typeof PROTOTYPES;

let library: ReturnType<typeof koffi.load> | undefined;
const functions = new Map<DriverFunction, Call>();

/** The status that a function of the driver gives. */
export function driverStatus(name: DriverFunction, ...args: unknown[]): number {
  library ??= koffi.load('libcuda.so.1');
  let call = functions.get(name);
  if (!call) {
    call = library.func(`int ${name}(${PROTOTYPES[name]})`) as unknown as Call;
    functions.set(name, call);
  }
  return call(...args);
}

/** Throws when a function of the driver fails. */
export function driver(name: DriverFunction, ...args: unknown[]): void {
  const status = driverStatus(name, ...args);
  if (status !== 0) throw new Error(`${name} gave ${status}`);
}

let ready = false;

/** Makes the first device current for this thread. */
export function useDriver(): void {
  if (ready) return;
  driver('cuInit', 0);
  const context: unknown[] = [null];
  driver('cuDevicePrimaryCtxRetain', context, 0);
  driver('cuCtxSetCurrent', context[0]);
  ready = true;
}

/** A kernel of a module that is made of PTX here. */
export function loadKernel(ptx: string, name: string): { module: unknown; kernel: unknown } {
  const module: unknown[] = [null];
  const kernel: unknown[] = [null];
  driver('cuModuleLoadData', module, ptx);
  driver('cuModuleGetFunction', kernel, module[0], name);
  return { module: module[0], kernel: kernel[0] };
}
