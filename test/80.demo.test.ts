// The demo: its tokeniser, its model on texts whose answer is known, and the program itself.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { alibi, pagePlan, Tensor } from 'node-attention';
import { afterAll, describe, expect, it } from 'vitest';
import { contextCodes, randomBits, randomCodes } from '../examples/text/codes';
import { createMemory, predict } from '../examples/text/predict';
import {
  accuracy,
  contextDistances,
  exactLookup,
  mostFrequent,
  report,
  reportRetrieval,
} from '../examples/text/report';
import { decode, drawStretches, METHODS } from '../examples/text/retrieve';
import { type Tokens, tokenize } from '../examples/text/tokenize';

const words = ({ ids, vocabulary }: Tokens) => [...ids].map((id) => vocabulary[id]);

describe('tokenizer', () => {
  it('cuts words, numbers, quoted words and signs, without comments', () => {
    const text = 'let naïve$1 = 0x1F + 3.5; // gone\n/* gone\n too */ f("a-b", "http://x.y/z", \'c\') => "two words"';
    expect(words(tokenize(text)).join(' ')).toBe(
      `let naïve$1 = 0x1F + 3.5 ; f ( "a-b" , "http://x.y/z" , 'c' ) = > " two words "`,
    );
  });

  it('numbers tokens by first appearance and knows identifiers', () => {
    const tokens = tokenize('interface A { readonly b: A; }');
    expect([...tokens.ids]).toEqual([0, 1, 2, 3, 4, 5, 1, 6, 7]);
    expect(tokens.vocabulary.filter((_, id) => tokens.identifier[id])).toEqual(['A', 'b']);
  });

  it('stops at the limit', () => {
    const tokens = tokenize('a b a c d', 3);
    expect(words(tokens)).toEqual(['a', 'b', 'a']);
    expect(tokens.vocabulary).toEqual(['a', 'b']);
    expect(tokens.identifier).toHaveLength(2);
  });
});

describe('codes', () => {
  const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);

  it('have length one and follow the seed', () => {
    const codes = randomCodes(randomBits(7), 3, 64);
    for (let i = 0; i < 3; i++) {
      const code = codes.subarray(i * 64, (i + 1) * 64);
      expect(dot(code, code)).toBeCloseTo(1, 5);
    }
    expect(randomCodes(randomBits(7), 3, 64)).toEqual(codes);
    expect(randomCodes(randomBits(8), 3, 64)).not.toEqual(codes);
  });

  it('of a context hold the tokens before it and no others', () => {
    const row = (ids: number[], p: number) => {
      const rows = contextCodes(randomBits(1), Int32Array.from(ids), 5);
      return rows.slice((p * rows.length) / (ids.length + 1), ((p + 1) * rows.length) / (ids.length + 1));
    };
    expect(row([0, 1, 2, 3], 0)).toEqual(row([4, 4, 4, 4], 0)); // nothing before it
    expect(row([0, 1, 2, 3], 2)).toEqual(row([0, 1, 4, 4], 2)); // later tokens do not matter
    expect(row([0, 1, 2, 3], 2)).not.toEqual(row([0, 4, 2, 3], 2));
    expect(row([0, 1, 2, 3], 2)).not.toEqual(row([1, 0, 2, 3], 2)); // the order does
  });
});

