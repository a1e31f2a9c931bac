// The denoising example: its arithmetic against the definition, its pictures, and the program itself.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import {
  addNoise,
  CHANNELS,
  type Frames,
  frameOf,
  pan,
  psnr,
  readPicture,
  writePictures,
} from '../examples/denoise/images';
import { NonLocalMeans, patchesOf } from '../examples/denoise/nonlocal';
import { renderPicture } from '../examples/denoise/picture';
import { seesOnGrid } from './support/oracle';

const folder = mkdtempSync(join(tmpdir(), 'node-attention-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Non-local means as it is defined, in float64: weights exp(-|p - q|² / h²) over the window. */
function definition(frames: Frames, patch: number, window: number[], stride: number[], noise: number): Float64Array {
  const { count, height, width, data } = frames;
  const half = (patch - 1) / 2;
  const fold = (i: number, length: number) => (i < 0 ? -i : i >= length ? 2 * (length - 1) - i : i);
  const pixel = (t: number, y: number, x: number, c: number) =>
    data[((t * height + fold(y, height)) * width + fold(x, width)) * CHANNELS + c]!;
  const grid = count === 1 ? [height, width] : [count, height, width];
  const axes = grid.map((_, a) => ({
    window: window[a]!,
    stride: stride[a]!,
    dilation: 1,
    causal: false,
    wrap: false,
  }));
  const at = (i: number) => [Math.floor(i / width / height), Math.floor(i / width) % height, i % width] as const;
  const tokens = count * height * width;
  const result = new Float64Array(tokens * CHANNELS);
  for (let i = 0; i < tokens; i++) {
    let total = 0;
    for (let j = 0; j < tokens; j++) {
      if (!seesOnGrid(i, j, grid, axes)) continue;
      const [[ti, yi, xi], [tj, yj, xj]] = [at(i), at(j)];
      let distance = 0;
      for (let dy = -half; dy <= half; dy++) {
        for (let dx = -half; dx <= half; dx++) {
          for (let c = 0; c < CHANNELS; c++) {
            distance += (pixel(ti, yi + dy, xi + dx, c) - pixel(tj, yj + dy, xj + dx, c)) ** 2;
          }
        }
      }
      const weight = Math.exp(-distance / (noise ** 2 * patch ** 2 * CHANNELS));
      total += weight;
      for (let c = 0; c < CHANNELS; c++) result[i * CHANNELS + c]! += weight * data[j * CHANNELS + c]!;
    }
    for (let c = 0; c < CHANNELS; c++) result[i * CHANNELS + c]! /= total;
  }
  return result;
}

describe('non-local means', () => {
  it.each([
    ['a picture', 1, [7, 5], [1, 1]],
    ['a picture, in strides', 1, [7, 5], [3, 2]],
    ['frames', 3, [3, 5, 5], [1, 1, 1]],
    ['frames, in strides', 4, [3, 5, 5], [2, 5, 3]],
  ])('is what the definition says: %s', async (_, count, window, stride) => {
    const scene = { ...renderPicture(19), height: 14 };
    scene.data = scene.data.subarray(0, 14 * 19 * CHANNELS);
    const noisy = addNoise(count === 1 ? scene : pan(scene, count, 1), 0.2, 3);
    using filter = new NonLocalMeans(noisy, 3);
    const { frames, ms } = await filter.denoise({ window, stride, noise: 0.2 });
    const right = definition(noisy, 3, window, stride, 0.2);
    expect(ms).toBeGreaterThan(0);
    expect([frames.count, frames.height, frames.width]).toEqual([noisy.count, noisy.height, noisy.width]);
    // Scores are sums of 27 products of numbers up to 2, times 2 / h² below 2: a weight is off by some 27 · 8 units of
    // 2^-24, and so is a mean of values up to 2.
    const most = frames.data.reduce((max, value, i) => Math.max(max, Math.abs(value - right[i]!)), 0);
    expect(most).toBeLessThan(2 * 27 * 8 * 2 * 2 ** -24);
  });

  it('mirrors patches at the border', () => {
    const data = Float32Array.from({ length: 2 * 3 * CHANNELS }, (_, i) => Math.floor(i / CHANNELS) / 10 + 0.5);
    const patches = patchesOf({ count: 1, height: 2, width: 3, data }, 3);
    const first = Array.from({ length: 9 }, (_, n) => Math.round(10 * patches[n * CHANNELS]!));
    expect(first).toEqual([4, 3, 4, 1, 0, 1, 4, 3, 4]); // of rows 0 1 2 and 3 4 5, about 0
    expect(patches).toHaveLength(6 * 9 * CHANNELS);
  });

  it('brings a noisy picture nearer to the clean one, and frames nearer still', async () => {
    const clean = pan(renderPicture(112), 5, 2);
    const noisy = addNoise(clean, 0.1, 1);
    using moving = new NonLocalMeans(noisy, 5);
    using still = new NonLocalMeans(frameOf(noisy, 2), 5);
    const alone = await still.denoise({ window: [11, 11], stride: [1, 1], noise: 0.1 });
    const whole = await moving.denoise({ window: [5, 11, 11], stride: [1, 1, 1], noise: 0.1 });
    const quality = (frames: Frames) => psnr(frames, frameOf(clean, 2));
    expect(quality(frameOf(noisy, 2))).toBeLessThan(21);
    expect(quality(alone.frames)).toBeGreaterThan(quality(frameOf(noisy, 2)) + 4);
    expect(quality(frameOf(whole.frames, 2))).toBeGreaterThan(quality(alone.frames) + 1);
  });
});

describe('pictures', () => {
  const grey = (value: number, pixels: number): Frames => ({
    count: 1,
    height: 1,
    width: pixels,
    data: new Float32Array(pixels * CHANNELS).fill(value),
  });

  it('differ by a number of decibels', () => {
    expect(psnr(grey(0.6, 4), grey(0.5, 4))).toBeCloseTo(20, 4);
    expect(psnr(grey(1.4, 4), grey(1, 4))).toBe(Number.POSITIVE_INFINITY); // no screen shows more than white
  });

  it('get noise of the deviation that is asked for, by the seed', () => {
    const noisy = addNoise(grey(0.5, 20000), 0.1, 7);
    const squares = noisy.data.reduce((sum, value) => sum + (value - 0.5) ** 2, 0);
    expect(Math.sqrt(squares / noisy.data.length)).toBeCloseTo(0.1, 2);
    expect(addNoise(grey(0.5, 20000), 0.1, 7)).toEqual(noisy);
    expect(addNoise(grey(0.5, 20000), 0.1, 8)).not.toEqual(noisy);
  });

  it('are drawn within black and white, the same at any size', () => {
    const [large, small] = [renderPicture(128), renderPicture(64)];
    expect(large.data.every((value) => value >= 0 && value <= 1)).toBe(true);
    const mean = ({ data }: Frames) => data.reduce((sum, value) => sum + value, 0) / data.length;
    expect(mean(small)).toBeCloseTo(mean(large), 1);
  });

  it('are written and read again, beside each other too', async () => {
    const { data } = renderPicture(16);
    const picture = { count: 1, height: 12, width: 16, data: data.subarray(0, 12 * 16 * CHANNELS) };
    const back = await readPicture(await writePictures(folder, 'one.png', picture), 64);
    expect([back.height, back.width]).toEqual([12, 16]);
    expect(psnr(back, picture)).toBeGreaterThan(52); // rounded to 1/255
    const both = await readPicture(await writePictures(folder, 'two.png', picture, grey12(picture)), 64);
    expect([both.height, both.width]).toEqual([12, 32]);
    expect(both.data.slice(0, 16 * CHANNELS)).toEqual(back.data.slice(0, 16 * CHANNELS));
    expect(both.data[16 * CHANNELS]).toBeCloseTo(0.5, 2);
  });

  const grey12 = (like: Frames): Frames => ({ ...like, data: like.data.map(() => 0.5) });

  it('are read from grey and from transparent files, and made smaller', async () => {
    const file = join(folder, 'grey.png');
    await sharp({ create: { width: 40, height: 20, channels: 3, background: '#808080' } })
      .greyscale()
      .png()
      .toFile(file);
    const { height, width, data } = await readPicture(file, 20);
    expect([height, width]).toEqual([10, 20]);
    for (const value of data) expect(value).toBeCloseTo(128 / 255, 2);
    const clear = join(folder, 'clear.png');
    await sharp({ create: { width: 4, height: 4, channels: 4, background: '#00000000' } })
      .png()
      .toFile(clear);
    expect((await readPicture(clear, 20)).data.every((value) => value === 1)).toBe(true);
  });
});

describe('program', () => {
  const root = resolve(__dirname, '..');
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [require.resolve('tsx/cli'), join(root, 'examples/denoise/main.ts'), ...args], {
      cwd: folder,
      encoding: 'utf8',
    });

  it('draws, denoises, compares strides and writes the images where it is told to', async () => {
    const { stdout, stderr, status } = run('--size', '48', '--window', '9', '--out', 'a/b');
    expect(status).toBe(0);
    expect(stderr.trim().split('\n')).toHaveLength(5 * 5 + 2);
    const quality = (name: string) => Number(new RegExp(`^ *${name}:? +([\\d.]+) dB`, 'm').exec(stdout)?.[1]);
    expect(quality('1x1')).toBeGreaterThan(quality('noisy') + 3);
    expect(stdout.match(/^ *(1x1|2x2|4x4|8x8|9x9) /gm)).toHaveLength(5);
    expect(stdout).toMatch(/^The middle one of 5 frames, .* with the others in windows of 5x7x7 [\d.]+ dB\.$/m);
    const written = readdirSync(join(folder, 'a/b')).sort();
    expect(written).toEqual(['beside.png', 'clean.png', 'denoised.png', 'frame.png', 'noisy.png']);
    const { width, height } = await sharp(join(folder, 'a/b/beside.png')).metadata();
    expect([width, height]).toEqual([96, 48]);
  });

  it('reads a JPEG, and finds a folder of its own', async () => {
    const file = join(folder, 'photo.jpg');
    await sharp({ create: { width: 90, height: 60, channels: 3, background: '#336699' } })
      .jpeg()
      .toFile(file);
    const { stdout, status } = run(file, '--size', '45', '--window', '5', '--frames', '2');
    expect(status).toBe(0);
    expect(stdout).toContain(`${file}: 45x30 pixels, noise 0.1`);
    const [path] = /^.*denoised\.png$/m.exec(stdout)!;
    expect(existsSync(path)).toBe(true);
    rmSync(join(path, '..'), { recursive: true });
  });

  it('names the argument, its value and what to give instead', () => {
    writeFileSync(join(folder, 'text.png'), 'not a picture');
    for (const [args, message] of [
      [
        ['--window', '4'],
        /^error: option '--window <n>' argument '4' is invalid\. Give an odd number from 1 to 255\.\n$/,
      ],
      [['--noise', '0'], /argument '0' is invalid\. Give a number above 0, at most 1\./],
      [['absent.png'], /^error: 'absent\.png' cannot be read \(ENOENT\)\. Give the path of a PNG or JPEG file\.\n$/],
      [['text.png'], /^error: 'text\.png' cannot be read \(.*unsupported image format.*\)\. Give the path/],
      [['--out', 'text.png/x'], /argument 'text\.png\/x' cannot be made \(ENOTDIR\)\. Give a folder to write to\./],
      [
        ['--size', '16', '--frames', '16'],
        /has 16x16 pixels, too few for 16 frames\. Give one of more than 32 a side\./,
      ],
    ] as const) {
      const { stdout, stderr, status } = run(...args);
      expect({ stdout, status }).toEqual({ stdout: '', status: 1 });
      expect(stderr).toMatch(message);
    }
  });
});
