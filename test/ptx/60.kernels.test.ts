// Two attention kernels in the style of the real ones, run from the PTX that nvcc makes of them, against the float64 oracle.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { uniform } from '../support/numbers';
import { caseOf, type Kind, Results, runKernel, type Shape } from './support/attention';
import { Ptx, SCHEDULES } from './support/interpreter';

const FOLDER = join(__dirname, '../../build/ptx/ptx');
const FILES: Record<Kind, string> = {
  hopper: join(FOLDER, 'compute_90a/hopper_attention.ptx'),
  ampere: join(FOLDER, 'compute_80/ampere_attention.ptx'),
};
const built = existsSync(FILES.hopper);
const title = (name: string) => (built ? name : `${name} (skipped: nvcc is missing, which compiles the kernels)`);

const SHAPES: [string, Shape][] = [
  ['no multiple of anything', { batch: 1, heads: 3, queries: 150, keys: 333, headDim: 128, causal: false }],
  ['causal, more keys than queries', { batch: 2, heads: 1, queries: 70, keys: 201, headDim: 128, causal: true }],
  ['causal, queries that see nothing', { batch: 1, heads: 2, queries: 201, keys: 70, headDim: 128, causal: true }],
  ['one query', { batch: 1, heads: 2, queries: 1, keys: 130, headDim: 128, causal: true }],
  ['one key', { batch: 2, heads: 1, queries: 129, keys: 1, headDim: 128, causal: false }],
  ['whole tiles', { batch: 1, heads: 1, queries: 128, keys: 256, headDim: 128, causal: false }],
  ['many rounds of the ring', { batch: 1, heads: 1, queries: 65, keys: 900, headDim: 128, causal: false }],
];

describe.skipIf(!built).each(['hopper', 'ampere'] as const)(title('the %s kernel'), (kind) => {
  const source = built ? readFileSync(FILES[kind], 'utf8') : '';
  const module = built ? new Ptx(source) : undefined;
  const shapes: [string, Shape][] =
    kind === 'ampere'
      ? [...SHAPES, ...SHAPES.map(([name, s]): [string, Shape] => [`${name}, headDim 64`, { ...s, headDim: 64 }])]
      : SHAPES;

  it.each(shapes)('%s: is right under every schedule', (_, shape) => {
    const of = caseOf(shape, shape.keys);
    for (const schedule of SCHEDULES) {
      expect(runKernel(module!, source, kind, of, schedule).problem(), JSON.stringify(schedule)).toBeUndefined();
    }
  });

  it('random shapes under random schedules', () => {
    const random = uniform(20);
    const between = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
    for (let i = 0; i < 12; i++) {
      const shape: Shape = {
        batch: between(1, 2),
        heads: between(1, 3),
        queries: between(1, 200),
        keys: between(1, 300),
        headDim: kind === 'ampere' && random() < 0.5 ? 64 : 128,
        causal: random() < 0.5,
      };
      const schedule = { seed: between(1, 1e6), asynchrony: (['immediate', 'late', 'random'] as const)[between(0, 2)] };
      const got = runKernel(module!, source, kind, caseOf(shape, i), schedule);
      expect(got.problem(), JSON.stringify({ shape, schedule })).toBeUndefined();
    }
  });

  it('the same twice is the same bit for bit', () => {
    const of = caseOf({ batch: 1, heads: 1, queries: 100, keys: 200, headDim: 128, causal: true }, 5);
    const [a, b] = [1, 2].map((seed) => runKernel(module!, source, kind, of, { seed, asynchrony: 'random' }));
    expect(a!.out.equals(b!.out)).toBe(true);
    expect(a!.lse.equals(b!.lse)).toBe(true);
  });

  it('a head of 512 x 512, headDim 128, takes less than two seconds', () => {
    const of = caseOf({ batch: 1, heads: 1, queries: 512, keys: 512, headDim: 128, causal: false }, 7);
    const start = performance.now();
    const got = runKernel(module!, source, kind, of, SCHEDULES[0]!);
    const seconds = (performance.now() - start) / 1000;
    console.log(`${kind}: 512 x 512, headDim 128, one head: ${seconds.toFixed(3)} s`);
    expect(got.problem()).toBeUndefined();
    expect(seconds).toBeLessThan(2);
  });
});

describe('the harness', () => {
  it('notices results that are not there, and single wrong ones', () => {
    const of = caseOf({ batch: 1, heads: 1, queries: 3, keys: 4, headDim: 8, causal: false }, 1);
    const results = new Results(of);
    expect(results.problem()).toMatch(/^out\[0\] is NaN/);
    const float = new Float32Array(1);
    const bits = new Uint32Array(float.buffer);
    of.expected.out.forEach((x, i) => {
      float[0] = x;
      results.out.writeUInt16LE(bits[0]! >>> 16, 2 * i);
    });
    expect(results.problem()).toMatch(/^lse\[0\] is NaN/);
    of.expected.lse.forEach((x, i) => {
      results.lse.writeFloatLE(x, 4 * i);
    });
    expect(results.problem()).toBeUndefined();
    results.out.writeUInt16LE(results.out.readUInt16LE(34) ^ 0x20, 34);
    expect(results.problem()).toMatch(/^out\[17\] is/);
  });
});