describe('report', () => {
  it('counts right answers', () => {
    const ids = Int32Array.from([0, 1, 2, 3]);
    const predicted = Int32Array.from([1, 0, 3]);
    expect(accuracy(ids, predicted)).toBeCloseTo(2 / 3);
    expect(accuracy(ids, predicted, (i) => i === 1)).toBe(0);
    expect(accuracy(ids, predicted, () => false)).toBeNaN();
  });

  it('measures how far back a context was last seen', () => {
    //                                          a  b  x  a  b  y  a  b  z
    const distances = contextDistances(Int32Array.from([0, 1, 2, 0, 1, 3, 0, 1, 4]), 2);
    expect([...distances]).toEqual([-1, -1, -1, -1, 2, -1, -1, 2]);
  });

  it('compares with two simple predictors', () => {
    //                           a  b  x  a  b  y  c  b
    const ids = Int32Array.from([0, 1, 2, 0, 1, 3, 4, 1]);
    expect([...exactLookup(ids, 2)]).toEqual([-1, -1, -1, 1, 2, -1, -1]);
    expect([...exactLookup(Int32Array.from([0, 1, 2, 4, 1, 3, 0, 1, 5]), 2)]).toEqual([-1, -1, -1, -1, 2, -1, 1, 2]);
    expect([...mostFrequent(ids, 5)]).toEqual([0, 0, 0, 0, 0, 0, 0]);
    expect([...mostFrequent(Int32Array.from([0, 1, 1, 2]), 3)]).toEqual([0, 0, 1]);
  });

  it('says what retrieval finds', () => {
    const ids = Int32Array.from({ length: 600 }, (_, i) => i % 300);
    const tokens = { ids, vocabulary: [], identifier: new Uint8Array() };
    const decoded = (right: boolean, read: number, seconds: number) => {
      const predicted = new Int32Array(599).fill(-1);
      for (let i = 320; i < 420; i++) predicted[i] = right ? ids[i + 1]! : 999;
      return { predicted, count: 100, read, seconds };
    };
    const lines = reportRetrieval(
      tokens,
      { starts: [320], size: 100 },
      { name: 'full attention', width: undefined, ...decoded(true, 1, 2) },
      [
        [
          { name: 'window of 256', width: 256, ...decoded(false, 0.5, 1) },
          { name: 'scan of 256', width: 256, ...decoded(true, 0.25, 0.5) },
        ],
      ],
    ).split('\n');
    expect(lines[0]).toBe('100 tokens in 1 stretches of 100, from position 320 on');
    expect(lines.slice(2, 6).map((line) => line.replace(/ +/g, ' '))).toEqual([
      ' all tokens far tokens tokens/s keys read',
      'full attention 100.0 % 100.0 % 50 100.0 %',
      'window of 256 0.0 % 0.0 % 100 50.0 %',
      'scan of 256 100.0 % 100.0 % 200 25.0 %',
    ]);
    expect(lines.at(-1)).toBe(
      'With scan of 256 tokens, 100.0 % of all tokens are right and 100.0 % of the far ones, with a window of as many 0.0 % and ' +
        '0.0 %, with full attention 100.0 % and 100.0 %; it read 25.0 % of the keys and was 4.0 times as fast as full attention.',
    );
  });

  it('says what the narrowest window loses', () => {
    const ids = Int32Array.from({ length: 60 }, (_, i) => i % 20);
    const tokens = { ids, vocabulary: [...'abcdefghijklmnopqrst'], identifier: new Uint8Array(20).fill(1) };
    const right = ids.subarray(1);
    const finding = (width: number) =>
      report(tokens, { width: undefined, predicted: right, seconds: 2, seen: 30 }, [
        { width, predicted: right.map(() => -1), seconds: 1, seen: width },
      ])
        .split('\n')
        .at(-1);
    // Of 59 predictions those from the 28th on have a context of 8 tokens that was seen before. Its key lies 19
    // positions back: just outside a window of 19.
    expect(finding(19)).toBe(
      'A window of 19 tokens gets 0.0 % of the tokens right, full attention 100.0 %; of the 54.2 % whose context was ' +
        'last seen further back than the window it gets 0.0 % right, full attention 100.0 %.',
    );
    expect(finding(20)).toBe(
      'A window of 20 tokens gets 0.0 % of the tokens right, full attention 100.0 %, and no context was last seen ' +
        'further back than the window.',
    );
  });
});

