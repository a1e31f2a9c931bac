// The example of smoothed point clouds: its arithmetic, its files, and the program itself.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  addNoise,
  diagonal,
  formatOf,
  meanAngle,
  offSurface,
  parse,
  thin,
  torus,
  write,
} from '../examples/geometry/cloud';
import { smooth } from '../examples/geometry/smooth';

const folder = mkdtempSync(join(tmpdir(), 'node-attention-geometry-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('smoothing', () => {
  it('brings points nearer to a curved surface, and finds its normals', async () => {
    const { cloud, normals } = torus(3000); // three chunks of queries
    const size = diagonal(cloud.points);
    const noisy = addNoise(cloud.points, 0.005 * size, 1);
    const heard: number[] = [];
    const smoothed = await smooth(noisy, 0.04 * size, (done) => heard.push(done));
    const [before, after] = [noisy, smoothed.points].map((points) => offSurface(points, cloud.points, normals));
    expect(after).toBeLessThan(before! / 2);
    expect(meanAngle(smoothed.normals, normals)).toBeLessThan(6);
    expect(heard.at(-1)).toBe(6000);
    expect(heard).toEqual(heard.slice().sort((a, b) => a - b));
  });

  it('leaves a plane where it is, wherever that is', async () => {
    for (const shift of [0, 1000]) {
      const points = new Float32Array(3 * 400);
      for (let i = 0; i < 400; i++) points.set([(i % 20) / 20 + shift, Math.floor(i / 20) / 20, shift], 3 * i);
      const { points: moved, normals } = await smooth(points, 0.1);
      for (let n = 0; n < moved.length; n++) {
        expect(Math.abs(moved[n]! - points[n]!)).toBeLessThan(1e-4);
        expect(Math.abs(normals[n]!)).toBeCloseTo(n % 3 === 2 ? 1 : 0, 3);
      }
    }
  });

  it('moves a point that is off a plane onto it, by the definition', async () => {
    // Nine points of a plane and a tenth above their middle, with equal weights as the radius is large: off the plane
    // through the mean by 0.9 h, the others by -0.1 h, and those are zero in the mean.
    const h = 0.01;
    const points = new Float32Array(30);
    for (let i = 0; i < 9; i++) points.set([i % 3, Math.floor(i / 3), 0], 3 * i);
    points.set([1, 1, h], 27);
    const { points: moved } = await smooth(points, 1000);
    for (let i = 0; i < 10; i++) expect(moved[3 * i + 2]).toBeCloseTo(h / 10, 4);
  });
});

describe('clouds', () => {
  it('are read from OBJ, with faces in every form', () => {
    const text = '# a comment\nv 0 0 0\nv 1 0 0 0.5\r\nv 0 1 0\nvn 0 0 1\nf 1/2/3 2 3//1\nv 0 0 1\nf -1 -2 -3\n';
    expect(parse(text, '.obj')).toEqual({
      points: Float32Array.of(0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1),
      faces: [
        [0, 1, 2],
        [3, 2, 1],
      ],
    });
  });

  it('are read from XYZ, with spaces, commas and more columns', () => {
    const { points, faces } = parse('# x y z\n1 2 3\n\n4,5,6,0.1,0.2\n-7e-1\t8;9 # last\n', '.xyz');
    expect(points).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6, -0.7, 8, 9));
    expect(faces).toEqual([]);
  });

  it.each([
    ['v 1 2\n', '.obj', 'line 1 has no three numbers'],
    ['v 1 2 x\n', '.obj', 'line 1 has no three numbers'],
    ['1 2 3\n1 NaN 3\n', '.xyz', 'line 2 has no three numbers'],
    ['1 2 1e99\n', '.xyz', 'line 1 has no three numbers'],
    ['v 1 2 3\nf 1 1\n', '.obj', 'line 2 has no face of three corners'],
    ['v 1 2 3\nf 1 1 2\n', '.obj', 'a face names vertex 2 of 1'],
    ['v 1 2 3\nf 1 1 -2\n', '.obj', 'a face names vertex 0 of 1'],
  ] as const)('are refused by line: %j', (text, format, message) => {
    expect(() => parse(text, format)).toThrow(message);
  });

  it('are written so that they can be read again', () => {
    const cloud = { points: Float32Array.of(0, 0, 0.1, 1, 0, 0, 0, 1, 0), faces: [[0, 1, 2]] };
    const normals = Float32Array.of(0, 0, 1, 0, 0, 1, 0, 1, 0);
    expect(parse(write(cloud, normals, '.obj'), '.obj')).toEqual(cloud);
    expect(parse(write(cloud, normals, '.xyz'), '.xyz').points).toEqual(cloud.points);
    expect(write(cloud, normals, '.xyz').split('\n')[2]).toBe('0 1 0 0 1 0');
    expect(write(cloud, normals, '.obj')).toContain('f 1//1 2//2 3//3');
    expect(['a.OBJ', 'b.xyz', 'c.ply'].map(formatOf)).toEqual(['.obj', '.xyz', undefined]);
  });

  it('are thinned evenly, and measured', () => {
    const cloud = { points: Float32Array.from({ length: 30 }, (_, n) => Math.floor(n / 3)), faces: [[0, 1, 2]] };
    expect([...thin(cloud, 5).points].filter((_, n) => n % 3 === 0)).toEqual([0, 2, 4, 6, 8]);
    expect(thin(cloud, 5).faces).toEqual([]);
    expect(thin(cloud, 10)).toBe(cloud);
    expect(diagonal(cloud.points)).toBeCloseTo(9 * Math.sqrt(3), 5);
    const normals = cloud.points.map((_, n) => (n % 3 === 0 ? 1 : 0));
    const moved = cloud.points.map((x, n) => x + (n % 3 === 0 ? 0.5 : 7)); // along the surface counts for nothing
    expect(offSurface(moved, cloud.points, normals)).toBeCloseTo(0.5, 6);
    expect(
      meanAngle(
        normals,
        normals.map((x) => -x),
      ),
    ).toBe(0);
  });
});

