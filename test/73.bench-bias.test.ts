// The bias benchmark compares what is the same: each contestant's result, on small cases; and what is wrong has no time.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type BiasCase, biasCases, denseBytes, type Form, hasOnnxruntime, kindOf, rowName } from '../bench/bias/cases';
import { judgeOutput } from '../bench/bias/check';
import { type Contestant, inputsOf, library, onnxruntime, torchName } from '../bench/bias/contestants';
import { bias, rowsOf } from '../bench/bias/main';
import { suites } from '../bench/suites';

const small = (form: 'alibi' | 'relative' | 'distance', tokens: number[], more: Partial<BiasCase> = {}): BiasCase => ({
  name: 'small',
  dtype: 'float32',
  batch: 1,
  tokens,
  heads: 3,
  headDim: 8,
  causal: false,
  forms: form === 'distance' ? ['none', form, 'rank 5'] : ['none', form, 'rank 5', 'dense'],
  dense: form === 'distance' ? undefined : form,
  ...more,
});

describe('cases', () => {
  it('that differ by length alone have a kind in common, and no others', () => {
    const kinds = biasCases(false).map((test) => [kindOf(test), test.heads] as const);
    expect(new Set(kinds.map(([kind]) => kind)).size).toBe(2 + 4);
    for (const kind of new Set(kinds.map(([kind]) => kind))) {
      expect(new Set(kinds.filter(([each]) => each === kind).map(([, heads]) => heads)).size).toBe(1);
    }
  });

  it('have rows of different names, and need no more memory than there is', () => {
    for (const quick of [false, true]) {
      const cases = biasCases(quick);
      const names = cases.flatMap((test) => test.forms.map((form) => rowName(test, form)));
      expect(new Set(names).size).toBe(names.length);
      for (const one of cases) if (one.forms.includes('dense')) expect(denseBytes(one)).toBeLessThanOrEqual(2 ** 32);
    }
    // ONNX Runtime stands beside every dense bias in float32.
    const beside = biasCases(false).filter(hasOnnxruntime);
    expect(beside.map(({ name }) => name)).toEqual(
      biasCases(false)
        .map(({ name }) => name)
        .filter((name) => !/^bfloat16|^Point cloud/.test(name)),
    );
    const cloud = biasCases(false).find(({ name }) => name.startsWith('Point cloud'))!;
    expect(denseBytes(cloud)).toBeGreaterThan(33e9);
  });
});

describe('outputs', () => {
  it.each([
    ['alibi', [50], { causal: true }],
    ['alibi', [50], { dtype: 'bfloat16', batch: 2 }],
    ['relative', [4, 5], { batch: 2 }],
    ['distance', [41], {}],
  ] as const)('%s on %j tokens, %j: all are right, and those of another bias are not', async (form, tokens, more) => {
    const test = small(form, [...tokens], more);
    const inputs = inputsOf(test, 6);
    const all: Contestant[] = test.forms.map((one) => library(one, test, inputs));
    if (hasOnnxruntime(test)) all.push(await onnxruntime(test, inputs, 1));
    for (const contestant of all) {
      expect(await contestant.run(5)).toHaveLength(5);
      await contestant.run(1);
      const { fault, error, tolerance } = await judgeOutput(contestant, test, inputs);
      expect(fault, contestant.name).toBeUndefined();
      expect(error).toBeLessThanOrEqual(tolerance);
    }
    const [none, biased] = all as [Contestant, Contestant];
    const lazy = { ...biased, output: () => none.output() };
    expect((await judgeOutput(lazy, test, inputs)).fault).toMatch(/^batch \d, query \d+, head \d, element \d is/);
    const nothing = { ...none, output: async () => (await none.output()).map(() => Number.NaN) };
    expect((await judgeOutput(nothing, test, inputs)).fault).toBe('element 0 of all is NaN');
    for (const contestant of all) await contestant.close();
  });
});

