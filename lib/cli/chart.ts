// Speed-up over stride as an SVG file. Drawn here, since chart libraries for Node bring dozens of packages, or a document
// object model, to everyone who installs this one.

/** One setting: bounds on the speed-up over dense attention. */
export interface ChartPoint {
  stride: readonly number[];
  flops: number;
  sum: number;
  worstTile: number;
}

export interface ChartText {
  title: string;
  subtitle: string;
}

const width = 760;
const height = 480;
const left = 64;
const right = 24;
const top = 92;
const bottom = 60;

type Bound = 'flops' | 'sum' | 'worstTile';
const bounds: { bound: Bound; label: string; color: string; dash: string }[] = [
  { bound: 'flops', label: 'by operations alone', color: '#767676', dash: '2 4' },
  { bound: 'sum', label: 'by the sum of visited tiles', color: '#0b62a4', dash: '' },
  { bound: 'worstTile', label: 'by the worst tile', color: '#b3430f', dash: '6 4' },
];

const escapes: { [character: string]: string } = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escaped = (text: string) => text.replace(/[&<>"]/g, (character) => escapes[character]!);

/** A step of 1, 2 or 5 times a power of ten with which an axis up to `most` has at most eight marks. */
function markStep(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most / 8));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => most / step <= 8)!;
}

/**
 * The chart. Strides of several axes are put in order by the number of queries that share a window, their product;
 * every setting is a point, and lines show the best that so many or fewer can reach. `chosen` is marked.
 */
export function speedupChart(
  points: readonly ChartPoint[],
  chosen: ChartPoint,
  { title, subtitle }: ChartText,
): string {
  const sharing = ({ stride }: ChartPoint) => stride.reduce((product, one) => product * one, 1);
  const groups = [...new Set(points.map(sharing))].sort((a, b) => a - b);
  const highest = Math.max(...points.flatMap(({ flops, sum, worstTile }) => [flops, sum, worstTile]));
  const step = markStep(highest);
  const most = Math.ceil(highest / step) * step;
  const [first, last] = [Math.log2(groups[0]!), Math.log2(groups.at(-1)!)];
  const middle = (left + width - right) / 2;
  const x = (group: number) =>
    last === first ? middle : left + 12 + ((Math.log2(group) - first) / (last - first)) * (width - left - right - 24);
  const y = (speedup: number) => height - bottom - (speedup / most) * (height - top - bottom);
  const at = (value: number) => value.toFixed(1);
  const text = (value: string, px: number, py: number, more = '') =>
    `<text x="${at(px)}" y="${at(py)}" ${more}>${escaped(value)}</text>`;

  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(title, left, 28, 'font-size="16" font-weight="bold"'),
    text(subtitle, left, 48, 'fill="#555555"'),
  ];
  for (let mark = 0; mark <= most + step / 2; mark += step) {
    lines.push(`<path d="M${left} ${at(y(mark))}H${width - right}" stroke="#e4e4e4"/>`);
    lines.push(text(String(Number(mark.toPrecision(6))), left - 8, y(mark) + 4, 'text-anchor="end"'));
  }
  // Labels of strides keep a distance, so that none covers another.
  let free = Number.NEGATIVE_INFINITY;
  for (const group of groups) {
    if (x(group) < free) continue;
    lines.push(text(String(group), x(group), height - bottom + 20, 'text-anchor="middle"'));
    free = x(group) + 14 + 7 * String(group).length;
  }
  const axes = chosen.stride.length;
  const meaning = axes === 1 ? 'stride' : 'queries that share a window: the product of the strides';
  lines.push(text(`${meaning} (logarithmic)`, middle, height - 14, 'text-anchor="middle"'));
  const label = 'times as fast as dense attention';
  lines.push(text(label, -(top + height - bottom) / 2, 18, 'text-anchor="middle" transform="rotate(-90)"'));

  bounds.forEach(({ bound, label, color, dash }, n) => {
    const best = groups.map((group) =>
      Math.max(...points.filter((one) => sharing(one) <= group).map((one) => one[bound])),
    );
    const path = groups.map((group, i) => `${i === 0 ? 'M' : 'L'}${at(x(group))} ${at(y(best[i]!))}`).join('');
    const stroke = `stroke="${color}" stroke-width="2"${dash && ` stroke-dasharray="${dash}"`}`;
    lines.push(`<path class="${bound}" d="${path}" fill="none" ${stroke}/>`);
    const from = left + n * 220;
    lines.push(`<path d="M${from} 70h28" ${stroke}/>`, text(label, from + 34, 74));
  });
  for (const one of points) {
    const tip = `stride ${one.stride.join('x')}: ${one.sum.toFixed(2)} by the sum, ${one.worstTile.toFixed(2)} by the worst tile`;
    const place = `cx="${at(x(sharing(one)))}" cy="${at(y(one.sum))}"`;
    lines.push(`<circle class="setting" ${place} r="3" fill="#0b62a4"><title>${escaped(tip)}</title></circle>`);
  }
  const [px, py] = [x(sharing(chosen)), y(chosen.sum)];
  const side = px > middle ? 'text-anchor="end"' : '';
  lines.push(
    `<circle class="chosen" cx="${at(px)}" cy="${at(py)}" r="7" fill="none" stroke="#111111" stroke-width="2"/>`,
  );
  lines.push(
    text(
      `stride ${chosen.stride.join('x')}: ${chosen.sum.toFixed(2)}x`,
      px + (side ? -12 : 12),
      py - 12,
      `${side} font-weight="bold" stroke="#ffffff" stroke-width="4" paint-order="stroke"`,
    ),
  );
  return `${lines.join('\n')}\n</svg>\n`;
}
