// Quadrature weights of latitude-longitude grids on the sphere, as a bias for each key.

import { type Bias, keyBias } from './biases';
import { AttentionError } from './errors';
import { integer, oneOf, options, show } from './options';
import { type Device, Tensor } from './tensor';

/** Options of {@link sphereBias}. */
export interface SphereOptions {
  /** Rows of the grid, from pole to pole: at least 2, and of 'equiangular' and 'gauss' at most 4096. */
  latitudes: number;
  /** Points in a row; the grid has at most 2^26 in all. */
  longitudes: number;
  /**
   * Where the rows lie: 'cells' in the middle of bands of equal height in latitude (weighted by the area of the band),
   * 'equiangular' from pole to pole with both included (Clenshaw and Curtis), 'gauss' at the roots of the Legendre
   * polynomial. Default 'cells'.
   */
  grid?: 'cells' | 'equiangular' | 'gauss';
  /** Where the bias is used; default 'cpu'. */
  device?: Device;
}

const mostPoints = 2 ** 26;
/** Rows whose weights take a sum over all rows each. */
const mostSolved = 4096;

/** Weights for the integral over cos θ from -1 to 1, one for each row. */
const rowWeights = {
  cells: (n: number) =>
    Float64Array.from({ length: n }, (_, j) => 2 * Math.sin(((j + 0.5) * Math.PI) / n) * Math.sin(Math.PI / (2 * n))),

  equiangular(n: number) {
    const intervals = n - 1;
    return Float64Array.from({ length: n }, (_, j) => {
      let sum = 1;
      for (let m = 1; 2 * m <= intervals; m++) {
        const last = 2 * m === intervals ? 1 : 2;
        sum -= (last * Math.cos((2 * m * j * Math.PI) / intervals)) / (4 * m * m - 1);
      }
      return ((j === 0 || j === intervals ? 1 : 2) * sum) / intervals;
    });
  },

  gauss(n: number) {
    return Float64Array.from({ length: n }, (_, j) => {
      let x = Math.cos((Math.PI * (j + 0.75)) / (n + 0.5)); // close to the root, so that Newton's method converges
      let slope = 1;
      for (let step = 0; step < 100; step++) {
        let [before, value] = [0, 1];
        for (let m = 1; m <= n; m++) [before, value] = [value, ((2 * m - 1) * x * value - (m - 1) * before) / m];
        slope = (n * (before - x * value)) / (1 - x * x);
        const change = value / slope;
        x -= change;
        if (Math.abs(change) < 1e-15) break;
      }
      return 2 / ((1 - x * x) * slope * slope);
    });
  },
};

/**
 * A bias that makes a sum over keys on a grid of latitudes and longitudes an integral over the sphere: each key weighs as
 * much as the area that it stands for, in steradians, whatever its latitude. A {@link keyBias} of their logarithms, for
 * tokens `[latitudes, longitudes]`; `lse` is the logarithm of the integral. With 'equiangular' a pole weighs as much as
 * all points of its row.
 *
 * @throws AttentionError ERR_OPTION for a grid that is none or too large, ERR_DEVICE for a device that is not there,
 * ERR_OUT_OF_MEMORY.
 * @see Bonev et al. 2025, Attention on the Sphere.
 */
export function sphereBias(opts: SphereOptions): Bias {
  const call = 'sphereBias';
  const given = options(call, opts, ['latitudes', 'longitudes', 'grid', 'device']);
  const latitudes = integer(call, 'latitudes', given.latitudes, 2);
  const longitudes = integer(call, 'longitudes', given.longitudes, 1);
  const grid = oneOf(call, 'grid', given.grid ?? 'cells', ['cells', 'equiangular', 'gauss']);
  const most = grid === 'cells' ? mostPoints : mostSolved;
  if (latitudes > most) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: latitudes is ${latitudes}; it must be at most ${most} for ${show(grid)}`,
    );
  }
  if (latitudes * longitudes > mostPoints) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${latitudes} latitudes x ${longitudes} longitudes are more than ${mostPoints} points; give fewer`,
    );
  }
  const weights = rowWeights[grid](latitudes);
  const logarithms = new Float32Array(latitudes * longitudes);
  weights.forEach((weight, row) => {
    logarithms.fill(Math.log((weight * 2 * Math.PI) / longitudes), row * longitudes, (row + 1) * longitudes);
  });
  const device = (given.device ?? 'cpu') as Device; // checked by Tensor.from
  return keyBias(Tensor.from(logarithms, [latitudes * longitudes], { device }));
}
