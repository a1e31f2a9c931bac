// factorizeBias(): a dense bias as the product of two factors.

import { type Bias, denseBias, lowRankBias } from './biases';
import { AttentionError } from './errors';
import type { Answer, Request } from './factorize-worker';
import { integer, options, show } from './options';
import type { Target } from './svd';
import { checkFloat32, type Device, Tensor } from './tensor';
import { inThread } from './thread';

/** How far {@link factorizeBias} is to go: one of `rank` and `energy`. */
export interface FactorizeOptions {
  /** Columns of the factors of every head. */
  rank?: number;
  /** The share of the sum of squared singular values to reach, above 0 and up to 1; heads may need different ranks. */
  energy?: number;
  /**
   * With `energy`: columns at most; without it as many as it takes. `phiQ` and `phiK` then have that many for a head that
   * does not reach the energy, and the relative error that it is told to have; in `bias` it is dense.
   */
  maxRank?: number;
}

/** What {@link factorizeBias} gives. */
export interface Factorization {
  /**
   * For `bias` of `attention`: a low rank, and a {@link denseBias} for the heads that would need more than `maxRank`, whose
   * columns of the low rank are zeros.
   */
  bias: Bias[];
  /** The heads that are dense in `bias`: those of which some matrix of the batch does not reach `energy` with `maxRank`. */
  denseHeads: number[];
  /** float32 `[batch or 1, Lq, heads or 1, rank]`; with `phiK` for {@link lowRankBias}. */
  phiQ: Tensor<'float32'>;
  /** float32 `[batch or 1, Lk, heads or 1, rank]`. */
  phiK: Tensor<'float32'>;
  /** Columns of the factors: the largest rank of a head. Those that need fewer have zeros after them. */
  rank: number;
  /** The rank of each matrix: head by head, for each entry of the batch. */
  ranks: number[];
  /** The norm of what the factors lack, as a share of the norm of the bias; computed from the factors as they are. */
  relativeError: number;
  /** The same for each matrix. */
  relativeErrors: number[];
}

function targetOf(given: { rank?: unknown; energy?: unknown; maxRank?: unknown }, least: number): Target {
  const call = 'factorizeBias';
  if ((given.rank === undefined) === (given.energy === undefined)) {
    const found = given.rank === undefined ? 'none' : 'both';
    throw new AttentionError('ERR_OPTION', `${call}: give one of rank and energy, not ${found}`);
  }
  if (given.rank !== undefined) {
    const rank = integer(call, 'rank', given.rank, 1);
    if (given.maxRank !== undefined) {
      throw new AttentionError('ERR_OPTION', `${call}: maxRank is ${show(given.maxRank)}; it goes with energy alone`);
    }
    if (rank > least) {
      throw new AttentionError('ERR_OPTION', `${call}: rank is ${rank}; no matrix of the bias has more than ${least}`);
    }
    return { rank };
  }
  const { energy } = given;
  if (typeof energy !== 'number' || !(energy > 0 && energy <= 1)) {
    throw new AttentionError('ERR_OPTION', `${call}: energy is ${show(energy)}; it must be above 0 and at most 1`);
  }
  return { energy, maxRank: integer(call, 'maxRank', given.maxRank ?? least, 1) };
}

/** The matrices of a bias, [batch][heads], and their factors. */
interface Matrices extends Answer {
  batch: number;
  heads: number;
  rows: number;
  columns: number;
  device: Device;
}

/** Factors as tensors [batch, tokens, heads, rank], with zeros for heads that are left out. */
function factorsOf({ made, batch, heads, rows, columns, device }: Matrices, keeps: (head: number) => boolean) {
  const rank = Math.max(...made.filter((_, n) => keeps(n % heads)).map((one) => one.rank));
  const assemble = (side: 'left' | 'right', tokens: number): Tensor<'float32'> => {
    const result = new Float32Array(made.length * tokens * rank);
    made.forEach((one, n) => {
      const [b, h] = [Math.floor(n / heads), n % heads];
      for (let i = 0; i < tokens && keeps(h); i++) {
        const row = one[side].subarray(i * one.rank, (i + 1) * one.rank);
        result.set(row, ((b * tokens + i) * heads + h) * rank);
      }
    });
    return Tensor.from(result, [batch, tokens, heads, rank], { dtype: 'float32', device });
  };
  return { phiQ: assemble('left', rows), phiK: assemble('right', columns), rank };
}

