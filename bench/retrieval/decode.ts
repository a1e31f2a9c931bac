// Decoding steps of a model of today: attention over what indexes find in a long cache, against that over all of it.

import { KvCache, Stream, Tensor } from 'node-attention';
import { decode, uniform } from '../../test/support/numbers';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row } from '../format';
import type { Plan } from '../measure';
import { memoryObstacle } from '../obstacle';
import { filled, HEAD_DIM, HEAD_KINDS, noiseFrom, structuredHead } from '../sparse/heads';
import type { Target } from '../targets';
import { bestOf, type Data, type Head, noiseHead, QUICK_FEWER, type RetrievalOptions, TOP, textHead } from './cases';
import {
  type Attending,
  attending,
  type Cached,
  dense,
  ESTIMATES,
  indexed,
  METHODS,
  methodsFor,
  samplesOf,
  type Turns,
  takeTurns,
} from './contestants';
import { judgeFinder } from './judge';

export const KV_HEADS = 8;
export const HEADS = 32;
/** Sample queries of each query head, by which a graph is made. */
const SAMPLES = 512;
/** Steps whose queries take turns; of text there are as many queries as two need. */
export const STEPS = 4;
/** Tokens appended to see what one takes. */
const APPENDED = 64;
/** Tokens that are put into the cache at once. */
const CHUNK = 4096;

export interface DecodeCase {
  name: string;
  kind: keyof typeof HEAD_KINDS | 'noise' | 'text';
  keys: number;
  /** Sample queries of each query head, other than SAMPLES. */
  samples?: number;
}

export function decodeCases({ quick, full }: RetrievalOptions): DecodeCase[] {
  const kinds = quick ? (['smooth'] as const) : (['smooth', 'spiky', 'text', 'noise'] as const);
  return (quick ? [4096] : [16384, 65536, 131072, ...(full ? [524288, 1048576] : [])]).flatMap((keys) =>
    kinds.map((kind) => ({
      name: `decode, ${kind} T=${keys}`,
      kind,
      keys,
      ...(quick && { samples: SAMPLES / QUICK_FEWER }),
    })),
  );
}

/** For each key, a quarter more than was measured: the cache, one head as float32 (twice while rounded), all indexes. */
const MOST_BYTES = 12 * 1024;

/** Why this machine cannot run it now. */
export const decodeObstacle = ({ keys }: Pick<DecodeCase, 'keys'>, free?: number): string | undefined =>
  memoryObstacle(MOST_BYTES * keys, free);

/** Numbers that bfloat16 has. All key heads have these keys and values, which takes as long as others; queries differ. */
export async function decodeData(test: Omit<DecodeCase, 'name'>): Promise<Data> {
  const made = headOf(test);
  const [k, v, q, samples] = await Promise.all(
    [made.k, made.v, made.q, made.samples].map(async (values) => {
      using narrow = Tensor.from(values, [values.length], { dtype: 'bfloat16' });
      using wide = narrow.to('float32');
      return (await wide.read()) as Float32Array;
    }),
  );
  return { k: k!, v: v!, q: q!, samples: samples!, ...bestOf(q!, k!) };
}

function headOf({ kind, keys, samples: each = SAMPLES }: Omit<DecodeCase, 'name'>): Head {
  if (kind === 'text') return textHead(keys, each * HEADS);
  const queries = STEPS * HEADS;
  const made =
    kind === 'noise'
      ? noiseHead(keys, queries, each * HEADS)
      : structuredHead(HEAD_KINDS[kind], keys, queries, 1, 79, each * HEADS);
  return { ...made, v: filled(keys * HEAD_DIM, noiseFrom(uniform(80))) };
}

function decodeCache(data: Head): Cached {
  const keys = data.k.length / HEAD_DIM;
  const stream = new Stream();
  const cache = new KvCache({
    batch: 1,
    kvHeads: KV_HEADS,
    headDim: HEAD_DIM,
    valueDim: data.v.length / keys,
    capacity: keys + APPENDED,
    dtype: 'bfloat16',
  });
  for (const { k, v } of chunksOf(data)) {
    cache.append(k, v, { stream });
    for (const each of [k, v]) each.dispose();
  }
  const queries = stepsOf(data);
  const samples = samplesOf(data, HEADS, 'bfloat16');
  const close = () => {
    for (const resource of [...queries, samples, cache, stream]) resource.dispose();
  };
  return { cache, queries, samples, stream, close };
}

