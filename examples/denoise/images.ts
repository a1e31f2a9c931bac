// Pictures as numbers: reading, writing, noise, and how far one is from another.

import { join } from 'node:path';
import sharp from 'sharp';

/** Frames of one size, [frame][row][column][channel], from 0 (black) to 1. A picture is a single frame. */
export interface Frames {
  count: number;
  height: number;
  width: number;
  data: Float32Array;
}

/** Red, green and blue. */
export const CHANNELS = 3;

/** Reads a picture, made smaller so that neither side is longer than `size`. */
export async function readPicture(file: string, size: number): Promise<Frames> {
  const { data, info } = await sharp(file)
    .rotate() // as the camera says that it stood
    .resize(size, size, { fit: 'inside', withoutEnlargement: true })
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  const values = new Float32Array(info.width * info.height * CHANNELS);
  // Grey pictures have one channel, which stands for all three.
  values.forEach((_, i) => {
    const pixel = Math.floor(i / CHANNELS) * info.channels;
    values[i] = data[pixel + (info.channels < CHANNELS ? 0 : i % CHANNELS)]! / 255;
  });
  return { count: 1, height: info.height, width: info.width, data: values };
}

/** Writes frames as PNG, side by side from left to right. */
export async function writePictures(folder: string, name: string, ...pictures: Frames[]): Promise<string> {
  const file = join(folder, name);
  const { height, width } = pictures[0]!;
  const row = width * CHANNELS;
  const bytes = Buffer.alloc(height * row * pictures.length);
  pictures.forEach(({ data }, n) => {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < row; x++) {
        const value = Math.round(255 * Math.min(1, Math.max(0, data[y * row + x]!)));
        bytes[(y * pictures.length + n) * row + x] = value;
      }
    }
  });
  const raw = { width: width * pictures.length, height, channels: CHANNELS } as const;
  await sharp(bytes, { raw }).png().toFile(file);
  return file;
}

/** The frame at `index`. */
export function frameOf({ height, width, data }: Frames, index: number): Frames {
  const length = height * width * CHANNELS;
  return { count: 1, height, width, data: data.subarray(index * length, (index + 1) * length) };
}

/** A camera that moves over a picture: `count` frames, each some pixels further to the right and down. */
export function pan(picture: Frames, count: number, step: number): Frames {
  const height = picture.height - (count - 1) * step;
  const width = picture.width - (count - 1) * step;
  const data = new Float32Array(count * height * width * CHANNELS);
  for (let t = 0; t < count; t++) {
    for (let y = 0; y < height; y++) {
      const from = ((y + t * step) * picture.width + t * step) * CHANNELS;
      data.set(picture.data.subarray(from, from + width * CHANNELS), (t * height + y) * width * CHANNELS);
    }
  }
  return { count, height, width, data };
}

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Adds normal deviates of a standard deviation. The sums are not cut off at black and white. */
export function addNoise(frames: Frames, deviation: number, seed: number): Frames {
  const random = uniform(seed);
  const next = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return { ...frames, data: frames.data.map((value) => value + deviation * next()) };
}

/** Peak signal-to-noise ratio in decibels: -10 times the logarithm of the mean squared difference. */
export function psnr({ data }: Frames, clean: Frames): number {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += (Math.min(1, Math.max(0, data[i]!)) - clean.data[i]!) ** 2;
  return -10 * Math.log10(sum / data.length);
}
