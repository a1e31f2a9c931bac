// Smoothing of a cloud of points: about every point a plane is fitted to its neighbours, weighted by exp(-|x - y|² / 2 r²),
// and the point moves towards it (moving least squares, Alexa et al. 2003). Weighted means are an attention whose scores are
// nothing but a bias, the squared distance in three dimensions; its values are the coordinates and their products. The
// means of both give centre and covariance of the neighbours, and the direction in which they spread least is the normal
// of the plane. On a curved surface all neighbouring points lie off their planes by about the same, which is no noise: a
// second attention tells by how much, so that points move by what is theirs alone. No matrix of distances is made.

import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import { attention, distanceBias, Tensor } from 'node-attention';

/** Queries of one operation. */
const CHUNK = 1024;
/** Values of a point: x, y, z, and the six products of two of them. */
const VALUES = 9;

export interface Smoothed {
  points: Float32Array;
  /** Of length one; which of both ways they point is chance. */
  normals: Float32Array;
}

/** Coordinates about their mean in units of `radius`, so that their products lose no more digits than they must. */
function normalize(points: Float32Array, radius: number): { own: Float32Array; middle: number[] } {
  const middle = [0, 0, 0];
  points.forEach((x, n) => {
    middle[n % 3]! += (3 * x) / points.length;
  });
  return { own: points.map((x, n) => (x - middle[n % 3]!) / radius), middle };
}

function valuesOf(own: Float32Array): Float32Array {
  const values = new Float32Array((own.length / 3) * VALUES);
  for (let i = 0; i < own.length / 3; i++) {
    const [x, y, z] = own.subarray(3 * i, 3 * i + 3) as unknown as [number, number, number];
    values.set([x, y, z, x * x, x * y, x * z, y * y, y * z, z * z], i * VALUES);
  }
  return values;
}

/** The direction of least spread, from means of coordinates and of their products. */
function normalOf(means: Float32Array): number[] {
  const [x, y, z, xx, xy, xz, yy, yz, zz] = means as unknown as [number, ...number[]] & number[];
  const covariance = new Matrix([
    [xx! - x * x, xy! - x * y!, xz! - x * z!],
    [xy! - x * y!, yy! - y! * y!, yz! - y! * z!],
    [xz! - x * z!, yz! - y! * z!, zz! - z! * z!],
  ]);
  // Eigenvalues of a symmetric matrix come in ascending order.
  return new EigenvalueDecomposition(covariance, { assumeSymmetric: true }).eigenvectorMatrix.getColumn(0);
}

/** The mean of the values of all points about each point, `width` of them to a point, by how near those are. */
async function meansAbout(
  places: Tensor,
  values: Float32Array,
  width: number,
  progress: (done: number) => void,
): Promise<Float32Array> {
  const [count] = places.shape as [number];
  using all = Tensor.from(values, [1, count, 1, width]);
  using keys = Tensor.zeros([1, count, 1, 1]); // scores are the bias alone
  const answers: Promise<Float32Array>[] = [];
  for (let start = 0; start < count; start += CHUNK) {
    const end = Math.min(start + CHUNK, count);
    const bias = distanceBias({ q: places.slice([start, end]), k: places, weight: 0.5 });
    using means = attention(keys.slice([0, 1], [start, end]), keys, all, { bias }).out;
    answers.push(means.read() as Promise<Float32Array>);
  }
  const result = new Float32Array(count * width);
  for (const [chunk, answer] of answers.entries()) {
    const means = await answer;
    result.set(means, chunk * CHUNK * width);
    progress(chunk * CHUNK + means.length / width);
  }
  return result;
}

const dot = (a: Float32Array, b: Float32Array) => a[0]! * b[0]! + a[1]! * b[1]! + a[2]! * b[2]!;

/**
 * Moves points towards planes fitted to their neighbours, which count by exp(-distance² / 2 radius²). `progress` hears how
 * many of `points.length * 2 / 3` means are done: those of the planes, then those of distances from them.
 */
export async function smooth(
  points: Float32Array,
  radius: number,
  progress: (done: number) => void = () => {},
): Promise<Smoothed> {
  const count = points.length / 3;
  const { own, middle } = normalize(points, radius);
  using places = Tensor.from(own, [count, 3]);
  const means = await meansAbout(places, valuesOf(own), VALUES, progress);
  const normals = new Float32Array(3 * count);
  const off = new Float32Array(3 * count); // of each point from its plane, along the normal
  for (let i = 0; i < count; i++) {
    const mean = means.subarray(i * VALUES, (i + 1) * VALUES);
    const normal = Float32Array.from(normalOf(mean));
    const point = own.subarray(3 * i, 3 * i + 3);
    const distance = dot(point, normal) - dot(mean, normal);
    normals.set(normal, 3 * i);
    for (let c = 0; c < 3; c++) off[3 * i + c] = distance * normal[c]!;
  }
  const around = await meansAbout(places, off, 3, (done) => progress(count + done));
  const moved = own.map((x, n) => {
    const at = n - (n % 3);
    const normal = normals.subarray(at, at + 3);
    const by = dot(off.subarray(at, at + 3), normal) - dot(around.subarray(at, at + 3), normal);
    return middle[n % 3]! + radius * (x - by * normal[n % 3]!);
  });
  return { points: moved, normals };
}