/** The queries of each step, [1, 1, HEADS, HEAD_DIM]. */
export const stepsOf = ({ q }: Pick<Head, 'q'>): Tensor[] =>
  Array.from({ length: q.length / (HEADS * HEAD_DIM) }, (_, n) =>
    Tensor.from(q.subarray(n * HEADS * HEAD_DIM, (n + 1) * HEADS * HEAD_DIM), [1, 1, HEADS, HEAD_DIM], {
      dtype: 'bfloat16',
    }),
  );

/** What is appended, piece by piece: the same keys and values for all heads. */
export function* chunksOf({ k, v }: Pick<Head, 'k' | 'v'>): Generator<{ k: Tensor; v: Tensor }> {
  const keys = k.length / HEAD_DIM;
  for (let first = 0; first < keys; first += CHUNK) {
    const tokens = Math.min(CHUNK, keys - first);
    yield { k: ofAllHeads(k, HEAD_DIM, first, tokens), v: ofAllHeads(v, v.length / keys, first, tokens) };
  }
}

/** [1, tokens, KV_HEADS, columns] of the rows from `first` on. */
function ofAllHeads(rows: Float32Array, columns: number, first: number, tokens: number): Tensor {
  const all = new Float32Array(tokens * KV_HEADS * columns);
  for (let t = 0; t < tokens; t++) {
    const row = rows.subarray((first + t) * columns, (first + t + 1) * columns);
    for (let h = 0; h < KV_HEADS; h++) all.set(row, (t * KV_HEADS + h) * columns);
  }
  return Tensor.from(all, [1, tokens, KV_HEADS, columns], { dtype: 'bfloat16' });
}

/** The methods for so many keys, and those that estimate. */
const variantsFor = (keys: number) => [
  ...methodsFor(keys).map((name) => ({ name, method: name, estimate: false })),
  ...ESTIMATES.map((method) => ({ name: `${method}, estimate`, method, estimate: true })),
];

interface Method {
  name: string;
  buildMs: number;
  bytes: number;
  recall: number;
  fault?: string;
  touched: number;
  /** The norm of what the outputs differ by from those over all keys, over the norm of these. */
  error: number;
  /** The mean share of the softmax that what is attended to has. */
  mass: number;
}

export interface DecodeOutcome extends Turns {
  test: DecodeCase;
  methods: Method[];
  /** Milliseconds that appending a token to the cache takes. */
  appendMs: number;
}

export async function measureDecode(test: DecodeCase, plan: Plan): Promise<DecodeOutcome> {
  const data = await decodeData(test);
  const cached = decodeCache(data);
  const all = dense(cached);
  const steps = cached.queries.length;
  const whole = await outputsOf(all, steps);
  const methods: Method[] = [];
  const contestants: [string, Attending][] = [['dense', all]];
  for (const { name, method, estimate } of variantsFor(test.keys)) {
    const finder = await indexed(cached, METHODS[method], estimate);
    const judged = await judgeFinder(finder, data);
    const { buildMs, bytes } = finder;
    const touched = await finder.touched!();
    finder.close();
    const attend = attending(cached, METHODS[method], estimate);
    const near = nearness(await outputsOf(attend, steps), whole);
    methods.push({ name, buildMs: buildMs!, bytes: bytes!, ...judged, touched, ...near });
    if (judged.fault === undefined) contestants.push([name, attend]);
    else attend.close();
  }
  const measurement = await takeTurns(contestants, plan);
  for (const [, contestant] of contestants) contestant.close();
  const appendMs = await timeAppend(cached);
  cached.close();
  return { test, methods, appendMs, ...measurement };
}

export interface Outputs {
  out: Float64Array;
  lse: Float64Array;
}