describe('program', () => {
  const root = resolve(__dirname, '..');
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [require.resolve('tsx/cli'), join(root, 'examples/geometry/main.ts'), ...args], {
      cwd: folder,
      encoding: 'utf8',
    });

  it('computes a torus, smooths it and writes it where it is told to', () => {
    const { stdout, stderr, status } = run('--points', '2000', '--radius', '0.04', '--out', 'torus.xyz');
    expect({ stderr, status }).toEqual({ stderr: 'smoothing: 4,000 means\n', status: 0 });
    const [, before, after] = /diagonal: (\S+) before, (\S+) after$/m.exec(stdout)!;
    expect(Number(after)).toBeLessThan(Number(before) / 2);
    expect(parse(readFileSync(join(folder, 'torus.xyz'), 'utf8'), '.xyz').points).toHaveLength(6000);
  });

  it('reads a file, and finds a place of its own for the result', () => {
    const { cloud, normals } = torus(500);
    const file = join(folder, 'given.obj');
    writeFileSync(file, write({ ...cloud, faces: [[0, 1, 2]] }, normals, '.obj'));
    const { stdout, stderr, status } = run(file, '--radius', '0.08');
    expect(status).toBe(0);
    expect(stderr).toBe('normals of the clean points: 1,000 means\nsmoothing: 1,000 means\n');
    const [written] = /^.*smoothed\.obj$/m.exec(stdout)!;
    expect(existsSync(written)).toBe(true);
    expect(parse(readFileSync(written, 'utf8'), '.obj').faces).toEqual([[0, 1, 2]]);
    rmSync(join(written, '..'), { recursive: true });
  });

  it('names the argument, its value and what to give instead', () => {
    writeFileSync(join(folder, 'few.xyz'), '1 2 3\n');
    writeFileSync(join(folder, 'wrong.obj'), 'v 1 2\n');
    for (const [args, message] of [
      [['--points', '4'], "option '--points <n>' argument '4' is invalid. Give a whole number from 16 to 1048576."],
      [['absent.obj'], "'absent.obj' cannot be read (ENOENT). Give the path of an OBJ or XYZ file."],
      [['mesh.ply'], "'mesh.ply' is no .obj or .xyz file. Give one."],
      [['wrong.obj'], "'wrong.obj' cannot be read (line 1 has no three numbers). Give an OBJ or XYZ file."],
      [['few.xyz'], "'few.xyz' holds 1 points. Give a cloud of at least 16 points."],
      [['--out', 'x.stl'], "option '--out <file>' argument 'x.stl' is no .obj or .xyz file. Give a name that ends so."],
    ] as const) {
      expect(run(...args)).toMatchObject({ status: 1, stdout: '', stderr: `error: ${message}\n` });
    }
  });
});
