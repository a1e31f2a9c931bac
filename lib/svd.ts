// A truncated singular value decomposition of one matrix of a bias, for the worker of factorizeBias(). The decomposition
// of small matrices is ml-matrix's; products with the large one are loops here, since that stays in float32.

import { EigenvalueDecomposition, Matrix, QrDecomposition } from 'ml-matrix';

/** A row-major matrix. */
export interface Dense {
  readonly data: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/** Row-major factors, [rows, rank] and [columns, rank], whose product is the matrix but for `relativeError`. */
export interface Factors {
  left: Float32Array;
  right: Float32Array;
  rank: number;
  /** The Frobenius norm of what they lack, as a share of that of the matrix. */
  relativeError: number;
  /** Whether they are what was aimed at; not where the energy takes more than `maxRank`. */
  reached: boolean;
  /** The squared norm of the matrix; where that is not finite there are no factors. */
  squaredNorm: number;
}

/** Either a rank, or the share of the squared singular values to reach, with at most `maxRank`. */
export type Target = { rank: number } | { energy: number; maxRank: number };

// Up to so many rows or columns the Gram matrix is decomposed as a whole.
const smallest = 128;
// Halko, Martinsson and Tropp 2011: columns beside those wanted, and power iterations, which damp the rest of the spectrum.
const oversampling = 10;
const iterations = 3;

/** matrix * x, x being [columns, width]. */
function times({ data, rows, columns }: Dense, x: Float64Array, width: number): Float64Array {
  const y = new Float64Array(rows * width);
  for (let i = 0; i < rows; i++) {
    const row = y.subarray(i * width, (i + 1) * width);
    for (let j = 0; j < columns; j++) {
      const a = data[i * columns + j] as number;
      const from = j * width;
      for (let c = 0; c < width; c++) (row[c] as number) += a * (x[from + c] as number);
    }
  }
  return y;
}

/** The transpose of the matrix * x, x being [rows, width]. */
function transposedTimes({ data, rows, columns }: Dense, x: Float64Array, width: number): Float64Array {
  const y = new Float64Array(columns * width);
  for (let i = 0; i < rows; i++) {
    const from = x.subarray(i * width, (i + 1) * width);
    for (let j = 0; j < columns; j++) {
      const a = data[i * columns + j] as number;
      const to = j * width;
      for (let c = 0; c < width; c++) (y[to + c] as number) += a * (from[c] as number);
    }
  }
  return y;
}

/** An orthonormal basis of the columns of x, [rows, width]. */
function basis(x: Float64Array, width: number): Float64Array {
  const matrix = Matrix.from1DArray(x.length / width, width, x);
  return Float64Array.from(new QrDecomposition(matrix).orthogonalMatrix.to1DArray());
}

/** Deterministic numbers from -1 to 1. */
function noise(count: number): Float64Array {
  let state = 1;
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** x^T x of [n, width]. */
function gram(x: Float64Array, width: number): Matrix {
  const sums = Matrix.zeros(width, width);
  const rows = Array.from({ length: width }, (_, a) => sums.getRow(a));
  for (let at = 0; at < x.length; at += width) {
    for (let a = 0; a < width; a++) {
      const row = rows[a] as number[];
      const factor = x[at + a] as number;
      for (let b = a; b < width; b++) (row[b] as number) += factor * (x[at + b] as number);
    }
  }
  for (let a = 0; a < width; a++) {
    for (let b = a; b < width; b++) {
      sums.set(a, b, rows[a]?.[b] as number);
      sums.set(b, a, rows[a]?.[b] as number);
    }
  }
  return sums;
}

/** An orthonormal `left`, [rows, width], and `right`, the transpose of the matrix times it, with squared singular values. */
interface Range {
  left: Float64Array;
  right: Float64Array;
  width: number;
  squares: number[];
}

/** The leading singular vectors within a range, the largest first. */
function decompose(left: Float64Array, right: Float64Array, width: number): Range {
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(gram(right, width), {
    assumeSymmetric: true,
  });
  const order = realEigenvalues
    .map((_, n) => n)
    .sort((a, b) => (realEigenvalues[b] as number) - (realEigenvalues[a] as number));
  const turned = (x: Float64Array) => {
    const result = new Float64Array(x.length);
    order.forEach((from, to) => {
      const vector = eigenvectorMatrix.getColumn(from);
      for (let at = 0; at < x.length; at += width) {
        let sum = 0;
        for (let c = 0; c < width; c++) sum += (x[at + c] as number) * (vector[c] as number);
        result[at + to] = sum;
      }
    });
    return result;
  };
  const squares = order.map((n) => Math.max(realEigenvalues[n] as number, 0));
  return { left: turned(left), right: turned(right), width, squares };
}

function randomRange(matrix: Dense, width: number): Range {
  let left = basis(times(matrix, noise(matrix.columns * width), width), width);
  for (let i = 0; i < iterations; i++) {
    left = basis(times(matrix, basis(transposedTimes(matrix, left, width), width), width), width);
  }
  return decompose(left, transposedTimes(matrix, left, width), width);
}

function wholeRange(matrix: Dense): Range {
  const width = matrix.rows;
  const identity = new Float64Array(width * width);
  for (let i = 0; i < width; i++) identity[i * width + i] = 1;
  return decompose(identity, transposedTimes(matrix, identity, width), width);
}

function transposed({ data, rows, columns }: Dense): Dense {
  const result = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) result[j * rows + i] = data[i * columns + j] as number;
  }
  return { data: result, rows: columns, columns: rows };
}

