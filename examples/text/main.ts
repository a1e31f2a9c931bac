// npm run demo: a language model without weights. See predict.ts for how it works.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError, Option } from 'commander';
import { alibi, type Bias, Tensor } from 'node-attention';
import { createMemory, type Memory, predict, SELECTORS, type Selector } from './predict';
import { type Result, type Retrieval, report, reportRetrieval } from './report';
import { decode, drawStretches, METHODS, type Method, type Reader } from './retrieve';
import { type Tokens, tokenize } from './tokenize';

const WINDOWS = [16384, 4096, 1024, 256];
/** Tokens that a query sees where an index retrieves them. */
const RETRIEVED = [1024, 256];
/** What a token further back costs unless another slope is given: the published slope for a single head. */
const ALIBI_SLOPE = 2 ** -8;
const DEFAULT_FILE = join(dirname(require.resolve('typescript/package.json')), 'lib', 'lib.dom.d.ts');

interface Options {
  file?: string;
  tokens: number;
  seed: number;
  dtype: 'float32' | 'float16' | 'bfloat16';
  selector: Selector[];
  alibi?: number;
  retrieve?: Method;
}

function wholeNumber(least: number) {
  return (value: string): number => {
    const number = Number(value);
    if (value.trim() === '' || !Number.isSafeInteger(number) || number < least) {
      throw new InvalidArgumentError(`Give a whole number of at least ${least}.`);
    }
    return number;
  };
}

function positive(value: string): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isFinite(number) || number <= 0) {
    throw new InvalidArgumentError('Give a number above 0.');
  }
  return number;
}

function selectors(value: string): Selector[] {
  const names = value === 'all' ? [...SELECTORS] : [...new Set(value.split(','))];
  const known = names.map((name) => SELECTORS.find((each) => each === name));
  if (!known.every((name) => name !== undefined)) {
    throw new InvalidArgumentError(`Give ${SELECTORS.join(', ')}, or several with commas between them, or all.`);
  }
  return known;
}

const program = new Command('npm run demo --')
  .description(
    'Predicts every next token of a text from the tokens before it, by attention alone: no weights, no training.\n' +
      'Full attention is compared with sliding windows, and with as many keys that selectors choose.',
  )
  .option('--file <path>', "the text to read (default: the TypeScript compiler's lib.dom.d.ts)")
  .option('--tokens <n>', 'how many tokens of it to use at most', wholeNumber(2), 65536)
  .option('--seed <n>', 'seed of the random codes', wholeNumber(0), 1)
  .addOption(
    new Option('--dtype <dtype>', 'type of keys, queries and values')
      .choices(['float32', 'float16', 'bfloat16'])
      .default('bfloat16'),
  )
  .addOption(
    new Option(
      '--selector <names>',
      `which tokens are seen where not all are: ${SELECTORS.join(', ')}; several with commas between them, or all`,
    )
      .argParser(selectors)
      .default(['window'], 'window'),
  )
  .addOption(
    new Option('--alibi [slope]', 'also see all tokens with a linear bias: each token further back costs this much')
      .argParser(positive)
      .preset(String(ALIBI_SLOPE)),
  )
  .addOption(
    new Option('--retrieve <method>', 'decode token by token from a cache, with keys that an index retrieves')
      .choices(METHODS)
      .conflicts(['selector', 'alibi']),
  );

async function main(): Promise<void> {
  const options = program.parse().opts<Options>();
  const { file = DEFAULT_FILE, tokens: limit, seed, dtype, selector: chosen, alibi: slope, retrieve: method } = options;
  const tokens = read(file, limit);
  const { length } = tokens.ids;
  console.log(
    `${file === DEFAULT_FILE ? 'lib.dom.d.ts' : file}: ${count(length)} tokens, ${count(tokens.vocabulary.length)} different; ${dtype}, seed ${seed}`,
  );

  const memory = createMemory(tokens, seed, dtype);
  if (method) {
    console.log(`\n${await retrieval(tokens, memory, method, seed)}`);
    return;
  }
  const measure = async (name: string, width?: number, selector?: Selector, bias?: Bias): Promise<Result> => {
    const bar = startProgress(name, memory.length);
    const prediction = await predict(memory, width, bar.update, selector, bias);
    bar.stop();
    return { width, selector, ...prediction };
  };
  const full = await measure('full attention');
  const sparse: Result[] = [];
  for (const width of WINDOWS.filter((width) => width < length)) {
    for (const selector of chosen) sparse.push(await measure(`${selector} of ${count(width)}`, width, selector));
  }
  const biased =
    slope === undefined
      ? undefined
      : await measure('full with ALiBi', undefined, undefined, alibi(Tensor.from(Float32Array.of(slope), [1])));
  console.log(`\n${report(tokens, full, sparse, biased)}`);
}

/** Decodes parts of the text with full attention, windows and an index, and reports. */
async function retrieval(tokens: Tokens, memory: Memory, method: Method, seed: number): Promise<string> {
  const stretches = drawStretches(memory.length, seed);
  const measure = async (name: string, reader: Reader): Promise<Retrieval> => {
    const bar = startProgress(name, stretches.starts.length * stretches.size);
    const decoded = await decode(memory, stretches, reader, bar.update);
    bar.stop();
    return { name, width: reader.width, ...decoded };
  };
  const full = await measure('full attention', {});
  const others: [window: Retrieval, retrieved: Retrieval][] = [];
  for (const width of RETRIEVED.filter((width) => width < memory.length)) {
    others.push([
      await measure(`window of ${count(width)}`, { width }),
      await measure(`${method} of ${count(width)}`, { width, method }),
    ]);
  }
  return reportRetrieval(tokens, stretches, full, others);
}

function read(file: string, limit: number): Tokens {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return program.error(
      `error: option '--file <path>' argument '${file}' cannot be read (${code}). Give the path of a text file.`,
    );
  }
  const tokens = tokenize(text, limit);
  if (tokens.ids.length < 2) {
    program.error(
      `error: option '--file <path>' argument '${file}' holds ${tokens.ids.length} tokens. Give a text of at least 2.`,
    );
  }
  return tokens;
}

/** A progress bar on a terminal, one plain line for each predictor elsewhere. */
function startProgress(name: string, total: number): { update(done: number): void; stop(): void } {
  if (!process.stderr.isTTY) {
    process.stderr.write(`${name}: predicting ${count(total)} tokens\n`);
    return { update() {}, stop() {} };
  }
  const format = '{name} {bar} {percentage} %  {value}/{total} tokens';
  const bar = new SingleBar({ format, hideCursor: true }, Presets.shades_classic);
  bar.start(total, 0, { name: name.padEnd(16) });
  return { update: (done) => bar.update(done), stop: () => bar.stop() };
}

const count = (n: number) => n.toLocaleString('en-US');

main().catch((error: Error) => program.error(`error: ${error.message}`));