/** The low rank of the heads that it is enough for, and a dense bias of the others; `all` are the factors of all. */
function biasesOf(matrices: Matrices, all: { phiQ: Tensor; phiK: Tensor }, denseHeads: number[]): Bias[] {
  const { data, batch, heads, rows, columns, device } = matrices;
  if (denseHeads.length === 0) return [lowRankBias(all.phiQ, all.phiK)];
  const size = rows * columns;
  const values = new Float32Array(batch * denseHeads.length * size);
  for (let b = 0; b < batch; b++) {
    for (const [at, h] of denseHeads.entries()) {
      const from = (b * heads + h) * size;
      values.set(data.subarray(from, from + size), (b * denseHeads.length + at) * size);
    }
  }
  const tensor = Tensor.from(values, [batch, denseHeads.length, rows, columns], { device });
  if (denseHeads.length === heads) return [denseBias(tensor)];
  const dense = denseBias(tensor, { heads: denseHeads });
  const { phiQ, phiK } = factorsOf(matrices, (h) => !denseHeads.includes(h));
  return [lowRankBias(phiQ, phiK), dense];
}

/**
 * The best factors of a dense bias for {@link lowRankBias}: a singular value decomposition of each head, cut off at `rank`,
 * or where it holds the share `energy` of the sum of squared singular values. `dense` is float32 `[Lq, Lk]`,
 * `[heads, Lq, Lk]` or `[batch, heads, Lq, Lk]` on any device, where the factors are made too. Large matrices are
 * decomposed within a random range that power iterations have refined. The work is done in float64 on a thread of its own.
 * With `energy` and `maxRank`, heads that would need more columns stay dense in the `bias` that it gives, as in the paper.
 *
 * @returns a promise, which is rejected with ERR_OPTION where the bias has values that are not finite: give what hides keys
 * as a mask or a {@link keyBias} of its own.
 * @throws AttentionError for options and tensors that cannot be right, at once.
 * @see Wu et al. 2025, FlashBias; Halko, Martinsson and Tropp 2011, Finding Structure with Randomness.
 */
export function factorizeBias(dense: Tensor, opts: FactorizeOptions): Promise<Factorization> {
  const call = 'factorizeBias';
  const given = options(call, opts, ['rank', 'energy', 'maxRank']);
  const tensor = checkFloat32(`${call}: dense`, dense);
  const { shape, device } = tensor;
  const [batch = 1, heads = 1, rows = 0, columns = 0] = [1, 1, 1, 1].slice(shape.length).concat(shape);
  if (shape.length < 2 || shape.length > 4 || shape.includes(0)) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: dense has shape [${shape.join(', ')}]; it must be [Lq, Lk], [heads, Lq, Lk] or [batch, heads, Lq, Lk]`,
    );
  }
  const target = targetOf(given, Math.min(rows, columns));
  return tensor.read().then(async (data) => {
    const request: Request = { data, count: batch * heads, rows, columns, target };
    const answer = await inThread<Answer>(call, 'factorize-worker.js', request, [data.buffer as ArrayBuffer]);
    const { made } = answer;
    if (!made.every((one) => Number.isFinite(one.squaredNorm))) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: dense has values that are not finite; hide keys by a mask instead`,
      );
    }
    const matrices = { ...answer, batch, heads, rows, columns, device };
    const relativeErrors = made.map((one) => one.relativeError);
    const total = made.reduce((sum, one) => sum + one.squaredNorm, 0);
    const lacking = made.reduce((sum, one) => sum + one.squaredNorm * one.relativeError ** 2, 0);
    const factors = factorsOf(matrices, () => true);
    const missed = (h: number) => made.some((one, n) => n % heads === h && !one.reached);
    const denseHeads = Array.from({ length: heads }, (_, h) => h).filter(missed);
    return {
      bias: biasesOf(matrices, factors, denseHeads),
      denseHeads,
      ...factors,
      ranks: made.map((one) => one.rank),
      relativeError: total === 0 ? 0 : Math.sqrt(lacking / total),
      relativeErrors,
    };
  });
}