describe('report of several selectors', () => {
  const ids = Int32Array.from({ length: 60 }, (_, i) => i % 20);
  const tokens = { ids, vocabulary: [...'abcdefghijklmnopqrst'], identifier: new Uint8Array(20).fill(1) };
  const right = ids.subarray(1);
  const wrong = right.map(() => -1);
  const lines = report(tokens, { width: undefined, predicted: right, seconds: 2, seen: 30 }, [
    { width: 25, selector: 'window', predicted: wrong, seconds: 1, seen: 19.6 },
    { width: 25, selector: 'hip', predicted: right, seconds: 0.5, seen: 20.4 },
    { width: 19, selector: 'window', predicted: wrong, seconds: 1, seen: 16 },
    { width: 19, selector: 'hip', predicted: right, seconds: 1, seen: 17 },
  ]).split('\n');

  it('has all of them in one table, with the keys that they see', () => {
    expect(lines.slice(0, 6).map((line) => line.replace(/ +/g, ' '))).toEqual([
      ' all tokens identifiers keys seen tokens/s far tokens right full right',
      'full attention 100.0 % 100.0 % 30 30',
      'window of 25 0.0 % 0.0 % 20 59 0.0 % - -',
      'hip of 25 100.0 % 100.0 % 20 118 0.0 % - -',
      'window of 19 0.0 % 0.0 % 16 59 54.2 % 0.0 % 100.0 %',
      'hip of 19 100.0 % 100.0 % 17 59 54.2 % 100.0 % 100.0 %',
    ]);
  });

  it('has a sentence on each of them, with the fewest tokens', () => {
    const sentences = lines.slice(-3);
    expect(sentences[0]).toMatch(/^Far: .* further back than the number of tokens seen\.$/);
    expect(sentences[1]).toMatch(/^A window of 19 tokens gets 0\.0 % of the tokens right, full attention 100\.0 %;/);
    expect(sentences[2]).toMatch(/^Selector hip, with a budget of 19 tokens gets 100\.0 % of the tokens right/);
  });
});

