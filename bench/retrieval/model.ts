// A decoding step of a whole model, of the shape of one with 8 billion weights: its layers, each with a cache of its own
// that is held as int8, attend to what the scan finds. All are enqueued in one go, and awaited once.

import { KvCache, Stream } from 'node-attention';
import { floorOf } from '../floor';
import { makeRow, OWN, type Peak, type Row } from '../format';
import { inTurn, type Plan, type Timed } from '../measure';
import { memoryObstacle } from '../obstacle';
import { HEAD_DIM } from '../sparse/heads';
import { type Data, type RetrievalOptions, TOP } from './cases';
import {
  type Attending,
  attending,
  type Cached,
  dense,
  indexed,
  METHODS,
  samplesOf,
  type Turns,
  takeTurns,
} from './contestants';
import { chunksOf, decodeData, HEADS, KV_HEADS, nearness, outputsOf, stepsOf } from './decode';
import { judgeFinder } from './judge';

export interface ModelCase {
  name: string;
  layers: number;
  keys: number;
}

/** Filling the caches takes a minute. */
export function modelCases({ quick, full }: RetrievalOptions): ModelCase[] {
  if (quick || !full) return [];
  const [layers, keys] = [32, 131072];
  return [{ name: `model: a step of ${layers} layers, T=${keys}`, layers, keys }];
}

const GIB = 2 ** 30;

/** Of a key or value, and of the scan's copy of a key, with what counts its units; and a quarter, as blocks are rounded up. */
const mostBytes = ({ layers, keys }: Omit<ModelCase, 'name'>) => 1.25 * 3 * layers * keys * KV_HEADS * (HEAD_DIM + 5);

/** Why this machine cannot run it now. */
export const modelObstacle = (test: ModelCase, free?: number): string | undefined =>
  memoryObstacle(mostBytes(test) + GIB, free); // for what is appended

export interface ModelOutcome extends Turns {
  test: ModelCase;
  /** Of all layers. */
  fillMs: number;
  buildMs: number;
  cacheBytes: number;
  indexBytes: number;
  /** Means over the layers. */
  recall: number;
  touched: number;
  /** Of the layer that is worst. */
  error: number;
  mass: number;
  fault?: string;
}

export async function measureModel(test: ModelCase, plan: Plan): Promise<ModelOutcome> {
  const { layers, keys } = test;
  const data = await decodeData({ kind: 'smooth', keys });
  const stream = new Stream();
  const queries = stepsOf(data);
  const samples = samplesOf(data, HEADS, 'bfloat16');
  const sizes = { batch: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, capacity: keys };
  const caches = Array.from({ length: layers }, () => new KvCache({ ...sizes, dtype: 'bfloat16', storage: 'int8' }));
  const start = performance.now();
  for (const { k, v } of chunksOf(data)) {
    for (const cache of caches) cache.append(k, v, { stream });
    await stream.synchronize();
    for (const each of [k, v]) each.dispose();
  }
  const outcome = {
    test,
    fillMs: performance.now() - start,
    cacheBytes: caches.reduce((sum, { bytes }) => sum + bytes, 0),
    buildMs: 0,
    indexBytes: 0,
    recall: 0,
    touched: 0,
    error: 0,
    mass: Number.POSITIVE_INFINITY,
  };
  const cached = caches.map((cache): Cached => ({ cache, queries, samples, stream, close: () => cache.dispose() }));
  const sought = { ...data, least: leastHeld(data) };
  let fault: string | undefined;
  for (const [layer, each] of cached.entries()) {
    const finder = await indexed(each, METHODS.scan);
    const judged = await judgeFinder(finder, sought);
    outcome.buildMs += finder.buildMs!;
    outcome.indexBytes += finder.bytes!;
    outcome.recall += judged.recall / layers;
    outcome.touched += (await finder.touched!()) / layers;
    if (judged.fault !== undefined) fault ??= `layer ${layer}: ${judged.fault}`;
    finder.close();
  }

  const all = cached.map((each) => dense(each));
  const found = cached.map((each) => attending(each, METHODS.scan));
  const whole = await outputsOf(all[0]!, queries.length);
  for (const each of found) {
    const near = nearness(await outputsOf(each, queries.length), whole); // has made what the index holds
    outcome.error = Math.max(outcome.error, near.error);
    outcome.mass = Math.min(outcome.mass, near.mass);
  }
  /** The layers of a step have different queries, which take turns. */
  const stepOf = (attends: readonly Attending[]): Timed => ({
    run: inTurn(queries.length, async (n) => {
      const made = attends.map(({ attend }, layer) => attend((n + layer) % queries.length));
      await stream.synchronize();
      for (const { out, lse } of made) for (const part of [out, lse]) part.dispose();
    }),
  });
  const contestants: [string, Timed][] = [['dense', stepOf(all)]];
  if (fault === undefined) contestants.push(['scan', stepOf(found)]);
  const measurement = await takeTurns(contestants, plan);
  for (const each of [...found, ...cached]) each.close();
  for (const each of [...queries, samples, stream]) each.dispose();
  return { ...outcome, ...(fault !== undefined && { fault }), ...measurement };
}

/**
 * How far below the least of the best products a key may lie that is taken for a better one where keys are held as int8:
 * the elements of either are off by half a unit, which counts a 127th of the largest.
 */
function leastHeld({ k, q, least }: Data): Data['least'] {
  const unit = k.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127;
  return least.map(({ product, slack }, n) => {
    const asked = q.subarray(n * HEAD_DIM, (n + 1) * HEAD_DIM);
    return { product, slack: slack + unit * asked.reduce((sum, x) => sum + Math.abs(x), 0) };
  });
}

/** The scan beside attention over all keys of the same caches. Its floor is the time to read the 8-bit copies. */
export function modelRow(outcome: ModelOutcome, peaks: readonly Peak[], threads: number): Row {
  const { test, contestants, samples, fault, disturbed, repeated } = outcome;
  const { layers, keys } = test;
  const bytes = outcome.indexBytes;
  const own = samples[contestants.indexOf('scan')];
  return makeRow({
    name: `${test.name}: scan`,
    case: {
      mask: 'scan',
      dtype: 'int8',
      tokens: keys,
      headDim: HEAD_DIM,
      threads,
      data: `model of ${layers} layers`,
    },
    samples: { ...(own && { [OWN]: own }), dense: samples[contestants.indexOf('dense')]! },
    disturbed,
    repeated,
    flops: 2 * HEAD_DIM * keys * HEADS * layers,
    bytes,
    floor: floorOf({ bytes }, { peaks, threads }),
    memory: { [OWN]: bytes },
    faults: fault === undefined ? [] : [{ contestant: OWN, fault }],
    figures: {
      ...(fault === undefined ? { [`recall@${TOP}`]: outcome.recall } : {}),
      touched: outcome.touched,
      'softmax mass': outcome.mass,
      'output error': outcome.error,
      'cache GiB': outcome.cacheBytes / GIB,
      'index GiB': bytes / GIB,
      'fill ms': outcome.fillMs,
      'build ms': outcome.buildMs,
    },
  });
}
