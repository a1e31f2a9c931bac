// One instruction (or a few) in many lanes at once: each case is one thread, its values come from and go to memory.
import { kernel, type LaunchOptions, Ptx } from './interpreter';

export type Width = 'b16' | 'b32' | 'b64' | 'pred';

const SLOT = 8;
const MOST_THREADS = 1024;

/**
 * Runs `body` for each case and returns the bits of every output, by name. Registers are named after the keys of
 * `inputs` and `outputs`, with a %; an output that is also an input starts with that value, else with all bits set.
 */
export function evaluate<Out extends string>(
  body: string,
  inputs: Record<string, Width>,
  outputs: Record<Out, Width>,
  cases: readonly (readonly bigint[])[],
  options: LaunchOptions = {},
): Record<Out, bigint[]> {
  const ins = Object.entries(inputs);
  const outs = Object.entries(outputs) as [Out, Width][];
  const from = Buffer.alloc(Math.max(1, cases.length * ins.length) * SLOT);
  cases.forEach((values, i) => {
    if (values.length !== ins.length) throw new Error(`case ${i} has ${values.length} values instead of ${ins.length}`);
    values.forEach((v, j) => {
      from.writeBigUInt64LE(BigInt.asUintN(64, v), (i * ins.length + j) * SLOT);
    });
  });
  const to = Buffer.alloc(cases.length * outs.length * SLOT);

  const text = [
    '.reg .b64 %in_<3>, %out_<3>; .reg .b32 %thread_; .reg .b32 %flag_;',
    ...ins.map(([name, width]) => `.reg .${width} %${name};`),
    ...outs.filter(([name]) => !(name in inputs)).map(([name, width]) => `.reg .${width} %${name};`),
    'ld.param.u64 %in_0, [in]; ld.param.u64 %out_0, [out]; mov.u32 %thread_, %tid.x;',
    `mul.wide.u32 %in_1, %thread_, ${ins.length * SLOT}; add.u64 %in_2, %in_0, %in_1;`,
    `mul.wide.u32 %out_1, %thread_, ${outs.length * SLOT}; add.u64 %out_2, %out_0, %out_1;`,
    ...outs.filter(([name]) => !(name in inputs)).map(([name, width]) => fill(name, width)),
    ...ins.map(([name, width], j) => loading(name, width, j * SLOT)),
    body,
    ...outs.map(([name, width], j) => storing(name, width, j * SLOT)),
    'ret;',
  ].join('\n');
  const ptx = new Ptx(kernel('.param .u64 in, .param .u64 out', text));
  try {
    for (let first = 0; first < cases.length; first += MOST_THREADS) {
      const threads = Math.min(MOST_THREADS, cases.length - first);
      const part = [from.subarray(first * ins.length * SLOT), to.subarray(first * outs.length * SLOT)];
      ptx.launch('test', part, { block: [threads], ...options });
    }
  } finally {
    ptx.dispose();
  }

  const results = {} as Record<Out, bigint[]>;
  outs.forEach(([name], j) => {
    results[name] = cases.map((_, i) => to.readBigUInt64LE((i * outs.length + j) * SLOT));
  });
  return results;
}

/** Loads a kernel around `body` with registers %h<9> (16 bits), %r<9>, %l<9> (64 bits) and %p<9>; runs nothing. */
export function load(body: string): void {
  new Ptx(kernel('', `.reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %l<9>; .reg .pred %p<9>;\n${body}\nret;`)).dispose();
}

function fill(name: string, width: Width): string {
  return width === 'pred' ? `setp.eq.u32 %${name}, 0, 0;` : `mov.${width} %${name}, -1;`;
}

function loading(name: string, width: Width, at: number): string {
  if (width !== 'pred') return `ld.global.${width} %${name}, [%in_2+${at}];`;
  return `ld.global.b32 %flag_, [%in_2+${at}]; setp.ne.u32 %${name}, %flag_, 0;`;
}

function storing(name: string, width: Width, at: number): string {
  if (width !== 'pred') return `st.global.${width} [%out_2+${at}], %${name};`;
  return `selp.b32 %flag_, 1, 0, %${name}; st.global.b32 [%out_2+${at}], %flag_;`;
}

/** Every combination of one value from each list. */
export function cross<A, B>(a: readonly A[], b: readonly B[]): [A, B][];
export function cross<A, B, C>(a: readonly A[], b: readonly B[], c: readonly C[]): [A, B, C][];
export function cross<A, B, C, D>(a: readonly A[], b: readonly B[], c: readonly C[], d: readonly D[]): [A, B, C, D][];
export function cross<T>(...lists: readonly (readonly T[])[]): T[][];
export function cross(...lists: readonly (readonly unknown[])[]): unknown[][] {
  return lists.reduce<unknown[][]>((found, list) => found.flatMap((head) => list.map((v) => [...head, v])), [[]]);
}

/** Zero, one, the limits and their neighbours, some bit patterns, of an integer type, as unsigned bits. */
export function edges(bits: 16 | 32 | 64): bigint[] {
  const top = 1n << BigInt(bits - 1);
  const pattern = BigInt.asUintN(bits, 0x9e3779b97f4a7c15n);
  return [0n, 1n, 2n, 7n, top - 1n, top, top + 1n, 2n * top - 1n, 2n * top - 2n, pattern, pattern >> 3n, 0xff80n];
}

export const unsigned = (bits: number, value: bigint): bigint => BigInt.asUintN(bits, value);
export const signed = (bits: number, value: bigint): bigint => BigInt.asIntN(bits, value);