/** Of each of so many steps. */
export async function outputsOf({ attend }: Pick<Attending, 'attend'>, steps: number): Promise<Outputs[]> {
  const outputs: Outputs[] = [];
  for (let n = 0; n < steps; n++) {
    const { out, lse } = attend(n);
    outputs.push({ out: decode('bfloat16', await out.read()), lse: decode('float32', await lse.read()) });
    out.dispose();
    lse.dispose();
  }
  return outputs;
}

export function nearness(some: readonly Outputs[], all: readonly Outputs[]): Pick<Method, 'error' | 'mass'> {
  let [apart, norm, mass] = [0, 0, 0];
  for (const [n, { out, lse }] of all.entries()) {
    for (const [i, x] of out.entries()) {
      apart += (some[n]!.out[i]! - x) ** 2;
      norm += x ** 2;
    }
    for (const [i, x] of lse.entries()) mass += Math.exp(some[n]!.lse[i]! - x) / lse.length / all.length;
  }
  return { error: Math.sqrt(apart / norm), mass };
}

async function timeAppend({ cache, stream }: Cached): Promise<number> {
  using k = Tensor.zeros([1, 1, KV_HEADS, cache.headDim], { dtype: 'bfloat16' });
  using v = Tensor.zeros([1, 1, KV_HEADS, cache.valueDim], { dtype: 'bfloat16' });
  const start = performance.now();
  for (let i = 0; i < APPENDED; i++) cache.append(k, v, { stream });
  await stream.synchronize();
  return (performance.now() - start) / APPENDED;
}

/** A row for each method, beside attention over all keys. The floor of the scan is the time to read its 8-bit copies. */
export function decodeRows(
  { test, methods, appendMs, contestants, samples, disturbed, repeated }: DecodeOutcome,
  peaks: readonly Peak[],
  threads: number,
): Row[] {
  return methods.map(({ name, buildMs, bytes, recall, fault, touched, error, mass }) => {
    const own = samples[contestants.indexOf(name)];
    const faults: Fault[] = fault === undefined ? [] : [{ contestant: OWN, fault }];
    return makeRow({
      name: `${test.name}: ${name}`,
      case: {
        mask: name,
        dtype: 'bfloat16',
        tokens: test.keys,
        headDim: HEAD_DIM,
        threads,
        data: `decode, ${test.kind}`,
      },
      samples: { ...(own && { [OWN]: own }), dense: samples[contestants.indexOf('dense')]! },
      disturbed,
      repeated,
      ...(name === 'scan'
        ? { flops: 2 * HEAD_DIM * test.keys * HEADS, bytes, floor: floorOf({ bytes }, { peaks, threads }) }
        : {}),
      memory: { [OWN]: bytes },
      faults,
      figures: {
        ...(fault === undefined ? { [RECALL]: recall } : {}),
        touched,
        'build ms': buildMs,
        'softmax mass': mass,
        'output error': error,
        'append ms': appendMs,
      },
    });
  });
}

const RECALL = `recall@${TOP}`;

const isDecode = ({ name, case: { tokens } }: Row) => name.startsWith('decode') && tokens >= 131072;
const byScan = (row: Row) => isDecode(row) && row.case.mask === 'scan';
/** The method 'pages' as it is by default, on structured heads. */
const byPages = (row: Row) => isDecode(row) && row.case.mask === 'pages mean' && /smooth|spiky/.test(row.name);

export const DECODE_TARGETS: Target<Row>[] = [
  {
    text: 'decoding by the scan: within 25 % of the time to read the 8-bit copies, from 128K keys',
    figure: (row) => (byScan(row) ? row.ofFloor : undefined),
    atLeast: 0.8,
  },
  {
    text: 'decoding by the scan: misses none of the best keys but by rounding, from 128K keys',
    figure: (row) => (byScan(row) ? row.faults?.length : undefined),
    atMost: 0,
  },
  {
    text: 'decoding by pages: recall of 0.97 from 128K keys with structure',
    figure: (row) => (byPages(row) ? row.figures?.[RECALL] : undefined),
    atLeast: 0.97,
  },
  {
    text: 'decoding by pages: touch at most 25 % from 128K keys with structure',
    figure: (row) => (byPages(row) ? row.figures?.touched : undefined),
    atMost: 0.25,
  },
];
