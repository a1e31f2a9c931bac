// PyTorch's scaled_dot_product_attention, or flex_attention where there is a mask, in a child process, torch_peer.py,
// which runs when it is asked to and times itself from call to result, so that neither the pipe nor the conversion of
// inputs counts.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Case, count, HEADS } from '../cases';
import type { Inputs } from '../inputs';
import type { Contestant, Timed } from '../measure';

/** The version of PyTorch that a Python has; throws a sentence that names the fix if it has none. */
export function torchVersion(python: string): string {
  const { status, stdout, stderr, error } = spawnSync(python, ['-c', 'import torch; print(torch.__version__)'], {
    encoding: 'utf8',
  });
  if (status === 0) return stdout.trim();
  const reason = error?.message ?? (stderr.trim().split('\n').at(-1) || `it ended with status ${status}`);
  throw new Error(
    `--torch: '${python}' has no PyTorch (${reason}). ` +
      `Install it (${python} -m pip install torch), or name a Python that has it: --torch /path/to/python`,
  );
}

/** A Python script that answers requests, a line of JSON each, and a folder for what is too large for that. */
export class PythonPeer {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly folder = mkdtempSync(join(tmpdir(), 'node-attention-bench-'));

  constructor(python: string, args: string[], env: NodeJS.ProcessEnv) {
    this.#child = spawn(python, args, { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, ...env } });
    process.once('exit', () => rmSync(this.folder, { recursive: true }));
    this.#child.stdin!.on('error', () => {}); // the missing answer says it
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async ask(request: object): Promise<Record<string, unknown>> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error('PyTorch ended before it answered; its own message is above');
    return JSON.parse(value);
  }

  async close(): Promise<void> {
    this.#child.stdin!.end();
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit');
  }
}

/** On the CPU. */
export class TorchPeer extends PythonPeer {
  constructor(python: string, threads: number) {
    super(python, [join(__dirname, 'torch_peer.py'), String(threads)], { OMP_NUM_THREADS: String(threads) });
  }

  /** Throws a sentence when flex_attention does not take the mask. */
  async contestant(test: Case, inputs: Inputs): Promise<Contestant> {
    const mask = test.kind === 'causal' ? undefined : flexMask(test);
    const { q, k, v } = inputs;
    const name = mask ? 'pytorch-flex' : 'pytorch';
    const timed = await this.load(
      name,
      {
        dtype: test.dtype,
        is_causal: test.kind === 'causal',
        mask: mask ?? null,
        bias: null,
        sets_count: inputs.sets,
        count: test.layers ?? 1,
        batch: 1,
        heads: HEADS,
        head_dim: test.headDim,
        queries: count(test.queries),
        keys: count(test.keys),
      },
      { q, k, v },
    );
    return { name, test, ...timed };
  }

  /** Has the process load files of float32 and what to do with them; throws a sentence when it cannot. */
  async load(
    name: string,
    request: LoadRequest,
    files: { [file: string]: Float32Array },
  ): Promise<Timed & { output(): Promise<Float32Array>; close(): Promise<void> }> {
    for (const [file, values] of Object.entries(files)) writeFileSync(join(this.folder, file), values);
    const { error } = await this.ask({ command: 'load', name, folder: this.folder, ...request });
    for (const file of Object.keys(files)) rmSync(join(this.folder, file));
    if (error !== undefined) throw new Error(error as string);
    const { length } = files.q!;
    return {
      run: async (times) => (await this.ask({ command: 'run', name, times })).elapsed as number[],
      output: async () => {
        const path = join(this.folder, 'out');
        writeFileSync(path, new Float32Array(length));
        await this.ask({ command: 'output', name, path });
        const bytes = readFileSync(path);
        rmSync(path);
        return new Float32Array(bytes.buffer, bytes.byteOffset, length);
      },
      close: async () => void (await this.ask({ command: 'unload', name })),
    };
  }
}

/** What torch_peer.py is to compute. */
export interface LoadRequest {
  dtype: string;
  is_causal: boolean;
  mask: FlexMask | null;
  bias: TorchBias | null;
  sets_count: number;
  /** Attentions of a run, one after the other. */
  count: number;
  batch: number;
  heads: number;
  head_dim: number;
  queries: number;
  keys: number;
}

/** A bias as PyTorch is told of it: a dense one, in so many copies that take turns, or what flex_attention adds to a score. */
export type TorchBias =
  | { kind: 'dense'; copies: number }
  | { kind: 'alibi'; slopes: number[] }
  | { kind: 'distance' }
  | { kind: 'relative'; extents: number[] };

/** A mask as flex_attention is told of it (torch_peer.py); undefined: everything is seen. */
export type FlexMask =
  | { kind: 'windowed'; left: number; right: number; offset: number }
  | { kind: 'neighboring'; axes: { extent: number; window: number; stride: number }[] }
  | { kind: 'ranged'; sets: { from: number[]; to: number[] }[] };

export function flexMask({ mask, pattern, queries, keys }: Case): FlexMask | undefined {
  if (pattern) {
    const ranges = Array.from({ length: count(queries) }, (_, i) => pattern.ranges(i));
    const most = Math.max(...ranges.map(({ length }) => length));
    const sets = Array.from({ length: most }, (_, n) => ({
      from: ranges.map((each) => each[n]?.[0] ?? 0),
      to: ranges.map((each) => each[n]?.[1] ?? 0),
    }));
    return { kind: 'ranged', sets };
  }
  if (!mask) return undefined;
  if (!('heads' in mask)) return { kind: 'windowed', ...mask, offset: count(keys) - count(queries) };
  const axes = mask.heads[0]!.map(({ window, stride }, a) => ({ extent: keys[a]!, window, stride }));
  return { kind: 'neighboring', axes };
}
