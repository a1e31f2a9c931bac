// The named cases: neighborhoods of published models, with all their tokens. On a CPU they have one head, on a GPU those
// of the model.

import { simulateNeighborhood } from 'node-attention';
import { type Axis, seesOnGrid } from '../../test/support/oracle';
import { count } from '../cases';

export type DType = 'float32' | 'bfloat16';
export type Place = 'cpu' | 'cuda';

/** A neighborhood, and what it is applied to. */
export interface Setting {
  shape: number[];
  window: number[];
  stride?: number[];
  dilation?: number[];
}

export interface GnaCase extends Setting {
  name: string;
  dtype: DType;
  batch: number;
  heads: number;
  headDim: number;
}

interface Model {
  name: string;
  shape: number[];
  headDim: number;
  batch: Record<Place, number>;
  heads: Record<Place, number>;
  /** Also in float32 on a CPU, where that takes seconds. */
  float32: boolean;
  settings: Omit<Setting, 'shape'>[];
}

const one = { cpu: 1, cuda: 1 };
/** Tokens of one sequence, images and videos as in Hassani et al. 2025 (arXiv:2504.16922) and Cosmos-Predict2. */
const models: Model[] = [
  {
    name: '1-D',
    shape: [32768],
    headDim: 128,
    batch: one,
    heads: one,
    float32: true,
    settings: [{ window: [2048] }, { window: [2048], stride: [256] }, { window: [2048], stride: [2048] }],
  },
  {
    name: 'FLUX',
    shape: [256, 256],
    headDim: 128,
    batch: one,
    heads: { cpu: 1, cuda: 24 },
    float32: true,
    settings: [{ window: [80, 80] }, { window: [80, 80], stride: [16, 16] }],
  },
  {
    name: 'HunyuanVideo',
    shape: [30, 48, 80],
    headDim: 128,
    batch: one,
    heads: { cpu: 1, cuda: 24 },
    float32: true,
    settings: [{ window: [18, 24, 24] }, { window: [18, 24, 24], stride: [16, 8, 8] }],
  },
  {
    name: 'Cosmos',
    shape: [16, 44, 80],
    headDim: 128,
    batch: one,
    heads: { cpu: 1, cuda: 32 },
    float32: true,
    settings: [
      { window: [16, 24, 16] },
      { window: [16, 24, 16], stride: [1, 8, 16] },
      { window: [16, 24, 16], stride: [16, 8, 16] },
    ],
  },
  {
    name: 'Cosmos-Predict2',
    shape: [24, 44, 80],
    headDim: 128,
    batch: one,
    heads: { cpu: 1, cuda: 16 },
    float32: false,
    settings: [
      { window: [-1, 4, 16], dilation: [1, 11, 5] },
      { window: [-1, 12, 16], stride: [1, 4, 1], dilation: [1, 1, 5] },
      { window: [-1, 12, 24], stride: [1, 4, 8] },
      { window: [-1, 20, 40], stride: [1, 4, 8] },
      { window: [-1, 28, 56], stride: [1, 4, 8] },
    ],
  },
  {
    name: 'Swin',
    shape: [56, 56],
    headDim: 32,
    batch: { cpu: 1, cuda: 64 },
    heads: { cpu: 4, cuda: 4 },
    float32: true,
    settings: [{ window: [7, 7], stride: [7, 7] }, { window: [7, 7] }],
  },
];

const box = (lengths: readonly number[]) => lengths.join('x');

export function describeSetting({ shape, window, stride = [1], dilation = [1] }: Setting): string {
  const parts = [`${box(shape)} w${box(window)} s${box(stride)}`];
  if (dilation.some((d) => d > 1)) parts.push(`d${box(dilation)}`);
  return parts.join(' ');
}

export function makeCase(label: string, setting: Setting, rest: Omit<GnaCase, 'name' | keyof Setting>): GnaCase {
  return {
    name: `${rest.dtype} ${label} ${describeSetting(setting)} H=${rest.heads} D=${rest.headDim}`,
    ...setting,
    ...rest,
  };
}

/** Dense attention over long sequences takes seconds. */
const quickModels: Model[] = [
  {
    ...models.find(({ name }) => name === '1-D')!,
    shape: [8192],
    settings: [{ window: [512] }, { window: [512], stride: [512] }],
  },
  models.find(({ name }) => name === 'Swin')!,
];

/** Every named case, or (`quick`) short ones. */
export function namedCases(place: Place, quick: boolean): GnaCase[] {
  const dtypes: DType[] = place === 'cpu' && !quick ? ['bfloat16', 'float32'] : ['bfloat16'];
  return dtypes.flatMap((dtype) =>
    (quick ? quickModels : models)
      .filter(({ float32 }) => dtype === 'bfloat16' || float32)
      .flatMap(({ name, shape, headDim, batch, heads, settings }) =>
        settings.map((setting) =>
          makeCase(name, { shape, ...setting }, { dtype, batch: batch[place], heads: heads[place], headDim }),
        ),
      ),
  );
}

/** Windows of a quarter, half, three quarters and nearly all of each axis (`quick`: two of these, short): where it ends to pay. */
export function sweepCases(place: Place, quick: boolean): GnaCase[] {
  const shapes = quick ? [[512], [16, 16]] : [[512], [4096], [16, 16], [64, 64], [8, 8, 8], [8, 16, 32]];
  const heads = place === 'cpu' ? 2 : 32;
  return shapes.flatMap((shape) =>
    (quick ? [1 / 4, 3 / 4] : [1 / 4, 1 / 2, 3 / 4, 1 - 1 / 8]).flatMap((share) =>
      [1, 2].map((stride) =>
        makeCase(
          'sweep',
          { shape, window: shape.map((extent) => share * extent), stride: shape.map(() => stride) },
          { dtype: 'bfloat16', batch: 1, heads, headDim: 64 },
        ),
      ),
    ),
  );
}

/** What the simulator says with the tiles that it chooses. */
export const simulationOf = (setting: Setting) =>
  simulateNeighborhood({
    shape: setting.shape,
    window: setting.window,
    stride: setting.stride,
    dilation: setting.dilation,
  });

/** Floating-point operations: two products, a multiplication and an addition each, for every visible pair. */
export function gnaFlops(test: GnaCase): number {
  const pairs = count(test.shape) ** 2 / simulationOf(test).speedup.flops;
  return 4 * test.batch * test.heads * pairs * test.headDim;
}

/** Of q, k, v and the output. */
export const bytesOf = ({ shape, batch, heads, headDim, dtype }: GnaCase): number =>
  4 * batch * count(shape) * heads * headDim * (dtype === 'float32' ? 4 : 2);

/** The setting in the oracle's terms. */
export function axesOf({ shape, window, stride, dilation }: Setting): Axis[] {
  return shape.map((_, a) => ({
    window: window[a]!,
    stride: stride?.[a] ?? 1,
    dilation: dilation?.[a] ?? 1,
    causal: false,
    wrap: false,
  }));
}

/** The flat keys that the flat query i sees. */
export function keysOf(setting: Setting, i: number): number[] {
  const axes = axesOf(setting);
  return Array.from({ length: count(setting.shape) }, (_, j) => j).filter((j) => seesOnGrid(i, j, setting.shape, axes));
}
