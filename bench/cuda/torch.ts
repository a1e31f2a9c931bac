// PyTorch's flash attention on the GPU, in a process of its own (torch_peer.py): the same numbers, the same rotation, its own
// CUDA events.

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

  private constructor(
    peer: PythonPeer,
    readonly version: string,
  ) {
    this.#peer = peer;
  }

  static async start(python: string): Promise<TorchCuda> {
    const peer = new PythonPeer(python, [join(__dirname, 'torch_peer.py')], {});
    return new TorchCuda(peer, (await peer.ask({ command: 'version' })).version as string);
  }

  /** bfloat16 operations per second of its matrix product. */
  async matrixRate(): Promise<number> {
    return (await this.#peer.ask({ command: 'matrix_rate' })).rate as number;
  }

  /** Throws a sentence when flash attention does not take the case. */
  async entrant(test: CudaCase, block: Block, sets: number, runs: number): Promise<Entrant> {
    if (this.#block !== block) {
      writeFileSync(this.#file('block'), block.bits);
      await this.#peer.ask({ command: 'block', path: this.#file('block') });
      this.#block = block;
    }
    const phases = Array.from({ length: sets }, (_, set) =>
      [0, 1, 2].map((tensor) => phaseOf(set, tensor, block.bits.length)),
    );
    const { error } = await this.#peer.ask({ command: 'load', ...test, phases, runs });
    if (error !== undefined) throw new Error(error as string);
    return {
      name: 'pytorch',
      headsFirst: false,
      run: async (times) =>
        (await this.#peer.ask({ command: 'run', passes: Math.ceil(times / runs) })).elapsed as number[],
      results: async (set) => {
        await this.#peer.ask({ command: 'output', set, path: this.#file('out') });
        const bytes = readFileSync(this.#file('out'));
        rmSync(this.#file('out'));
        return { out: new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2) };
      },
    };
  }

  close(): Promise<void> {
    return this.#peer.close();
  }

  #file(name: string): string {
    return join(this.#peer.folder, name);
  }
}
