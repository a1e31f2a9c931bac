// factorizeBias(): a dense bias as the product of two factors.

import { AttentionError } from './errors';
import type { Request } from './factorize-worker';
import { integer, options, show } from './options';
import type { Factors, Target } from './svd';
import { Tensor, tensorHandle } from './tensor';
import { inThread } from './thread';

/** How far {@link factorizeBias} is to go: one of `rank` and `energy`. */
export interface FactorizeOptions {
  /** Columns of the factors of every head. */
  rank?: number;
  /** The share of the sum of squared singular values to reach, above 0 and up to 1; heads may need different ranks. */
  energy?: number;
  /**
   * With `energy`: columns at most; without it as many as it takes. A head that does not reach the energy then has that
   * many, and the relative error that it is told to have.
   */
  maxRank?: number;
}

/** What {@link factorizeBias} gives. */
export interface Factorization {
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

/** Factors of [batch][heads] matrices as one tensor [batch, tokens, heads, rank]. */
function assemble(of: Float32Array[], ranks: number[], heads: number, tokens: number, rank: number): Float32Array {
  const result = new Float32Array(of.length * tokens * rank);
  of.forEach((from, n) => {
    const [b, h, own] = [Math.floor(n / heads), n % heads, ranks[n] as number];
    for (let i = 0; i < tokens; i++) {
      result.set(from.subarray(i * own, (i + 1) * own), ((b * tokens + i) * heads + h) * rank);
    }
  });
  return result;
}

/**
 * The best factors of a dense bias for {@link lowRankBias}: a singular value decomposition of each head, cut off at `rank`,
 * or where it holds the share `energy` of the sum of squared singular values. `dense` is float32 `[Lq, Lk]`,
 * `[heads, Lq, Lk]` or `[batch, heads, Lq, Lk]` on any device, where the factors are made too. Large matrices are
 * decomposed within a random range that power iterations have refined. The work is done in float64 on a thread of its own.
 *
 * @returns a promise, which is rejected with ERR_OPTION where the bias has values that are not finite: give what hides keys
 * as a mask or a {@link keyBias} of its own.
 * @throws AttentionError for options and tensors that cannot be right, at once.
 * @see Wu et al. 2025, FlashBias; Halko, Martinsson and Tropp 2011, Finding Structure with Randomness.
 */
export function factorizeBias(dense: Tensor, opts: FactorizeOptions): Promise<Factorization> {
  const call = 'factorizeBias';
  const given = options(call, opts, ['rank', 'energy', 'maxRank']);
  tensorHandle(dense, `${call}: dense`);
  if (dense.dtype !== 'float32') {
    throw new AttentionError('ERR_DTYPE', `${call}: dense is ${dense.dtype}; it must be float32`);
  }
  const { shape, device } = dense;
  const [batch = 1, heads = 1, rows = 0, columns = 0] = [1, 1, 1, 1].slice(shape.length).concat(shape);
  if (shape.length < 2 || shape.length > 4 || shape.includes(0)) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: dense has shape [${shape.join(', ')}]; it must be [Lq, Lk], [heads, Lq, Lk] or [batch, heads, Lq, Lk]`,
    );
  }
  const target = targetOf(given, Math.min(rows, columns));
  return (dense as Tensor<'float32'>).read().then(async (data) => {
    const request: Request = { data, count: batch * heads, rows, columns, target };
    const made = await inThread<Factors[]>(call, 'factorize-worker.js', request, [data.buffer as ArrayBuffer]);
    if (!made.every((one) => Number.isFinite(one.squaredNorm))) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: dense has values that are not finite; hide keys by a mask instead`,
      );
    }
    const ranks = made.map((one) => one.rank);
    const rank = Math.max(...ranks);
    const relativeErrors = made.map((one) => one.relativeError);
    const total = made.reduce((sum, one) => sum + one.squaredNorm, 0);
    const lacking = made.reduce((sum, one) => sum + one.squaredNorm * one.relativeError ** 2, 0);
    const tensor = (of: Float32Array[], tokens: number) =>
      Tensor.from(assemble(of, ranks, heads, tokens, rank), [batch, tokens, heads, rank], { dtype: 'float32', device });
    return {
      phiQ: tensor(
        made.map((one) => one.left),
        rows,
      ),
      phiK: tensor(
        made.map((one) => one.right),
        columns,
      ),
      rank,
      ranks,
      relativeError: total === 0 ? 0 : Math.sqrt(lacking / total),
      relativeErrors,
    };
  });
}
