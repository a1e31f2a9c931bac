// The baselines of baselines.cc, compiled for this machine, in the layout they like: [head][token][dim].

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import koffi from 'koffi';
import { Tensor } from 'node-attention';
import { count } from '../cases';
import { inTurn, type Timed } from '../measure';
import type { GnaCase } from './cases';
import type { Tensors } from './tensors';

const library = join(dirname(dirname(__dirname)), 'build', 'bench', 'libbaselines.so');

export function buildBaselines(): void {
  mkdirSync(dirname(library), { recursive: true });
  const object = `${library}.o`;
  // Linked apart: where GCC links with -ffast-math, loading the library changes the state of the processor for all code.
  compile([
    '-c',
    '-O3',
    '-march=native',
    '-ffast-math',
    '-std=c++17',
    '-fPIC',
    join(__dirname, 'baselines.cc'),
    '-o',
    object,
  ]);
  compile(['-shared', '-pthread', object, '-o', library]);
}

function compile(args: string[]): void {
  const compiler = process.env.CXX ?? 'c++';
  const { status, stderr, error } = spawnSync(compiler, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${compiler} failed: ${error?.message ?? stderr}`);
}

type Baseline = ((...args: unknown[]) => void) & {
  async(...args: [...unknown[], (error: Error | null) => void]): void;
};
let loaded: Baseline | undefined;

function load(): Baseline {
  loaded ??= koffi
    .load(library)
    .func(
      'void baseline(int, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, void*, void*, void*, void*, void*, int)',
    ) as unknown as Baseline;
  return loaded;
}

export interface BaselineRun extends Timed {
  /** What it takes beside its inputs: the output, and all weights. */
  bytes: number;
  /** Copies the latest result into `out` of the tensors. */
  publish(): Promise<void>;
}

/** Batch 1, one axis or two, no stride and no dilation. All sets have one memory for their weights, as layers would. */
export async function baseline(
  kind: 'naive' | 'unfused',
  { shape, window, heads, headDim, dtype }: GnaCase,
  tensors: Tensors,
  threads: number,
): Promise<BaselineRun> {
  const tokens = count(shape);
  const { sets } = tensors;
  const perSet = tokens * heads * headDim;
  const setsIn = (all: { subarray(from: number, to: number): unknown }) =>
    Array.from({ length: sets }, (_, set) => all.subarray(set * perSet, (set + 1) * perSet));
  const headsFirst = async (tensor: Tensor) => {
    const flat = tensor.reshape([sets, tokens, heads, headDim]).permute(0, 2, 1, 3);
    return setsIn(await flat.read());
  };
  const [q, k, v] = [await headsFirst(tensors.q), await headsFirst(tensors.k), await headsFirst(tensors.v)];
  const Elements = dtype === 'float32' ? Float32Array : Uint16Array;
  const out = new Elements(sets * perSet);
  const outs = setsIn(out);
  const weights = new Elements(tokens * heads * count(window));
  const pair = (values: number[]) => [...new Array(2 - values.length).fill(1), ...values];
  const options = [kind === 'unfused' ? 1 : 0, dtype === 'float32' ? 0 : 1, ...pair(shape), ...pair(window)];
  const run = load();
  return {
    bytes: out.byteLength / sets + weights.byteLength,
    run: inTurn(
      sets,
      (set) =>
        new Promise((resolve, reject) => {
          run.async(...options, heads, headDim, q[set], k[set], v[set], outs[set], weights, threads, (error) =>
            error ? reject(error) : resolve(),
          );
        }),
    ),
    async publish() {
      const result = Tensor.from(out, [sets, heads, tokens, headDim], { dtype }).permute(0, 2, 1, 3);
      tensors.out.data.set((await result.read()) as never);
    },
  };
}
