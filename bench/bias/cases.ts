// What the bias benchmark measures: one attention with several biases, or none.

export type Form = 'none' | 'alibi' | 'distance' | 'relative' | 'dense' | `rank ${number}`;

export interface BiasCase {
  name: string;
  dtype: 'float32' | 'bfloat16';
  batch: number;
  /** Token axes. */
  tokens: number[];
  heads: number;
  headDim: number;
  causal: boolean;
  forms: Form[];
  /** What the dense bias holds: the same as this form, or random numbers. */
  dense: 'alibi' | 'relative' | undefined;
}

/** Whether ONNX Runtime takes part: its attention on the CPU has no bfloat16, and no bias but a dense one. */
export const hasOnnxruntime = ({ dtype, forms }: BiasCase): boolean => dtype === 'float32' && forms.includes('dense');

const RANKS = [1, 4, 16, 64, 256];
const SIZES = [512, 1024, 2048, 4096, 8192, 16384, 32768];

/** What cases have in common that differ by length, type and headDim alone. */
export const kindOf = ({ name, heads }: BiasCase): string =>
  /^(float32|bfloat16) S=/.test(name) ? `${heads} heads` : name;

/** The name of what is measured with one form of a case. */
export const rowName = ({ name }: BiasCase, form: Form): string => `${name}: ${form}`;

/** The dense bias is kept below this. */
const MOST_DENSE_BYTES = 2 ** 32;

/** One of q, k, v and the output. */
export const tensorBytes = ({ batch, tokens, heads, headDim, dtype }: BiasCase): number =>
  batch * tokens.reduce((a, b) => a * b) * heads * headDim * (dtype === 'float32' ? 4 : 2);

export const denseBytes = ({ tokens, heads }: Pick<BiasCase, 'tokens' | 'heads'>): number =>
  4 * heads * tokens.reduce((a, b) => a * b) ** 2;

function sweep(size: number, headDim: number, dtype: BiasCase['dtype'], ranks: number[]): BiasCase {
  const [heads, tokens] = [size > 8192 ? 1 : 4, [size]];
  const forms: Form[] = ['none', 'alibi', 'distance', ...ranks.map((rank): Form => `rank ${rank}`)];
  if (denseBytes({ tokens, heads }) <= MOST_DENSE_BYTES) forms.push('dense');
  const name = `${dtype} S=${size} H=${heads} D=${headDim}`;
  return { name, dtype, batch: 1, tokens, heads, headDim, causal: false, forms, dense: 'alibi' };
}

/** Every case, or (`quick`) a handful. */
export function biasCases(quick: boolean): BiasCase[] {
  const base = { dtype: 'float32', batch: 1, causal: false } as const;
  const named: BiasCase[] = [
    {
      ...base,
      name: 'ALiBi as in a language model, S=4096 H=50 D=32 causal',
      tokens: [quick ? 1024 : 4096],
      heads: 50,
      headDim: 32,
      causal: true,
      forms: ['none', 'alibi', 'rank 2', 'dense'],
      dense: 'alibi',
    },
    {
      ...base,
      name: 'SwinV2-B, 16 windows of 24 x 24, H=4 D=32',
      batch: 16,
      tokens: [24, 24],
      heads: 4,
      headDim: 32,
      forms: ['none', 'relative', 'rank 16', 'dense'],
      dense: 'relative',
    },
    {
      ...base,
      name: 'Point cloud of 32,186 points, H=8 D=16',
      tokens: [quick ? 4096 : 32186],
      heads: 8,
      headDim: 16,
      forms: ['none', 'distance'],
      dense: undefined,
    },
    {
      ...base,
      name: 'Triangle attention, 128 rows of 128, H=4 D=32',
      batch: 128,
      tokens: [128],
      heads: 4,
      headDim: 32,
      forms: ['none', 'rank 96', 'dense'],
      dense: undefined,
    },
  ];
  for (const one of named) if (quick) one.name = one.name.replace('4096', '1024').replace('32,186', '4,096');
  if (quick) return [sweep(1024, 64, 'float32', [16]), sweep(1024, 128, 'bfloat16', [16]), ...named];
  const sweeps = (['float32', 'bfloat16'] as const).flatMap((dtype) =>
    [64, 128].flatMap((headDim) => SIZES.map((size) => sweep(size, headDim, dtype, RANKS))),
  );
  return [...sweeps, ...named];
}