describe('model', () => {
  /** The predictions alone. */
  const guess = async (...args: Parameters<typeof predict>) => (await predict(...args)).predicted;

  const cycle = (period: number, length: number): Tokens => ({
    ids: Int32Array.from({ length }, (_, i) => i % period),
    vocabulary: Array.from({ length: period }, (_, i) => `t${i}`),
    identifier: new Uint8Array(period).fill(1),
  });

  for (const dtype of ['float32', 'bfloat16'] as const) {
    it(`predicts a text of period p, from a window only where it holds a period (${dtype})`, async () => {
      const period = 150;
      const tokens = cycle(period, 2500); // two chunks of queries
      const memory = createMemory(tokens, 3, dtype);
      const second = (i: number) => i >= period; // the first period was never seen before
      expect(accuracy(tokens.ids, await guess(memory, undefined), second)).toBe(1);
      expect(accuracy(tokens.ids, await guess(memory, period), second)).toBe(1);
      // The answer is not in the window; chance is 1 in 150.
      expect(accuracy(tokens.ids, await guess(memory, period - 1), second)).toBeLessThan(0.05);
    });
  }

  it.each(['hip', 'pages', 'pooled'] as const)(
    'finds with %s what a window of that size has lost',
    async (selector) => {
      const tokens = cycle(300, 2500);
      const memory = createMemory(tokens, 3, 'float32');
      const second = (i: number) => i >= 300;
      const found = accuracy(tokens.ids, await guess(memory, 256, undefined, selector), second);
      expect(found).toBeGreaterThan(2 * accuracy(tokens.ids, await guess(memory, 256), second));
      expect(await guess(memory, 4000, undefined, selector)).toEqual(await guess(memory, undefined));
    },
  );

  it('counts the keys that queries see', async () => {
    const length = 700; // one chunk of queries
    const memory = createMemory(cycle(300, length + 1), 3, 'float32');
    const seen = async (...[width, selector]: [number?, 'pages'?]) =>
      (await predict(memory, width, undefined, selector)).seen;
    expect(await seen()).toBe((length + 1) / 2);
    expect(await seen(256)).toBe((256 * (length - 256) + (256 * 257) / 2) / length);
    const always = { sink: 0, window: 64 };
    const options = { budget: 192, causal: true, always, queryTile: 16, keyBlock: 8 };
    using plan = pagePlan(memory.queries, memory.keys, options);
    using dense = plan.toDense();
    const shown = ((await dense.read()) as Uint8Array).reduce((sum, each) => sum + each, 0);
    expect(await seen(256, 'pages')).toBeCloseTo(shown / length, 9);
  });

  it('prefers near tokens with ALiBi, as steeply as it is told', async () => {
    const tokens = cycle(300, 2500);
    const memory = createMemory(tokens, 3, 'float32');
    const second = (i: number) => i >= 300;
    const right = async (slope: number) => {
      const bias = alibi(Tensor.from(Float32Array.of(slope), [1]));
      return accuracy(tokens.ids, await guess(memory, undefined, undefined, 'window', bias), second);
    };
    expect(await right(1e-9)).toBeGreaterThan(0.99);
    // The match lies 299 positions back: at a slope of 1 that costs far more than it can be worth, which is 25.
    expect(await right(1)).toBeLessThan(0.05);
  });

  it('sees nothing of the token it predicts, nor of later ones', async () => {
    const text = cycle(40, 300);
    const changed = { ...text, ids: text.ids.map((id, i) => (i < 200 ? id : (id * 7 + 3) % 40)) };
    const before = await guess(createMemory(text, 1, 'float32'), undefined);
    const after = await guess(createMemory(changed, 1, 'float32'), undefined);
    // Prediction 199 is of token 200, the first to differ.
    expect(after.subarray(0, 200)).toEqual(before.subarray(0, 200));
    expect(after).not.toEqual(before);
  });

  it('draws stretches of the second half, all different, by the seed', () => {
    const { starts, size } = drawStretches(10_000, 1);
    expect([starts.length, size]).toEqual([64, 32]);
    for (const [n, start] of starts.entries()) {
      expect(start).toBeGreaterThanOrEqual(n === 0 ? 5000 : starts[n - 1]! + size);
      expect(start + size).toBeLessThanOrEqual(10_000);
    }
    expect(drawStretches(10_000, 1)).toEqual({ starts, size });
    expect(drawStretches(10_000, 2)).not.toEqual({ starts, size });
    expect(drawStretches(1, 1)).toEqual({ starts: [0], size: 1 });
    expect(drawStretches(50, 1)).toEqual({ starts: [25], size: 25 });
    expect(drawStretches(200, 1)).toEqual({ starts: [100, 132, 164], size: 32 });
  });

  it('decodes what it predicts at once', async () => {
    const memory = createMemory(cycle(40, 500), 5, 'float32');
    const stretches = drawStretches(memory.length, 1);
    const { predicted, count, read, seconds } = await decode(memory, stretches, {});
    const whole = await guess(memory, undefined);
    expect([count, read]).toEqual([stretches.starts.length * stretches.size, 1]);
    expect(seconds).toBeGreaterThan(0);
    const within = (i: number) => stretches.starts.some((start) => i >= start && i < start + stretches.size);
    expect(predicted).toEqual(whole.map((id, i) => (within(i) ? id : -1)));
  });

  it.each(METHODS)('retrieves by %s what a window of that size has lost', async (method) => {
    const tokens = cycle(300, 2500);
    const memory = createMemory(tokens, 3, 'bfloat16');
    const stretches = drawStretches(memory.length, 1);
    const heard: number[] = [];
    const lost = await decode(memory, stretches, { width: 256 }, (done) => heard.push(done));
    const found = await decode(memory, stretches, { width: 256, method });
    const right = ({ predicted }: { predicted: Int32Array }) =>
      accuracy(tokens.ids, predicted, (i) => predicted[i] !== -1);
    expect(heard).toEqual(stretches.starts.map((_, n) => (n + 1) * 32));
    expect(right(lost)).toBeLessThan(0.05);
    expect(right(found)).toBeGreaterThan(0.9);
    expect(lost.read).toBeLessThan(256 / 1250);
    expect(found.read).toBeGreaterThan(0);
    expect(found.read).toBeLessThanOrEqual(1);
    const all = await decode(memory, stretches, { width: 4000, method });
    expect(all.predicted).toEqual((await decode(memory, stretches, {})).predicted);
  });

  it('follows the seed and reports its progress', async () => {
    const tokens = tokenize(
      'the cat sat on the mat and the dog sat on the rug and the cat saw the dog on the mat . '.repeat(2),
    );
    const run = async (seed: number, progress?: (done: number) => void) =>
      guess(createMemory(tokens, seed, 'float32'), undefined, progress);
    const heard: number[] = [];
    const first = await run(5, (done) => heard.push(done));
    expect(await run(5)).toEqual(first);
    expect(heard.at(-1)).toBe(tokens.ids.length - 1);
    expect(await run(6)).not.toEqual(first);
  });
});

