// What is measured on a GPU: bfloat16, 16384 tokens or one sequence, 2048 columns or 64 query heads that share 8 key heads;
// and decoding, one query against a long cache; of which a selector chooses keys, too, also where they are in host memory.

export const SELECTORS = ['hip', 'hip + state', 'pages'] as const;

/** `pagePlan` with the keys in memory of the host: what it lists is read from there, or lies on the GPU already. */
export const HOSTED = ['pages, host', 'pages, resident'] as const;

/** With it each query of a chunk selects blocks of its own. */
export const OF_CHUNKS = 'each query';

export interface CudaCase {
  name: string;
  kind: 'dense' | 'causal' | 'decode';
  batch: number;
  heads: number;
  kvHeads: number;
  queries: number;
  keys: number;
  headDim: number;
  /** Who chooses the keys that are seen, while decoding or of a chunk; unless given all are. */
  selector?: (typeof SELECTORS | typeof HOSTED)[number] | typeof OF_CHUNKS;
}

export const BYTES = 2;
const TOKENS = 16384;
const COLUMNS = 2048;
const LENGTHS = [512, 1024, 2048, 4096, 8192, 16384, 32768];
const DECODE_BATCHES = [1, 8, 64];
const DECODE_KEYS = [8192, 16384, 32768, 65536, 131072];
const SELECT_KEYS = [131072, 1048576];
const CHUNK = { queries: 2048, keys: 32768 };

export function makeCudaCase(kind: CudaCase['kind'], sizes: Omit<CudaCase, 'name' | 'kind'>): CudaCase {
  const { batch, heads, kvHeads, queries, keys, headDim, selector } = sizes;
  const chunk = kind === 'decode' || queries === keys ? '' : `Q=${queries} `;
  const extents = `${chunk}S=${keys} D=${headDim} H=${heads === kvHeads ? heads : `${heads}/${kvHeads}`} B=${batch}`;
  return { name: `bfloat16 ${kind} ${extents}${selector === undefined ? '' : ` ${selector}`}`, kind, ...sizes };
}

function prefill(kind: 'dense' | 'causal', length: number, headDim: number, heads: number, kvHeads: number): CudaCase {
  const batch = Math.max(1, TOKENS / length);
  return makeCudaCase(kind, { batch, heads, kvHeads, queries: length, keys: length, headDim });
}

const decode = (batch: number, keys: number, selector?: CudaCase['selector']): CudaCase =>
  makeCudaCase('decode', { batch, heads: 64, kvHeads: 8, queries: 1, keys, headDim: 128, selector });

const chunk = makeCudaCase('causal', {
  batch: 1,
  heads: 64,
  kvHeads: 8,
  headDim: 128,
  ...CHUNK,
  selector: OF_CHUNKS,
});

/** Every case, or (`quick`) a few of each kind. */
export function allCudaCases(quick: boolean): CudaCase[] {
  if (quick) {
    return [
      prefill('dense', 2048, 128, 16, 16),
      prefill('causal', 2048, 128, 16, 16),
      prefill('dense', 8192, 128, 64, 8),
      prefill('causal', 8192, 128, 64, 8),
      decode(1, 8192),
      decode(1, 131072),
      decode(8, 32768),
      ...SELECTORS.map((selector) => decode(1, SELECT_KEYS[0]!, selector)),
      chunk,
    ];
  }
  const cases: CudaCase[] = [];
  for (const kind of ['dense', 'causal'] as const) {
    for (const headDim of [64, 128, 256]) {
      const heads = COLUMNS / headDim;
      for (const length of LENGTHS) cases.push(prefill(kind, length, headDim, heads, heads));
    }
    for (const length of LENGTHS) cases.push(prefill(kind, length, 128, 64, 8));
  }
  for (const batch of DECODE_BATCHES) for (const keys of DECODE_KEYS) cases.push(decode(batch, keys));
  for (const keys of SELECT_KEYS) for (const selector of SELECTORS) cases.push(decode(1, keys, selector));
  for (const selector of HOSTED) cases.push(decode(1, SELECT_KEYS[0]!, selector));
  cases.push(chunk);
  return cases;
}

/** Floating-point operations: two products, a multiplication and an addition each, for every visible pair. */
export function cudaFlops({ kind, batch, heads, queries, keys, headDim }: CudaCase): number {
  const pairs = queries * keys - (kind === 'causal' ? (queries * (queries - 1)) / 2 : 0);
  return 4 * batch * heads * pairs * headDim;
}

/** The fewest bytes that have to be moved: every input read once, every output written once. */
export const cudaBytes = (test: CudaCase): number => keyBytes(test) + resultBytes(test);

/** Bytes of keys and values. */
export const keyBytes = ({ batch, kvHeads, keys, headDim }: CudaCase): number =>
  2 * BYTES * batch * keys * kvHeads * headDim;

const queryBytes = ({ batch, heads, queries, headDim }: CudaCase): number =>
  2 * BYTES * batch * queries * heads * headDim;

/** Bytes of queries, outputs and lse. */
export const resultBytes = (test: CudaCase): number => queryBytes(test) + 4 * test.batch * test.queries * test.heads;

const setBytes = (test: CudaCase): number => keyBytes(test) + queryBytes(test);

/** The caches of GPUs hold less than this by far, so that a run finds nothing of the run before it there. */
export const ROTATE_BYTES = 512 * 2 ** 20;

/** From here on one set evicts itself, and two would not leave room for the copies of PyTorch. */
const ALONE_BYTES = 4 * 2 ** 30;

/** How many sets of tensors are used in turn, so that they take so many bytes at least. */
export function setsOf(test: CudaCase, rotateBytes: number): number {
  const bytes = setBytes(test);
  return bytes >= ALONE_BYTES ? 1 : Math.max(2, Math.ceil(rotateBytes / bytes));
}

/** The most wanted first: a few of each kind, then the head dimension of most models, and decoding. */
export function byWant(cases: readonly CudaCase[]): CudaCase[] {
  const few = new Set(allCudaCases(true).map(({ name }) => name));
  const rank = ({ name, headDim }: CudaCase) => (few.has(name) ? 0 : headDim === 128 ? 1 : 2);
  return [...cases].sort((a, b) => rank(a) - rank(b));
}
