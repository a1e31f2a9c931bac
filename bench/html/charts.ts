// The charts of the report, as SVG.

import { LineChart, ScatterChart } from 'echarts/charts';
import { GridComponent, LegendComponent, TitleComponent } from 'echarts/components';
import * as echarts from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';
import type { Peak, Row, SuiteResult } from '../format';
import { FOUND_RATE, NEEDLE_WIDTH, SHOWN } from '../sparse/headings';
import { plain } from './markup';

echarts.use([LineChart, ScatterChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);

/** Told apart also by those who confuse red and green (Okabe and Ito), and by their symbols. */
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#8a8a00'];
const SYMBOLS = ['circle', 'rect', 'triangle', 'diamond', 'emptyCircle', 'emptyRect', 'emptyTriangle', 'emptyDiamond'];
const LIMIT_COLOR = '#888888';
const SIZE = { width: 680, height: 380 };

type Point = [x: number, y: number];

interface Series {
  name: string;
  points: Point[];
  /** A limit rather than a measurement: dashed, without symbols. */
  limit?: boolean;
  /** Points that belong together but make no line. */
  loose?: boolean;
}

interface Axis {
  name: string;
  log?: boolean;
  /** Only what is there, not from 0 on. */
  narrow?: boolean;
}

interface Chart {
  title: string;
  x: Axis;
  y: Axis;
  series: Series[];
}

export interface Drawing {
  title: string;
  svg: string;
}

/** Every chart that the rows of a suite can fill. */
export function chartsOf(suite: SuiteResult): Drawing[] {
  return [speeds, ratios, rooflines, densities, qualities, needles, bounds]
    .flatMap((charts) => charts(suite))
    .map((chart) => ({ title: chart.title, svg: draw(chart) }));
}

/** Axes of powers with a margin: those of ECharts end at powers of ten, which leaves most of a chart empty. */
function extent(points: readonly number[], { log, narrow }: Axis) {
  const [least, most] = [Math.min(...points), Math.max(...points)];
  const margin = 0.05 * (most - least || 1);
  if (narrow) return { min: least - margin, max: most + margin };
  return log ? { min: least / 1.3, max: most * 1.3 } : { min: Math.min(0, least), max: most * 1.1 };
}

/** Whole numbers below a million as they are: lengths. */
const short = (value: number) => {
  if (value < 1e6 && value >= 10) return String(Math.round(value));
  const [suffix, scale] = value >= 1e12 ? ['T', 1e12] : value >= 1e9 ? ['G', 1e9] : value >= 1e6 ? ['M', 1e6] : ['', 1];
  return `${+(value / scale).toPrecision(2)}${suffix}`;
};

function draw({ title, x, y, series }: Chart): string {
  const all = series.flatMap(({ points }) => points);
  const axis = (axis: Axis, values: number[], gap: number) => ({
    type: axis.log ? ('log' as const) : ('value' as const),
    ...(axis.log ? { logBase: 2 } : {}),
    name: axis.name,
    nameLocation: 'middle' as const,
    nameGap: gap,
    ...extent(values, axis),
    axisLabel: { formatter: short, ...(axis.narrow ? { showMinLabel: false, showMaxLabel: false } : {}) },
  });
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, ...SIZE });
  chart.setOption({
    animation: false,
    color: COLORS,
    title: { text: title, left: 0, textStyle: { fontSize: 13 } },
    grid: { left: 70, right: 230, top: 40, bottom: 50 },
    legend: {
      orient: 'vertical',
      left: SIZE.width - 215,
      top: 36,
      itemHeight: 9,
      textStyle: { fontSize: 11, width: 165, overflow: 'truncate' },
    },
    xAxis: axis(
      x,
      all.map(([x]) => x),
      30,
    ),
    yAxis: axis(
      y,
      all.map(([, y]) => y),
      50,
    ),
    series: series.map(({ name, points, limit, loose }, i) => ({
      name,
      type: loose ? ('scatter' as const) : ('line' as const),
      data: points,
      // The second time through the colors, every one has another symbol than the first time.
      symbol: limit ? 'none' : SYMBOLS[(i + Math.floor(i / COLORS.length)) % SYMBOLS.length],
      symbolSize: 7,
      lineStyle: { width: 1.5, type: limit ? ('dashed' as const) : ('solid' as const) },
      ...(limit
        ? {
            color: LIMIT_COLOR,
            endLabel: {
              show: true,
              formatter: '{a}',
              align: 'right',
              verticalAlign: 'bottom',
              fontSize: 10,
              distance: 0,
            },
          }
        : {}),
    })),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  // Without what ECharts would do under the pointer, and with a title for those who do not see it.
  return svg.replace(/<style ?>.*?<\/style>/s, '').replace('<svg ', `<svg role="img" aria-label="${plain(title)}" `);
}

/** Groups in the order of their first members. */
function groups<T>(items: readonly T[], key: (item: T) => string): [string, T[]][] {
  const found = new Map<string, T[]>();
  for (const item of items) found.set(key(item), [...(found.get(key(item)) ?? []), item]);
  return [...found];
}

/** What a chart is about, beside its suite: only rows that have it in common can be joined by a line. */
const subject = ({ case: { data } }: Row) => (data === undefined ? '' : `, ${data}`);

/** What points of a scattered chart are told apart by. */
const kindOf = ({ case: { data, mask } }: Row) => data ?? mask;

const threadsText = ({ case: { threads } }: Row) =>
  threads === undefined ? '' : `, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;

/** A line for each key, of all points that there are; lines of one point are left out unless nothing else is there. */
function linesOf(rows: readonly Row[], key: (row: Row) => string, point: (row: Row) => number | undefined): Series[] {
  const lines = groups(rows, key).map(([name, members]) => ({
    name,
    points: members
      .flatMap((row): Point[] => {
        const y = point(row);
        return y === undefined ? [] : [[row.case.tokens, y]];
      })
      .sort(([a], [b]) => a - b),
  }));
  const long = lines.filter(({ points }) => points.length > 1);
  return long.length > 0 ? long : lines.filter(({ points }) => points.length > 0);
}

const TOKENS: Axis = { name: 'tokens (keys)', log: true };

function speeds({ suite, rows }: SuiteResult): Chart[] {
  return groups(
    rows,
    (row) => `${row.case.dtype}, headDim ${row.case.headDim}${subject(row)}${threadsText(row)}`,
  ).flatMap(([name, members]) => {
    const series = linesOf(
      members,
      ({ case: { mask } }) => mask,
      ({ flopsPerSecond }) => flopsPerSecond,
    );
    const title = `${suite}: speed over length, ${name}`;
    return series.length === 0 ? [] : [{ title, x: TOKENS, y: { name: 'FLOP/s', log: true }, series }];
  });
}

function ratios({ suite, rows }: SuiteResult): Chart[] {
  const others = [...new Set(rows.flatMap(({ ratios }) => Object.keys(ratios)))];
  return others.flatMap((other) =>
    groups(
      rows.filter(({ ratios }) => ratios[other]),
      (row) => `${row.case.dtype}${subject(row)}${threadsText(row)}`,
    ).flatMap(([name, members]) => {
      const series = linesOf(
        members,
        ({ case: { mask, headDim } }) => `${mask}, D=${headDim}`,
        ({ ratios }) => ratios[other]?.median,
      );
      if (series.length === 0) return [];
      const tokens = series.flatMap(({ points }) => points.map(([x]) => x));
      const level: Point[] = [
        [Math.min(...tokens), 1],
        [Math.max(...tokens), 1],
      ];
      const title = `${suite}: time of ${other} over ours, ${name} (above 1: ours is faster)`;
      return [
        {
          title,
          x: TOKENS,
          y: { name: 'ratio', log: true },
          series: [...series, { name: 'as fast', points: level, limit: true }],
        },
      ];
    }),
  );
}

function rooflines({ suite, rows, peaks }: SuiteResult): Chart[] {
  return groups(
    rows.filter(({ flops, bytes, flopsPerSecond }) => flops && bytes && flopsPerSecond),
    ({ case: { threads } }) => String(threads),
  ).flatMap(([, members]) => {
    const { threads } = members[0]!.case;
    const here = peaks.filter((peak) => peak.threads === threads);
    const roofs = here.filter(({ unit }) => unit === 'FLOP/s');
    const slopes = slopesOf(here);
    if (slopes.length === 0 || roofs.length === 0) return [];
    const [fastest, slowest] = [slopes[0]!.rate, slopes.at(-1)!.rate];
    const highest = Math.max(...roofs.map(({ rate }) => rate));
    const intensity = ({ flops, bytes }: Row) => flops! / bytes!;
    const [least, most] = [Math.min(...members.map(intensity)), Math.max(...members.map(intensity))];
    const points = groups(members, (row) => `${row.case.dtype} ${kindOf(row)}`).map(([name, group]) => ({
      name,
      points: group.map((row): Point => [intensity(row), row.flopsPerSecond!]),
      loose: true,
    }));
    /** As far as it is the limit: from the nearest cache's slope on, or up to the highest roof. */
    const limits = [
      ...roofs.map(({ name, rate }) => {
        const from = Math.min(most, Math.max(least, rate / fastest));
        return { name, points: [from, most].map((x): Point => [x, Math.min(rate, x * fastest)]) };
      }),
      ...slopes.map(({ name, rate }) => {
        const to = Math.max(least, Math.min(most, highest / rate));
        return { name, points: [least, to].map((x): Point => [x, Math.min(highest, x * rate)]) };
      }),
    ].map((limit): Series => ({ ...limit, limit: true }));
    return [
      {
        title: `${suite}: roofline${threadsText(members[0]!)} (memory: ${(slowest / 1e9).toFixed(1)} GB/s)`,
        x: { name: 'FLOP for each byte that has to be moved', log: true },
        y: { name: 'FLOP/s', log: true },
        series: [...points, ...limits],
      },
    ];
  });
}

/** Reading what is near a processor and what is far, the fastest first; where that is not known, any rate of bytes. */
function slopesOf(peaks: readonly Peak[]): Peak[] {
  const reads = peaks.filter(({ footprint }) => footprint !== undefined);
  if (reads.length > 0) {
    const sorted = [...reads].sort((a, b) => a.footprint! - b.footprint!);
    return [...new Set([sorted[0]!, sorted.at(-1)!])];
  }
  const rates = peaks.filter(({ unit }) => unit === 'B/s').sort((a, b) => b.rate - a.rate);
  return rates.slice(0, 1);
}

/** What selecting takes, and attending to what was selected, over its share of the keys: of lengths with several shares. */
function densities({ suite, rows }: SuiteResult): Chart[] {
  return ['selection', 'attention'].flatMap((part) =>
    groups(
      rows.filter(({ times, figures = {} }) => times[part] && SHOWN in figures),
      (row) => `${row.case.dtype}${subject(row)}, ${row.case.tokens} keys${threadsText(row)}`,
    ).flatMap(([name, members]): Chart[] => {
      const x = ({ figures }: Row) => figures![SHOWN]!;
      const series = groups(members, ({ case: { mask } }) => mask.replace(/ [\d.]+ %$/, ''))
        .map(([selector, group]) => ({
          name: selector,
          points: group.map((row): Point => [x(row), row.times[part]!.median]).sort(([a], [b]) => a - b),
        }))
        .filter(({ points }) => points.length > 1);
      if (series.length === 0) return [];
      const dense = members.flatMap((row): Point[] => (row.times.dense ? [[x(row), row.times.dense.median]] : []));
      return [
        {
          title: `${suite}: time of ${part} over density, ${name}`,
          x: { name: 'share of the keys that are seen' },
          y: { name: 'ms', log: true },
          series: [
            ...series,
            ...(dense.length > 0 ? [{ name: 'dense', points: dense.sort(([a], [b]) => a - b), limit: true }] : []),
          ],
        },
      ];
    }),
  );
}

function qualities({ suite, rows }: SuiteResult): Chart[] {
  const judged = rows.filter(({ quality }) => quality);
  const measures = [...new Set(judged.flatMap(({ quality }) => Object.keys(quality!)))];
  const charts = groups(judged, ({ case: { data = '' } }) => data).flatMap(([data, group]) =>
    measures
      .filter((measure) => measure !== 'sparsity')
      .map((measure) => ({
        title: `${suite}: ${measure} over sparsity${data === '' ? '' : `, ${data}`}`,
        x: { name: 'share of scores left out', narrow: true },
        y: { name: measure },
        series: groups(
          group.filter(({ quality }) => quality![measure] !== undefined),
          ({ case: { mask } }) => mask,
        ).map(([name, members]) => ({
          name,
          points: members
            .map(({ quality }): Point => [quality!.sparsity, quality![measure]!])
            .sort(([a], [b]) => a - b),
        })),
      }))
      .filter(({ series }) => series.length > 0),
  );
  // Curves; single points only where there is nothing else.
  const curves = charts.filter(({ series }) => series.some(({ points }) => points.length > 1));
  return curves.length > 0 ? curves : charts;
}

/** How often each selector finds needles, over their width. */
function needles({ suite, rows }: SuiteResult): Chart[] {
  const found = rows.filter(({ figures = {} }) => NEEDLE_WIDTH in figures && FOUND_RATE in figures);
  return groups(found, ({ case: { data = '' } }) => data).map(([data, group]) => ({
    title: `${suite}: ${FOUND_RATE} over ${NEEDLE_WIDTH}, ${data}`,
    x: { name: `${NEEDLE_WIDTH} (tokens)`, log: true },
    y: { name: FOUND_RATE },
    series: groups(group, ({ case: { mask } }) => mask).map(([name, members]) => ({
      name,
      points: members
        .map(({ figures }): Point => [figures![NEEDLE_WIDTH]!, figures![FOUND_RATE]!])
        .sort(([a], [b]) => a - b),
    })),
  }));
}

function bounds({ suite, rows }: SuiteResult): Chart[] {
  return groups(
    rows.filter(({ simulated }) => simulated),
    (row) => `${row.case.dtype}${threadsText(row)}`,
  ).map(([name, members]) => {
    const most = Math.max(...members.map(({ simulated }) => simulated!.bound));
    const points = groups(members, kindOf).map(([name, group]) => ({
      name,
      points: group.map(({ simulated }): Point => [simulated!.bound, simulated!.reached]),
      loose: true,
    }));
    const line: Point[] = [
      [1, 1],
      [most, most],
    ];
    return {
      title: `${suite}: speed over dense, reached against the simulator's bound, ${name}`,
      x: { name: 'bound', log: true },
      y: { name: 'reached', log: true },
      series: [...points, { name: 'the bound', points: line, limit: true }],
    };
  });
}
