// Pictures of sparse plans.

import type { PlanGeometry } from './sparse_plan';

const mostCells = 128;
const side = 256;
const gap = 24;
const columns = 4;

function ones(bits: number): number {
  let count = 0;
  for (let rest = bits >>> 0; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** One square for each pattern head; the darker a cell, the more of its scores are made. */
export function drawPlan(
  geometry: Required<PlanGeometry>,
  words: { offsets: Int32Array; entries: Int32Array; bitmaps?: Int32Array },
  batch: number,
): string {
  const { queries, keys, heads, queryTile, keyBlock } = geometry;
  const tiles = Math.ceil(queries / queryTile);
  const blocks = Math.ceil(keys / keyBlock);
  const [height, width] = [Math.min(tiles, mostCells), Math.min(blocks, mostCells)];
  const bitmapWords = keyBlock * Math.ceil(queryTile / 32);
  const share = (index: number) => {
    let seen = 0;
    for (let i = 0; i < bitmapWords; i++) seen += ones(words.bitmaps?.[index * bitmapWords + i] ?? 0);
    return seen / (keyBlock * queryTile);
  };
  const drawHead = (head: number): string => {
    const cells = new Float64Array(height * width);
    for (let tile = 0; tile < tiles; tile++) {
      const row = (batch * heads + head) * tiles + tile;
      const y = Math.floor((tile * height) / tiles);
      for (let at = words.offsets[row]!; at < words.offsets[row + 1]!; at++) {
        const word = words.entries[at]!;
        const x = Math.floor(((word & 0xffffff) * width) / blocks);
        const weight = ((word >> 27) & 3) === 2 ? share(words.entries[++at]!) : 1;
        // Of a block with a level, one score for each mean of 2^level keys.
        if (x < width) cells[y * width + x]! += weight / 2 ** ((word >> 24) & 7);
      }
    }
    const full = (tiles / height) * (blocks / width);
    const rects: string[] = [];
    cells.forEach((sum, i) => {
      if (sum === 0) return;
      const opacity = Math.min(1, Math.max(0.15, sum / full)).toFixed(2);
      rects.push(`<rect x="${i % width}" y="${Math.floor(i / width)}" width="1" height="1" opacity="${opacity}"/>`);
    });
    const [x, y] = [(head % columns) * (side + gap), Math.floor(head / columns) * (side + gap)];
    const title = `head ${head}: ${queries} queries, ${keys} keys`;
    return (
      `<g transform="translate(${x} ${y + 14})"><title>${title}</title><text y="-4" font-size="10">head ${head}</text>` +
      `<rect width="${side}" height="${side}" fill="none" stroke="#888"/>` +
      `<svg width="${side}" height="${side}" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none">` +
      `<g fill="#1f4e8c" shape-rendering="crispEdges">${rects.join('')}</g></svg></g>`
    );
  };
  const wide = Math.min(heads, columns) * (side + gap);
  const high = Math.ceil(heads / columns) * (side + gap);
  const all = Array.from({ length: heads }, (_, head) => drawHead(head)).join('\n');
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${high}" font-family="sans-serif">\n${all}\n</svg>\n`;
}
