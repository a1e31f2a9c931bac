// Point clouds: reading, writing, one that is computed, noise, and how far points lie off a surface.

import { extname } from 'node:path';
import { Tensor } from 'node-attention';

/** Points [point][x, y, z], and the faces between them where a file has some. */
export interface Cloud {
  points: Float32Array;
  /** Corners of each face, as numbers of points. */
  faces: number[][];
}

export const FORMATS = ['.obj', '.xyz'] as const;
export type Format = (typeof FORMATS)[number];

/** The format that the ending of a file says, or undefined. */
export const formatOf = (file: string): Format | undefined =>
  FORMATS.find((format) => format === extname(file).toLowerCase());

function numbersOf(words: string[], line: number): number[] {
  const numbers = words.slice(0, 3).map(Number);
  if (words.length < 3 || words.slice(0, 3).includes('') || !numbers.every((x) => Number.isFinite(Math.fround(x)))) {
    throw new Error(`line ${line} has no three numbers`);
  }
  return numbers;
}

/** The vertices and faces of an OBJ file; corners may be `7`, `7/1/2`, or -1 for the vertex last read. */
function parseObj(lines: string[]): Cloud {
  const points: number[] = [];
  const faces: number[][] = [];
  lines.forEach((text, n) => {
    const [keyword, ...words] = text.trim().split(/\s+/);
    if (keyword === 'v') points.push(...numbersOf(words, n + 1));
    if (keyword !== 'f') return;
    const face = words.map((word) => {
      const at = Number(word.split('/')[0]);
      return at < 0 ? points.length / 3 + at : at - 1;
    });
    if (face.length < 3 || !face.every(Number.isInteger)) throw new Error(`line ${n + 1} has no face of three corners`);
    faces.push(face);
  });
  const beyond = faces.flat().find((at) => at < 0 || at >= points.length / 3);
  if (beyond !== undefined) throw new Error(`a face names vertex ${beyond + 1} of ${points.length / 3}`);
  return { points: Float32Array.from(points), faces };
}

/** Lines of three coordinates, with spaces or commas between them; what follows in a line is left out. */
function parseXyz(lines: string[]): Cloud {
  const points: number[] = [];
  lines.forEach((text, n) => {
    const line = text.replace(/#.*/, '').trim();
    if (line !== '') points.push(...numbersOf(line.split(/[\s,;]+/), n + 1));
  });
  return { points: Float32Array.from(points), faces: [] };
}

/** @throws Error that says which line is wrong. */
export function parse(text: string, format: Format): Cloud {
  return (format === '.obj' ? parseObj : parseXyz)(text.split('\n'));
}

/** The text of a file: points with their normals, and faces where the format has them. */
export function write({ points, faces }: Cloud, normals: Float32Array, format: Format): string {
  const rows = (from: Float32Array, before: string) =>
    Array.from({ length: from.length / 3 }, (_, i) => before + from.subarray(3 * i, 3 * i + 3).join(' '));
  if (format === '.xyz') {
    const own = rows(normals, ' ');
    return `${rows(points, '')
      .map((row, i) => row + own[i])
      .join('\n')}\n`;
  }
  const corners = faces.map((face) => `f ${face.map((at) => `${at + 1}//${at + 1}`).join(' ')}`);
  return `${[...rows(points, 'v '), ...rows(normals, 'vn '), ...corners].join('\n')}\n`;
}

/** The radii of the torus: of its middle line, and about that. */
const LARGE = 1;
const SMALL = 0.4;

/** A torus of so many points, spread along a spiral, and its normals. */
export function torus(count: number): { cloud: Cloud; normals: Float32Array } {
  const golden = (Math.sqrt(5) - 1) / 2;
  const points = new Float32Array(3 * count);
  const normals = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) {
    const [u, v] = [(2 * Math.PI * (i + 0.5)) / count, 2 * Math.PI * ((i * golden) % 1)];
    const normal = [Math.cos(v) * Math.cos(u), Math.cos(v) * Math.sin(u), Math.sin(v)];
    normals.set(normal, 3 * i);
    points.set(
      [LARGE * Math.cos(u) + SMALL * normal[0]!, LARGE * Math.sin(u) + SMALL * normal[1]!, SMALL * normal[2]!],
      3 * i,
    );
  }
  return { cloud: { points, faces: [] }, normals };
}

/** At most `limit` of the points, evenly from first to last; faces go when points do. */
export function thin(cloud: Cloud, limit: number): Cloud {
  const count = cloud.points.length / 3;
  if (count <= limit) return cloud;
  const points = new Float32Array(3 * limit);
  for (let i = 0; i < limit; i++) {
    const from = 3 * Math.floor((i * count) / limit);
    points.set(cloud.points.subarray(from, from + 3), 3 * i);
  }
  return { points, faces: [] };
}

/** The length of the diagonal of the box around the points. */
export function diagonal(points: Float32Array): number {
  const low = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  const high = low.map((x) => -x);
  points.forEach((x, n) => {
    low[n % 3] = Math.min(low[n % 3]!, x);
    high[n % 3] = Math.max(high[n % 3]!, x);
  });
  return Math.hypot(...high.map((x, axis) => x - low[axis]!));
}

/** Moves every point by a normal deviate of a standard deviation along each axis. */
export function addNoise(points: Float32Array, deviation: number, seed: number): Float32Array {
  using noise = Tensor.randn([points.length], { seed });
  const { data } = noise;
  return points.map((x, n) => x + deviation * data[n]!);
}

/** Root of the mean squared distance of points from the planes through `clean` ones, across their normals. */
export function offSurface(points: Float32Array, clean: Float32Array, normals: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < points.length; i += 3) {
    let off = 0;
    for (let c = i; c < i + 3; c++) off += (points[c]! - clean[c]!) * normals[c]!;
    sum += off * off;
  }
  return Math.sqrt((3 * sum) / points.length);
}

/** The mean angle in degrees between lines along two sets of normals, whichever way those point. */
export function meanAngle(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i += 3) {
    let cosine = 0;
    for (let c = i; c < i + 3; c++) cosine += a[c]! * b[c]!;
    sum += Math.acos(Math.min(1, Math.abs(cosine)));
  }
  return ((sum / a.length) * 3 * 180) / Math.PI;
}
