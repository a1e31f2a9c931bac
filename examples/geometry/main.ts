// npm run geometry: smooths a cloud of points by attention with a distance bias. See smooth.ts for how it works.

import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError } from 'commander';
import {
  addNoise,
  type Cloud,
  diagonal,
  FORMATS,
  type Format,
  formatOf,
  meanAngle,
  offSurface,
  parse,
  thin,
  torus,
  write,
} from './cloud';
import { type Smoothed, smooth } from './smooth';

interface Options {
  out?: string;
  points: number;
  noise: number;
  radius: number;
  seed: number;
}

/** Fewer points have no plane through a neighbourhood. */
const LEAST = 16;

function whole(least: number, most: number) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isInteger(value) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Give a whole number from ${least} to ${most}.`);
  };
}

function share(least: string, allowed: (value: number) => boolean) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && allowed(value) && value <= 1) return value;
    throw new InvalidArgumentError(`Give a number ${least}, at most 1.`);
  };
}

const program = new Command('npm run geometry --')
  .description(
    'Adds noise to points of a surface and removes it again: each point moves onto a plane that is fitted to its\n' +
      'neighbours, by attention with a three-dimensional distance bias.',
  )
  .argument('[cloud]', 'an OBJ or XYZ file (default: a torus that is computed)')
  .option('--out <file>', 'where to write the smoothed points, as OBJ or XYZ (default: a new temporary OBJ file)')
  .option('--points <n>', 'use so many points at most', whole(LEAST, 2 ** 20), 8192)
  .option(
    '--noise <share>',
    'standard deviation of the noise, as a share of the diagonal',
    share('from 0', (x) => x >= 0),
    0.005,
  )
  .option(
    '--radius <share>',
    'how far neighbours count, as a share of the diagonal',
    share('above 0', (x) => x > 0),
    0.025,
  )
  .option('--seed <n>', 'seed of the noise', whole(0, 2 ** 32 - 1), 1);

async function main(): Promise<void> {
  const options = program.parse().opts<Options>();
  const { noise, seed } = options;
  const file = program.args[0];
  const format = outputFormat(options.out);
  const made = file === undefined ? torus(options.points) : undefined;
  const cloud = made?.cloud ?? thin(load(file!), options.points);
  const count = cloud.points.length / 3;
  const size = diagonal(cloud.points);
  if (count < LEAST || !(size > 0)) {
    program.error(
      `error: '${file}' holds ${count} points${count < LEAST ? '' : ' in one place'}. Give a cloud of at least ${LEAST} points.`,
    );
  }
  const radius = options.radius * size;
  console.log(`${file ?? 'a torus'}: ${number(count)} points, noise ${noise}, radius ${options.radius}, seed ${seed}`);

  const bar = startProgress();
  const step = async (name: string, points: Float32Array): Promise<Smoothed> => {
    bar.begin(name, 2 * count);
    return smooth(points, radius, bar.update);
  };
  // Where nobody knows the normals of the clean surface, those are estimated too.
  const normals = made?.normals ?? (await step('normals of the clean points', cloud.points)).normals;
  const noisy = addNoise(cloud.points, noise * size, seed);
  const start = performance.now();
  const smoothed = await step('smoothing', noisy);
  const seconds = (performance.now() - start) / 1000;
  bar.stop();

  const off = (points: Float32Array) => (offSurface(points, cloud.points, normals) / size).toExponential(2);
  console.log(`\noff the surface, as a share of the diagonal: ${off(noisy)} before, ${off(smoothed.points)} after`);
  console.log(`normals: ${meanAngle(smoothed.normals, normals).toFixed(2)} degrees off`);
  const dense = 4 * count * count;
  console.log(
    `${number(2 * count * count)} weights in ${seconds.toFixed(2)} s; a dense bias would take ${bytes(dense)}, the points take ${bytes(24 * count)}`,
  );
  console.log(`\n${save(options.out, format, { ...cloud, points: smoothed.points }, smoothed.normals)}`);
}

function load(file: string): Cloud {
  const format = formatOf(file);
  if (format === undefined) return program.error(`error: '${file}' is no ${FORMATS.join(' or ')} file. Give one.`);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return program.error(`error: '${file}' cannot be read (${code}). Give the path of an OBJ or XYZ file.`);
  }
  try {
    return parse(text, format);
  } catch (error) {
    return program.error(`error: '${file}' cannot be read (${(error as Error).message}). Give an OBJ or XYZ file.`);
  }
}

function outputFormat(out: string | undefined): Format {
  const format = out === undefined ? '.obj' : formatOf(out);
  if (format !== undefined) return format;
  return program.error(
    `error: option '--out <file>' argument '${out}' is no ${FORMATS.join(' or ')} file. Give a name that ends so.`,
  );
}

function save(out: string | undefined, format: Format, cloud: Cloud, normals: Float32Array): string {
  const file = out ?? join(mkdtempSync(join(tmpdir(), 'node-attention-geometry-')), `smoothed${format}`);
  try {
    writeFileSync(file, write(cloud, normals, format));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    program.error(`error: option '--out <file>' argument '${out}' cannot be written (${code}). Give a file to write.`);
  }
  return file;
}

const number = (n: number) => n.toLocaleString('en-US');
const bytes = (n: number) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : `${number(Math.round(n / 1e6))} MB`);

/** A progress bar on a terminal, one plain line for each step elsewhere. */
function startProgress(): { begin(name: string, total: number): void; update(done: number): void; stop(): void } {
  if (!process.stderr.isTTY) {
    return {
      begin: (name, total) => process.stderr.write(`${name}: ${number(total)} means\n`),
      update() {},
      stop() {},
    };
  }
  const format = '{name} {bar} {percentage} %  {value}/{total} means';
  const bar = new SingleBar({ format, hideCursor: true }, Presets.shades_classic);
  return {
    begin: (name, total) => bar.start(total, 0, { name }),
    update: (done) => bar.update(done),
    stop: () => bar.stop(),
  };
}

main().catch((error: Error) => program.error(`error: ${error.message}`));
