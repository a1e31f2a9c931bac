// npm run denoise: removes noise from a picture by attention to alike patches. See nonlocal.ts for how it works.

import { mkdirSync, mkdtempSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError } from 'commander';
import { addNoise, type Frames, frameOf, pan, psnr, readPicture, writePictures } from './images';
import { NonLocalMeans } from './nonlocal';
import { renderPicture } from './picture';

interface Options {
  out?: string;
  size: number;
  noise: number;
  patch: number;
  window: number;
  frames: number;
  seed: number;
}

/** Pixels that the camera moves from frame to frame, down and to the right. */
const PAN = 2;
/** Settings take turns so often; the fastest run of each counts, which others have disturbed least. */
const ROUNDS = 5;

function number(least: number, most: number, odd = false) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isInteger(value) && value >= least && value <= most && (!odd || value % 2 === 1)) {
      return value;
    }
    throw new InvalidArgumentError(`Give ${odd ? 'an odd' : 'a whole'} number from ${least} to ${most}.`);
  };
}

function deviation(text: string): number {
  const value = Number(text);
  if (text.trim() !== '' && value > 0 && value <= 1) return value;
  throw new InvalidArgumentError('Give a number above 0, at most 1.');
}

const program = new Command('npm run denoise --')
  .description(
    'Adds noise to a picture and removes it again by non-local means, which is neighborhood attention between patches.\n' +
      'Compares strides, and does the same to a few frames of a camera that moves over the picture.',
  )
  .argument('[picture]', 'a PNG or JPEG file (default: one that is drawn)')
  .option('--out <folder>', 'where to write the images (default: a new folder among the temporary files)')
  .option('--size <n>', 'make the picture smaller, to so many pixels a side', number(16, 2048), 256)
  .option('--noise <deviation>', 'standard deviation of the noise; white is 1', deviation, 0.1)
  .option('--patch <n>', 'pixels along a side of a patch', number(1, 13, true), 5)
  .option('--window <n>', 'pixels along a side of the window to search', number(1, 255, true), 21)
  .option('--frames <n>', 'frames of the moving camera', number(2, 16), 5)
  .option('--seed <n>', 'seed of the noise', number(0, 2 ** 32 - 1), 1);

interface Row {
  stride: number;
  frames: Frames;
  ms: number;
}

async function main(): Promise<void> {
  const options = program.parse().opts<Options>();
  const { noise, patch, seed } = options;
  const picture = await load(program.args[0], options.size);
  const least = options.frames * PAN;
  if (Math.min(picture.height, picture.width) <= least) {
    const found = `${picture.width}x${picture.height} pixels`;
    program.error(
      `error: the picture has ${found}, too few for ${options.frames} frames. Give one of more than ${least} a side.`,
    );
  }
  const folder = folderFor(options.out);
  const { height, width } = picture;
  const name = program.args[0] ?? 'a picture drawn for this';
  console.log(`${name}: ${width}x${height} pixels, noise ${noise}, patches of ${patch}x${patch}, seed ${seed}`);

  const noisy = addNoise(picture, noise, seed);
  const side = Math.min(options.window, height, width);
  const strides = [1, 2, 4, 8, 16, side].filter((stride, n, all) => stride <= side && all.indexOf(stride) === n);
  const video = pan(picture, options.frames, PAN);
  const noisyVideo = addNoise(video, noise, seed + 1);
  const middle = Math.floor(options.frames / 2);
  const near = Math.min(2 * Math.ceil(side / 4) + 1, video.height, video.width); // about half as wide as for a single picture

  const bar = startProgress(strides.length * ROUNDS + 2);
  using still = new NonLocalMeans(noisy, patch);
  const rows = new Map<number, Row>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const stride of strides) {
      bar.begin(`round ${round + 1} of ${ROUNDS}: window ${side}x${side}, stride ${stride}x${stride}`);
      const { frames, ms } = await still.denoise({ window: [side, side], stride: [stride, stride], noise });
      rows.set(stride, { stride, frames, ms: Math.min(ms, rows.get(stride)?.ms ?? ms) });
    }
  }
  using alone = new NonLocalMeans(frameOf(noisyVideo, middle), patch);
  bar.begin('one frame');
  const single = await alone.denoise({ window: [near, near], stride: [1, 1], noise });
  using moving = new NonLocalMeans(noisyVideo, patch);
  bar.begin(`${options.frames} frames`);
  const whole = await moving.denoise({ window: [options.frames, near, near], stride: [1, 1, 1], noise });
  bar.stop();

  const sliding = rows.get(1)!;
  console.log(`\nnoisy: ${decibels(psnr(noisy, picture))}\n\n${table([...rows.values()], picture)}`);
  const found = (frames: Frames) => decibels(psnr(frames, frameOf(video, middle)));
  console.log(
    `\nThe middle one of ${options.frames} frames, in windows of ${near}x${near}: ` +
      `noisy ${found(frameOf(noisyVideo, middle))}, denoised alone ${found(single.frames)}, ` +
      `with the others in windows of ${options.frames}x${near}x${near} ${found(frameOf(whole.frames, middle))}.`,
  );
  const files = [
    await writePictures(folder, 'clean.png', picture),
    await writePictures(folder, 'noisy.png', noisy),
    await writePictures(folder, 'denoised.png', sliding.frames),
    await writePictures(folder, 'beside.png', noisy, sliding.frames),
    await writePictures(folder, 'frame.png', frameOf(noisyVideo, middle), single.frames, frameOf(whole.frames, middle)),
  ];
  console.log(`\n${files.join('\n')}`);
}

async function load(file: string | undefined, size: number): Promise<Frames> {
  if (file === undefined) return renderPicture(size);
  try {
    statSync(file);
    return await readPicture(file, size);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return program.error(`error: '${file}' cannot be read (${code ?? message}). Give the path of a PNG or JPEG file.`);
  }
}

function folderFor(out: string | undefined): string {
  if (out === undefined) return mkdtempSync(join(tmpdir(), 'node-attention-denoise-'));
  try {
    mkdirSync(out, { recursive: true });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    program.error(
      `error: option '--out <folder>' argument '${out}' cannot be made (${code}). Give a folder to write to.`,
    );
  }
  return out;
}

const decibels = (value: number) => `${value.toFixed(2)} dB`;

function table(rows: readonly Row[], clean: Frames): string {
  const cells = [
    ['stride', 'PSNR', 'ms', 'as fast as stride 1'],
    ...rows.map(({ stride, frames, ms }) => [
      `${stride}x${stride}`,
      decibels(psnr(frames, clean)),
      ms.toFixed(1),
      `${(rows[0]!.ms / ms).toFixed(2)}x`,
    ]),
  ];
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  return cells.map((row) => row.map((cell, column) => cell.padStart(widths[column]!)).join('   ')).join('\n');
}

/** A progress bar on a terminal, one plain line for each setting elsewhere. */
function startProgress(total: number): { begin(name: string): void; stop(): void } {
  if (!process.stderr.isTTY) return { begin: (name) => process.stderr.write(`denoising: ${name}\n`), stop() {} };
  const bar = new SingleBar({ format: '{bar} {value}/{total}  {name}', hideCursor: true }, Presets.shades_classic);
  bar.start(total, 0, { name: '' });
  let begun = 0;
  return {
    begin: (name) => bar.update(begun++, { name }),
    stop() {
      bar.update(total, { name: '' });
      bar.stop();
    },
  };
}

main().catch((error: Error) => program.error(`error: ${error.message}`));
