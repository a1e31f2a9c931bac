// The two test kernels (test/ptx/kernels) launched straight from their PTX, as their host code launches them, and compared
// with the float64 oracle. The tests and the mutants share this.
import { fromBits, normal, round, uniform, type Values } from '../../support/numbers';
import { type Expected, expected } from '../../support/tolerance';
import { allocate, type LaunchOptions, type Memory, type Ptx, tensorMap } from './interpreter';

export interface Shape {
  batch: number;
  heads: number;
  queries: number;
  keys: number;
  headDim: number;
  causal: boolean;
}

export type Kind = 'hopper' | 'ampere';

export interface Case {
  shape: Shape;
  q: Values;
  k: Values;
  v: Values;
  expected: Expected;
}

/** Random inputs and the oracle's result. */
export function caseOf(shape: Shape, seed: number): Case {
  const random = uniform(seed);
  const { batch, heads, queries, keys, headDim, causal } = shape;
  const [q, k, v] = [queries, keys, keys].map((n) => normal(random, 'bfloat16', [batch, n, heads, headDim])) as [
    Values,
    Values,
    Values,
  ];
  const masks = causal ? [{ left: -1, right: 0 }] : [];
  return { shape, q, k, v, expected: expected({ q, k, v, masks }, 'bfloat16') };
}

/** bfloat16 in memory of exactly its size, so that whatever reads beyond it is a fault. */
export function bfloat16(values: Values): Buffer {
  const memory = allocate(2 * values.data.length);
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  values.data.forEach((x, i) => {
    float[0] = round('bfloat16', x);
    memory.writeUInt16LE(bits[0]! >>> 16, 2 * i);
  });
  return memory;
}

/** The results of a run, which start as NaN. */
export class Results {
  readonly out: Buffer;
  readonly lse: Buffer;

  constructor(readonly of: Case) {
    this.out = allocate(2 * of.q.data.length).fill(0xff);
    this.lse = allocate(4 * (of.q.data.length / of.shape.headDim)).fill(0xff);
  }

  /** What is wrong with them, or undefined. */
  problem(): string | undefined {
    const { out, lse, tolerance } = this.of.expected;
    const wrong = (name: string, want: Float64Array, got: (i: number) => number, most: number) => {
      for (let i = 0; i < want.length; i++) {
        if (want[i] === got(i) || Math.abs(want[i]! - got(i)) <= most) continue;
        return `${name}[${i}] is ${got(i)} instead of ${want[i]} ± ${most}`;
      }
      return undefined;
    };
    return (
      wrong('out', out, (i) => fromBits('bfloat16', this.out.readUInt16LE(2 * i)), tolerance.out) ??
      wrong('lse', lse, (i) => this.lse.readFloatLE(4 * i), tolerance.lse)
    );
  }
}

const HOPPER = { queries: 128, keys: 128, threads: 384, shared: 5 * 32768 + 5 * 8, rows: 64, columns: 64 };
const AMPERE = { queries: 64, keys: 64, threads: 128 };

/** Runs a kernel and gives its results. Throws the interpreter's report. */
export function runKernel(module: Ptx, source: string, kind: Kind, of: Case, schedule: LaunchOptions): Results {
  const { shape } = of;
  const results = new Results(of);
  const [q, k, v] = [of.q, of.k, of.v].map(bfloat16) as [Buffer, Buffer, Buffer];
  const scale = { f32: 1 / Math.sqrt(shape.headDim) };
  const [queries, keys] = [{ u32: shape.queries }, { u32: shape.keys }];
  if (kind === 'ampere') {
    const wanted = `ILi${shape.headDim}ELb${shape.causal ? 1 : 0}E`;
    module.launch(entryOf(source, wanted), [q, k, v, results.out, results.lse, queries, keys, scale], {
      ...schedule,
      grid: [Math.ceil(shape.queries / AMPERE.queries), shape.heads, shape.batch],
      block: [AMPERE.threads],
      dynamicShared: 5 * AMPERE.keys * shape.headDim * 2,
    });
    return results;
  }
  const map = (memory: Memory, tokens: number, box: number) => {
    const row = 2 * shape.headDim;
    return {
      bytes: tensorMap(memory, {
        type: 9,
        extent: [shape.headDim, shape.heads, tokens, shape.batch],
        strides: [row, row * shape.heads, row * shape.heads * tokens],
        box: [HOPPER.columns, 1, box, 1],
        swizzle: '128',
      }),
    };
  };
  const maps = [
    map(q, shape.queries, HOPPER.queries),
    map(k, shape.keys, HOPPER.keys),
    map(v, shape.keys, HOPPER.keys),
    map(results.out, shape.queries, HOPPER.rows),
  ];
  const last = { u32: shape.causal ? 1 : 0 };
  module.launch(entryOf(source, 'hopper_kernel'), [...maps, results.lse, queries, keys, scale, last], {
    ...schedule,
    grid: [Math.ceil(shape.queries / HOPPER.queries), shape.heads, shape.batch],
    block: [HOPPER.threads],
    dynamicShared: HOPPER.shared,
    memory: [q, k, v, results.out],
  });
  return results;
}

function entryOf(source: string, part: string): string {
  const names = [...source.matchAll(/\.entry\s+([\w$]+)/g)].map(([, name]) => name!);
  const found = names.find((name) => name.includes(part));
  if (!found) throw new Error(`the PTX has no kernel ${part}, only ${names.join(', ')}`);
  return found;
}
