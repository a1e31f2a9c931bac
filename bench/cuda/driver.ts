// The driver (driver/driver.h) for TypeScript.

import koffi from 'koffi';
import type { CudaCase } from './cases';

export const BASELINES = ['cudnn', 'cutlass'] as const;
export type BaselineName = (typeof BASELINES)[number];
/** Contestants of the driver, in the order of its enumeration. */
export const DRIVER_CONTESTANTS = ['node-attention', ...BASELINES] as const;
export type DriverContestant = (typeof DRIVER_CONTESTANTS)[number];

const PHASE = 5550101;

/** Where the elements of a tensor (0 to 2: q, k, v) of a set begin in the block that they all repeat. */
export const phaseOf = (set: number, tensor: number, count: number): number =>
  Number((BigInt(3 * set + tensor) * BigInt(PHASE)) % BigInt(count));

type Function = (...args: unknown[]) => number;

export class Driver {
  readonly #library: ReturnType<typeof koffi.load>;
  readonly #error: () => string;
  readonly #run: Function;

  constructor(path: string) {
    this.#library = koffi.load(path);
    this.#error = this.#library.func('const char* driver_error()') as unknown as () => string;
    this.#run = this.#function('int driver_run(int32_t, int32_t, double*)');
  }

  open(backend: string): void {
    this.#call('int driver_open(const char*)', backend);
  }

  device(): { name: string; instructionSet: string; memoryBytes: number } {
    const texts = [Buffer.alloc(128), Buffer.alloc(128)] as const;
    const memory = new BigInt64Array(1);
    this.#call('int driver_device(void*, void*, uint64_t, int64_t*)', ...texts, 128, memory);
    const [name, instructionSet] = texts.map((text) => text.toString('utf8', 0, text.indexOf(0)));
    return { name: name!, instructionSet: instructionSet!, memoryBytes: Number(memory[0]) };
  }

  openRuntime(cudart: string): void {
    this.#call('int driver_open_runtime(const char*)', cudart);
  }

  /** `library`: what the baseline loads, if it loads one. Gives its version. */
  openBaseline(name: BaselineName, baseline: string, library: string | undefined): number {
    const version = new BigInt64Array(1);
    this.#call(
      'int driver_open_baseline(int32_t, const char*, const char*, int64_t*)',
      DRIVER_CONTESTANTS.indexOf(name),
      baseline,
      library ?? null,
      version,
    );
    return Number(version[0]);
  }

  problem(test: CudaCase, block: Uint16Array, sets: number, runs: number): void {
    const shape = Buffer.alloc(64);
    const { batch, heads, kvHeads, queries, keys, headDim, kind } = test;
    [batch, heads, kvHeads, queries, keys, headDim].forEach((extent, i) => {
      shape.writeBigInt64LE(BigInt(extent), 8 * i);
    });
    shape.writeInt32LE(kind === 'causal' ? 1 : 0, 48);
    shape.writeFloatLE(1 / Math.sqrt(headDim), 52);
    shape.writeInt32LE(sets, 56);
    shape.writeInt32LE(runs, 60);
    this.#call('int driver_problem(const void*, const uint16_t*, int64_t)', shape, block, block.length);
  }

  release(): void {
    this.#call('int driver_release()');
  }

  prepare(contestant: DriverContestant): void {
    this.#call('int driver_prepare(int32_t)', DRIVER_CONTESTANTS.indexOf(contestant));
  }

  poison(): void {
    this.#call('int driver_poison()');
  }

  /** out in bfloat16, and lse. */
  results({ batch, heads, queries, headDim }: CudaCase, set: number): { out: Uint16Array; lse: Float32Array } {
    const rows = batch * queries * heads;
    const results = { out: new Uint16Array(rows * headDim), lse: new Float32Array(rows) };
    this.#call('int driver_results(int32_t, uint16_t*, float*)', set, results.out, results.lse);
    return results;
  }

  /** Milliseconds of a run in each of so many passes. */
  run(contestant: DriverContestant, passes: number): number[] {
    const milliseconds = new Float64Array(passes);
    this.#check(this.#run(DRIVER_CONTESTANTS.indexOf(contestant), passes, milliseconds));
    return [...milliseconds];
  }

  /** Seconds of a copy on the device, by the backend's clock and by events. */
  copy(bytes: number, times: number): { backend: number; events: number } {
    const [backend, events] = [new Float64Array(1), new Float64Array(1)];
    this.#call('int driver_copy(int64_t, int32_t, double*, double*)', bytes, times, backend, events);
    return { backend: backend[0]!, events: events[0]! };
  }

  /** Operations per second of matrix products. */
  matrix(kernels: string): number {
    const [seconds, operations] = [new Float64Array(1), new Float64Array(1)];
    this.#call('int driver_matrix(const char*, double*, double*)', kernels, seconds, operations);
    return operations[0]! / seconds[0]!;
  }

  #function(declaration: string): Function {
    return this.#library.func(declaration) as unknown as Function;
  }

  #call(declaration: string, ...args: unknown[]): void {
    this.#check(this.#function(declaration)(...args));
  }

  #check(status: number): void {
    if (status !== 0) throw new Error(this.#error());
  }
}
