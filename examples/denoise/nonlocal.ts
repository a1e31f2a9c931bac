// Non-local means (Buades et al. 2005): every pixel becomes the mean of the pixels around it, weighted by how alike the
// patches about them are. That is an attention: patches are queries and keys, pixels are values, and the weight
// exp(-|q - k|² / h²) is the softmax of 2 q·k / h² - |k|² / h², since |q|² is the same for all keys of a query. So the
// scores are scaled by 2 / h², a bias per key brings the rest, and the window to search in is a neighborhood.

import { attention, keyBias, neighborhood, Stream, Tensor } from 'node-attention';
import { CHANNELS, type Frames } from './images';

export interface Settings {
  /** Pixels along a side of a patch; odd. */
  patch: number;
  /** Pixels to search along each axis: rows and columns, with frames before them when there are several. */
  window: number[];
  /** Neighbouring pixels along each axis that search in the same window. */
  stride: number[];
  /** Standard deviation of the noise. */
  noise: number;
}

/** The numbers of the patch about every pixel, less 1/2; beyond the border pixels are mirrored. */
export function patchesOf({ count, height, width, data }: Frames, patch: number): Float32Array {
  const half = (patch - 1) / 2;
  const mirror = (i: number, length: number) => {
    const period = Math.max(1, 2 * (length - 1));
    const at = ((i % period) + period) % period;
    return at < length ? at : period - at;
  };
  const patches = new Float32Array(count * height * width * patch * patch * CHANNELS);
  let to = 0;
  for (let t = 0; t < count; t++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let dy = -half; dy <= half; dy++) {
          const row = (t * height + mirror(y + dy, height)) * width;
          for (let dx = -half; dx <= half; dx++) {
            const from = (row + mirror(x + dx, width)) * CHANNELS;
            for (let c = 0; c < CHANNELS; c++) patches[to++] = data[from + c]! - 0.5;
          }
        }
      }
    }
  }
  return patches;
}

/** Frames that can be denoised again and again, with different settings. */
export class NonLocalMeans {
  readonly #frames: Frames;
  readonly #patch: number;
  readonly #patches: Tensor;
  readonly #pixels: Tensor;
  readonly #squares: Float32Array;
  readonly #stream = new Stream();

  constructor(frames: Frames, patch: number) {
    const { count, height, width, data } = frames;
    const axes = count === 1 ? [height, width] : [count, height, width];
    const dim = patch * patch * CHANNELS;
    const patches = patchesOf(frames, patch);
    this.#frames = frames;
    this.#patch = patch;
    this.#patches = Tensor.from(patches, [1, ...axes, 1, dim]);
    this.#pixels = Tensor.from(data, [1, ...axes, 1, CHANNELS]);
    this.#squares = Float32Array.from({ length: count * height * width }, (_, i) =>
      patches.subarray(i * dim, (i + 1) * dim).reduce((sum, value) => sum + value * value, 0),
    );
  }

  /** The denoised frames, and the milliseconds that the attention took. */
  async denoise({ window, stride, noise }: Omit<Settings, 'patch'>): Promise<{ frames: Frames; ms: number }> {
    const sharpness = 1 / (noise ** 2 * this.#patch ** 2 * CHANNELS); // 1 / h²: h is the noise, in each number of a patch
    using bias = Tensor.from(
      this.#squares.map((square) => -sharpness * square),
      [this.#squares.length],
    );
    const start = this.#stream.record();
    const { out, lse } = attention(this.#patches, this.#patches, this.#pixels, {
      mask: neighborhood({ window, stride }),
      bias: keyBias(bias),
      scale: 2 * sharpness,
      stream: this.#stream,
    });
    const end = this.#stream.record();
    const data = (await out.read()) as Float32Array;
    out.dispose();
    lse.dispose();
    return { frames: { ...this.#frames, data }, ms: await start.elapsedMs(end) };
  }

  [Symbol.dispose](): void {
    for (const resource of [this.#patches, this.#pixels, this.#stream]) resource.dispose();
  }
}