describe('rows', () => {
  const test = small('alibi', [64]);
  const contestant = (form: Form, name: string = form) => ({ name, form, biasBytes: 2 ** 20 }) as Contestant;
  const fine = { error: 1e-7, tolerance: 1e-6 };
  const outcome = (wrong?: string) => {
    const contestants = [
      ...test.forms.map((form) => contestant(form)),
      contestant('dense', 'onnxruntime'),
      contestant('dense', torchName('dense')),
      contestant('alibi', torchName('alibi')),
    ];
    const timed = contestants.filter(({ name }) => name !== wrong);
    const ms: { [name: string]: number } = {
      ...{ none: 1, alibi: 1.05, 'rank 5': 1.5, dense: 2, onnxruntime: 4 },
      ...{ [torchName('dense')]: 5, [torchName('alibi')]: 3 },
    };
    return {
      test,
      sets: 4,
      absent: [{ form: 'rank 5' as const, contestant: 'pytorch', fault: 'it does not' }],
      timed,
      judged: new Map(
        contestants.map(({ name }) => [name, name === wrong ? { ...fine, fault: 'it is wrong' } : fine] as const),
      ),
      samples: timed.map(({ name }) => [ms[name]!]),
      disturbed: 0,
      repeated: 0,
    };
  };
  const peaks = [{ name: 'float32 avx2', threads: 2, rate: 1e11, unit: 'FLOP/s' as const }];

  it('compare each form with none, with the dense one and with ONNX Runtime', () => {
    const rows = rowsOf(outcome(), peaks, 'avx2', 2);
    expect(rows.map(({ case: { mask } }) => mask)).toEqual(['alibi', 'rank 5', 'dense']);
    expect(rows[0]).toMatchObject({
      ratios: {
        none: { median: 1 / 1.05 },
        dense: { median: 2 / 1.05 },
        onnxruntime: { median: 4 / 1.05 },
        pytorch: { median: 5 / 1.05 },
        'pytorch-flex': { median: 3 / 1.05 },
      },
      sets: 4,
      absent: [],
      figures: { 'over none': 1.05, 'over dense': 1.05 / 2, 'bias MiB': 1 },
      flops: 4 * 8 * 3 * 64 ** 2,
      floor: { ms: (1e3 * 4 * 8 * 3 * 64 ** 2) / 1e11, bound: 'arithmetic' },
      faults: [],
    });
    expect(rows[1]!.figures!['by flops']).toBe(1 + 5 / 16);
    // What a bias of low rank multiplies, and what a dense one has to be read.
    expect(rows[1]!.floor!.ms).toBe((1e3 * (4 * 8 + 2 * 5) * 3 * 64 ** 2) / 1e11);
    const tensors = 4 * 64 * 3 * 8 * 4;
    expect(rows.map(({ bytes }) => bytes)).toEqual(new Array(3).fill(tensors + 2 ** 20));
    const slow = { name: 'read 1 MiB', threads: 2, rate: 1e6, unit: 'B/s' as const, footprint: 2 ** 20 };
    const [first] = rowsOf(outcome(), [...peaks, slow], 'avx2', 2);
    expect(first!.floor).toEqual({ ms: (tensors + 2 ** 20) / 1e3, bound: 'memory' });
    expect(first!.case.data).toBe('small');
    expect(rows[1]!.absent).toEqual([{ contestant: 'pytorch', fault: 'small: rank 5: it does not' }]);
    expect(Object.keys(rows[2]!.ratios)).toEqual(['none', 'onnxruntime', 'pytorch']);
  });

  it('have no time of what is wrong', () => {
    const wrong = (name: string) => rowsOf(outcome(name), peaks, 'avx2', 2);
    expect(wrong('alibi')[0]).toMatchObject({
      samples: { none: [1] },
      ratios: {},
      faults: [{ contestant: 'node-attention', fault: 'it is wrong' }],
    });
    expect(wrong(torchName('alibi')).map(({ faults }) => faults!.map((each) => each.contestant))).toEqual([
      ['pytorch-flex'],
      [],
      [],
    ]);
    const [first, second] = wrong('onnxruntime');
    expect(first!.faults).toEqual([{ contestant: 'onnxruntime', fault: 'it is wrong' }]);
    expect([first!.ratios.onnxruntime, second!.faults]).toEqual([undefined, []]);
  });
});

describe('npm run bench -- bias', () => {
  it('is one of all suites, and does not take a number of threads, which is the library’s', () => {
    const steps = bias.steps({ quick: true, filter: 'SwinV2', threads: [2] });
    expect(steps.map(({ name }) => name)).toEqual(['SwinV2-B, 16 windows of 24 x 24, H=4 D=32']);
    expect(suites.map(({ name }) => name)).toContain('bias');
    const main = join(__dirname, '../bench/main.ts');
    const args = [require.resolve('tsx/cli'), main, 'bias', '--threads', '1'];
    expect(spawnSync(process.execPath, args, { encoding: 'utf8' }).stderr).toContain("unknown option '--threads'");
  });
});