describe('program', () => {
  const folder = mkdtempSync(join(tmpdir(), 'node-attention-demo-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const root = resolve(__dirname, '..');
  const demo = (...args: string[]) =>
    spawnSync(process.execPath, [require.resolve('tsx/cli'), join(root, 'examples/text/main.ts'), ...args], {
      cwd: folder,
      encoding: 'utf8',
    });
  const withoutSpeed = (output: string) => output.replace(/\d[\d,]*(?=( {3}|\n|$))/g, '').replace(/ +/g, ' ');

  it('reads the declarations of TypeScript, and says the same again for the same seed', () => {
    const first = demo('--tokens', '3000');
    expect(first.stderr).toBe(
      'full attention: predicting 2,999 tokens\nwindow of 1,024: predicting 2,999 tokens\nwindow of 256: predicting 2,999 tokens\n',
    );
    expect(first.status).toBe(0);
    expect(first.stdout).toMatch(/^lib\.dom\.d\.ts: 3,000 tokens, .*; bfloat16, seed 1$/m);
    const right = (name: string) => Number(new RegExp(`^${name} +([\\d.]+) %`, 'm').exec(first.stdout)?.[1]);
    expect(right('full attention')).toBeGreaterThan(right('most frequent so far'));
    expect(withoutSpeed(demo('--tokens', '3000').stdout)).toBe(withoutSpeed(first.stdout));
  });

  it('lets a selector choose', () => {
    const { stdout, stderr, status } = demo('--tokens', '1500', '--selector', 'pages');
    expect({ stderr, status }).toEqual({
      stderr:
        'full attention: predicting 1,499 tokens\npages of 1,024: predicting 1,499 tokens\npages of 256: predicting 1,499 tokens\n',
      status: 0,
    });
    expect(stdout).toMatch(/pages right/);
    expect(stdout).toMatch(/^Selector pages, with a budget of 256 tokens gets/m);
  });

  it('compares several selectors with a window of as many keys', () => {
    const { stdout, stderr, status } = demo('--tokens', '1500', '--selector', 'all', '--seed', '2');
    const names = ['window', 'hip', 'pages', 'pooled'];
    const rows = ['1,024', '256'].flatMap((width) => names.map((name) => `${name} of ${width}`));
    expect({ stderr, status }).toEqual({
      stderr: ['full attention', ...rows].map((name) => `${name}: predicting 1,499 tokens\n`).join(''),
      status: 0,
    });
    const seen = rows.map((row) => Number(new RegExp(`^${row}(?: +[\\d.]+ %){2} +(\\d+) `, 'm').exec(stdout)?.[1]));
    const window = [1024, 256].map((width) => (width * (1499 - width) + (width * (width + 1)) / 2) / 1499);
    expect(seen.slice(0, 1)).toEqual([Math.round(window[0]!)]);
    // In blocks of 8 keys, for 16 queries at a time.
    seen.forEach((keys, n) => {
      const equal = window[Math.floor(n / names.length)]!;
      expect(Math.abs(keys - equal), rows[n]).toBeLessThan(16 + 8);
    });
    expect(stdout.match(/^(A window|Selector \w+, with a budget) of 256 tokens/gm)).toHaveLength(4);
    const two = demo('--tokens', '300', '--selector', 'pooled,window,pooled');
    expect(two.stderr.split('\n').map((line) => line.split(' ')[0])).toEqual(['full', 'pooled', 'window', '']);
    for (const wrong of ['hip,guess', '', 'all,hip']) {
      expect(demo('--selector', wrong).stderr).toBe(
        `error: option '--selector <names>' argument '${wrong}' is invalid. ` +
          'Give window, hip, pages, pooled, or several with commas between them, or all.\n',
      );
    }
  });

  it('decodes with keys that an index retrieves', () => {
    const run = () => demo('--tokens', '3000', '--retrieve', 'scan', '--seed', '4');
    const { stdout, stderr, status } = run();
    const names = ['full attention', 'window of 1,024', 'scan of 1,024', 'window of 256', 'scan of 256'];
    expect({ stderr, status }).toEqual({
      stderr: names.map((name) => `${name}: predicting 1,472 tokens\n`).join(''),
      status: 0,
    });
    expect(stdout).toMatch(/^1,472 tokens in 46 stretches of 32, from position 1,4\d\d on$/m);
    for (const name of names)
      expect(stdout).toMatch(new RegExp(`^${name} +[\\d.]+ % +[\\d.]+ % +[\\d,]+ +[\\d.]+ %$`, 'm'));
    expect(stdout).toMatch(
      /^With scan of 256 tokens, [\d.]+ % of all tokens are right .* times as fast as full attention\.$/m,
    );
    const same = (output: string) => output.replace(/[\d,]+(?= +[\d.]+ %$)|was [\d.]+ times/gm, '').replace(/ +/g, ' ');
    expect(same(run().stdout)).toBe(same(stdout));
    expect(demo('--retrieve', 'scan', '--alibi').stderr).toBe(
      "error: option '--retrieve <method>' cannot be used with option '--alibi [slope]'\n",
    );
    expect(demo('--retrieve', 'guess').stderr).toBe(
      `error: option '--retrieve <method>' argument 'guess' is invalid. Allowed choices are ${METHODS.join(', ')}.\n`,
    );
  });

  it('adds a row with ALiBi', () => {
    const { stdout, stderr, status } = demo('--tokens', '1500', '--alibi', '0.01');
    expect(status).toBe(0);
    expect(stderr).toMatch(/\nfull with ALiBi: predicting 1,499 tokens\n$/);
    expect(stdout).toMatch(/^full with ALiBi +[\d.]+ %/m);
    expect(demo('--alibi', '-1').stderr).toBe(
      "error: option '--alibi [slope]' argument '-1' is invalid. Give a number above 0.\n",
    );
  });

  it('reads a file of the user', () => {
    const file = join(folder, 'rhyme.txt');
    writeFileSync(file, 'one two three four five six seven eight nine ten\n'.repeat(30));
    const { stdout, stderr, status } = demo('--file', file, '--dtype', 'float16', '--seed', '9');
    expect({ stderr, status }).toEqual({
      stderr: 'full attention: predicting 299 tokens\nwindow of 256: predicting 299 tokens\n',
      status: 0,
    });
    expect(stdout).toContain(`${file}: 300 tokens, 10 different; float16, seed 9`);
  });

  it('names the argument, its value and what to give instead', () => {
    const empty = join(folder, 'empty.txt');
    writeFileSync(empty, '  \n');
    for (const [args, message] of [
      [['--tokens', '1'], "option '--tokens <n>' argument '1' is invalid. Give a whole number of at least 2."],
      [['--seed', 'x'], "option '--seed <n>' argument 'x' is invalid. Give a whole number of at least 0."],
      [
        ['--dtype', 'int8'],
        "option '--dtype <dtype>' argument 'int8' is invalid. Allowed choices are float32, float16, bfloat16.",
      ],
      [
        ['--file', 'absent.txt'],
        "option '--file <path>' argument 'absent.txt' cannot be read (ENOENT). Give the path of a text file.",
      ],
      [['--file', empty], `option '--file <path>' argument '${empty}' holds 0 tokens. Give a text of at least 2.`],
    ] as const) {
      expect(demo(...args)).toMatchObject({ status: 1, stdout: '', stderr: `error: ${message}\n` });
    }
  });
});
