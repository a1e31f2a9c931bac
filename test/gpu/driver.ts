// The NVIDIA driver itself, for kernels of the tests' own: in the context that the library uses.

import koffi from 'koffi';

export class Driver {
  readonly #library = koffi.load('libcuda.so.1');

  constructor() {
    this.#do('int cuInit(unsigned)', 0);
    const context = [null];
    this.#do('int cuDevicePrimaryCtxRetain(_Out_ void**, int)', context, 0);
    this.#do('int cuCtxSetCurrent(void*)', context[0]);
  }

  /** Runs one thread of a kernel without parameters to its end; the driver's status, 0 when it succeeded. */
  run(ptx: string, kernel: string): number {
    const module = [null];
    const entry = [null];
    this.#do('int cuModuleLoadData(_Out_ void**, const char*)', module, ptx);
    this.#do('int cuModuleGetFunction(_Out_ void**, void*, const char*)', entry, module[0], kernel);
    const launch =
      'int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**)';
    this.#do(launch, entry[0], 1, 1, 1, 1, 1, 1, 0, null, null, null);
    return this.#call('int cuCtxSynchronize()');
  }

  #call(declaration: string, ...args: unknown[]): number {
    return (this.#library.func(declaration) as unknown as (...args: unknown[]) => number)(...args);
  }

  #do(declaration: string, ...args: unknown[]): void {
    const status = this.#call(declaration, ...args);
    if (status !== 0) throw new Error(`${declaration} gave ${status}`);
  }
}
