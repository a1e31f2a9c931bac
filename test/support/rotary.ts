// What a cache with `rope` makes of keys and queries.

import type { Values } from './numbers';

/** Rotary embedding of [batch, tokens, heads, columns] from the definition, in float64; `first` are positions. */
export function rotate(
  { shape, data }: Values,
  first: number[],
  theta: number,
  dim: number,
  interleaved: boolean,
): Values {
  const [, tokens, heads, columns] = shape as [number, number, number, number];
  const result = data.slice();
  for (let row = 0; row < data.length / columns; row++) {
    const position = first[Math.floor(row / heads / tokens)]! + (Math.floor(row / heads) % tokens);
    for (let j = 0; j < dim / 2; j++) {
      const [a, b] = interleaved ? [2 * j, 2 * j + 1] : [j, j + dim / 2];
      const [x, y] = [data[row * columns + a]!, data[row * columns + b]!];
      const angle = position * theta ** ((-2 * j) / dim);
      result[row * columns + a] = x * Math.cos(angle) - y * Math.sin(angle);
      result[row * columns + b] = x * Math.sin(angle) + y * Math.cos(angle);
    }
  }
  return { shape, data: result };
}