/** The first columns, shared out so that both factors have the same magnitudes. */
function factorsOf(range: Range, rank: number): { left: Float32Array; right: Float32Array } {
  const take = (x: Float64Array, scales: number[]) => {
    const rows = x.length / range.width;
    const result = new Float32Array(rows * rank);
    for (let i = 0; i < rows; i++) {
      for (let r = 0; r < rank; r++) result[i * rank + r] = (x[i * range.width + r] as number) * (scales[r] as number);
    }
    return result;
  };
  const roots = range.squares.map((square) => (square > 0 ? Math.sqrt(Math.sqrt(square)) : 1));
  return {
    left: take(range.left, roots),
    right: take(
      range.right,
      roots.map((root) => 1 / root),
    ),
  };
}

function errorOf(
  { data, rows, columns }: Dense,
  { left, right }: Pick<Factors, 'left' | 'right'>,
  rank: number,
  total: number,
): number {
  let lacking = 0;
  for (let i = 0; i < rows; i++) {
    const own = left.subarray(i * rank, (i + 1) * rank);
    for (let j = 0; j < columns; j++) {
      const value = data[i * columns + j] as number;
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += (own[r] as number) * (right[j * rank + r] as number);
      lacking += (value - sum) * (value - sum);
    }
  }
  return Math.sqrt(lacking / total);
}

/** The least rank whose squared singular values reach the share; undefined if not all of them that are known do. */
function rankFor(energy: number, squares: number[], total: number): number | undefined {
  let sum = 0;
  for (let rank = 0; rank < squares.length; rank++) {
    if (sum >= energy * total) return Math.max(rank, 1);
    sum += squares[rank] as number;
  }
  return sum >= energy * total ? squares.length : undefined;
}

/** Factors of the best approximation of their rank, in the Frobenius norm. */
export function factorize(given: Dense, target: Target): Factors {
  const turned = given.rows > given.columns;
  const matrix = turned ? transposed(given) : given;
  const most = 'rank' in target ? target.rank : Math.min(target.maxRank, matrix.rows);
  const total = matrix.data.reduce((sum, x) => sum + x * x, 0);
  if (!Number.isFinite(total)) {
    return {
      left: new Float32Array(),
      right: new Float32Array(),
      rank: 0,
      relativeError: Number.NaN,
      reached: false,
      squaredNorm: total,
    };
  }
  const rangeOf = (width: number) =>
    matrix.rows <= smallest || width >= matrix.rows ? wholeRange(matrix) : randomRange(matrix, width);
  // Without a rank to aim at the range is widened until it is enough.
  let tried = Math.min('rank' in target ? most : 16, most);
  let range = rangeOf(tried + oversampling);
  let rank = 'rank' in target ? most : rankFor(target.energy, range.squares.slice(0, tried), total);
  while (rank === undefined && tried < most && 'energy' in target) {
    tried = Math.min(2 * tried, most);
    range = rangeOf(tried + oversampling);
    rank = rankFor(target.energy, range.squares.slice(0, tried), total);
  }
  const reached = rank !== undefined || most === matrix.rows; // with all columns only rounding is lacking
  rank ??= most;
  const factors = factorsOf(range, rank);
  const relativeError = total === 0 ? 0 : errorOf(matrix, factors, rank, total);
  const { left, right } = turned ? { left: factors.right, right: factors.left } : factors;
  return { left, right, rank, relativeError, reached, squaredNorm: total };
}
