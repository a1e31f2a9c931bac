// A picture to work on when none is given: smooth shading, edges, stripes and small repeated shapes.

import { CHANNELS, type Frames } from './images';

type Color = [red: number, green: number, blue: number];

const mix = (a: Color, b: Color, share: number): Color =>
  [0, 1, 2].map((c) => a[c]! + (b[c]! - a[c]!) * share) as Color;

/** From 0 to 1 over a pixel where `distance` (in pixels) crosses 0, so that edges are as soft as those of a lens. */
const edge = (distance: number) => Math.min(1, Math.max(0, distance + 0.5));

/** A hillside below an evening sky with a sun, a tiled wall and a striped awning. */
export function renderPicture(size: number): Frames {
  const data = new Float32Array(size * size * CHANNELS);
  const unit = size / 256;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const [u, v] = [x / size, y / size];
      let color = mix([0.2, 0.35, 0.65], [0.95, 0.7, 0.5], v / 0.6);
      const sun = Math.hypot(x - 0.72 * size, y - 0.26 * size);
      color = mix(color, [1, 0.93, 0.7], edge(30 * unit - sun));
      const hill = size * (0.55 + 0.06 * Math.sin(7 * u) + 0.03 * Math.sin(17 * u + 1));
      const grass = 0.5 + 0.12 * Math.sin(x / (3 * unit)) * Math.cos(y / (4 * unit));
      color = mix(color, mix([0.1, 0.25, 0.12], [0.35, 0.5, 0.2], grass), edge(y - hill));
      // The wall: bricks with joints, every second row shifted by half a brick.
      if (x > 0.08 * size && x < 0.46 * size && y > 0.38 * size && y < 0.92 * size) {
        const row = Math.floor(y / (10 * unit));
        const along = (x + (row % 2) * 10 * unit) % (20 * unit);
        const joint = Math.min(along, 20 * unit - along, y % (10 * unit), 10 * unit - (y % (10 * unit)));
        color = mix([0.78, 0.74, 0.68], mix([0.6, 0.25, 0.18], [0.7, 0.35, 0.25], v), edge(joint - 1.2 * unit));
      }
      // The awning: slanted stripes.
      if (x > 0.04 * size && x < 0.5 * size && y > 0.28 * size && y < 0.38 * size) {
        const stripe = (x + y) % (16 * unit);
        color = mix([0.93, 0.92, 0.88], [0.15, 0.3, 0.55], edge(Math.min(stripe, 16 * unit - stripe) - 4 * unit));
      }
      data.set(color, (y * size + x) * CHANNELS);
    }
  }
  return { count: 1, height: size, width: size, data };
}
