// PyTorch's flash attention on the GPU and that of the package flash_attn, in a process of their own (torch_peer.py): the
// same numbers, the same rotation, its own CUDA events.

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PythonPeer } from '../peers/torch';
import type { CudaCase } from './cases';
import { phaseOf } from './driver';
import type { Block } from './inputs';
import type { Entrant } from './run';

export class TorchCuda {
  readonly #peer: PythonPeer;
  #block: Block | undefined;
  #loaded: CudaCase | undefined;

  private constructor(
    peer: PythonPeer,
    /** By contestant. */
    readonly versions: { [contestant: string]: string },
    /** Why flash_attn is no contestant, when it is none. */
    readonly without: string | undefined,
  ) {
    this.#peer = peer;
  }

  static async start(python: string): Promise<TorchCuda> {
    const peer = new PythonPeer(python, [join(__dirname, 'torch_peer.py')], {});
    const { versions, without } = await peer.ask({ command: 'contestants' });
    return new TorchCuda(peer, versions as TorchCuda['versions'], without as string | undefined);
  }

  get contestants(): string[] {
    return Object.keys(this.versions);
  }

  /** bfloat16 operations per second of its matrix product. */
  async matrixRate(): Promise<number> {
    return (await this.#peer.ask({ command: 'matrix_rate' })).rate as number;
  }

  /** Throws a sentence when the contestant does not take the case. */
  async entrant(name: string, test: CudaCase, block: Block, sets: number, runs: number): Promise<Entrant> {
    if (this.#loaded !== test) await this.#load(test, block, sets);
    await this.#try({ command: 'record', contestant: name, causal: test.kind === 'causal', runs });
    return {
      name,
      headsFirst: false,
      run: async (times) => {
        const request = { command: 'run', contestant: name, passes: Math.ceil(times / runs) };
        return (await this.#peer.ask(request)).elapsed as number[];
      },
      results: async (set) => {
        await this.#peer.ask({ command: 'output', contestant: name, set, path: this.#file('out') });
        const bytes = readFileSync(this.#file('out'));
        rmSync(this.#file('out'));
        return { out: new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2) };
      },
    };
  }

  close(): Promise<void> {
    return this.#peer.close();
  }

  async #load(test: CudaCase, block: Block, sets: number): Promise<void> {
    this.#loaded = undefined;
    if (this.#block !== block) {
      writeFileSync(this.#file('block'), block.bits);
      await this.#peer.ask({ command: 'block', path: this.#file('block') });
      this.#block = block;
    }
    const phases = Array.from({ length: sets }, (_, set) =>
      [0, 1, 2].map((tensor) => phaseOf(set, tensor, block.bits.length)),
    );
    const { batch, heads, kvHeads, queries, keys, headDim } = test;
    await this.#try({ command: 'load', batch, heads, kvHeads, queries, keys, headDim, phases });
    this.#loaded = test;
  }

  /** Throws the sentence that the process may answer with. */
  async #try(request: object): Promise<void> {
    const { error } = await this.#peer.ask(request);
    if (error !== undefined) throw new Error(error as string);
  }

  #file(name: string): string {
    return join(this.#peer.folder, name);
  }
}
