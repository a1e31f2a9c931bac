// A few instructions run by one warp, for tests of what lanes do together: every lane finds its input words in
// registers and leaves its output words in others.
import { allocate, kernel, type LaunchOptions, Ptx } from './interpreter';

export const LANES = 32;

export interface Snippet {
  /**
   * PTX. Lane number in %lane, inputs in %a0, %a1, ..., outputs to %d0, %d1, ... (32 bits each, 0xdeadbeef until
   * written). %r, %f (32 bits), %rd and %p are free; `sm` is shared memory, %global is 64 bits: the address of `memory`.
   */
  body: string;
  /** words of each lane: inputs[lane][i] */
  inputs?: number[][];
  /** number of words that each lane leaves */
  outputs: number;
  /** bytes of `sm`; 1024 when not given */
  shared?: number;
  memory?: Buffer;
  /** threads, when not one full warp */
  threads?: number;
  target?: string;
  options?: LaunchOptions;
}

/** The PTX of a snippet. */
export function snippetSource({ body, inputs = [], outputs, shared = 1024, target }: Snippet): string {
  const words = inputs[0]?.length ?? 0;
  const load = Array.from({ length: words }, (_, i) => `ld.global.b32 %a${i}, [%in + ${4 * i}];`);
  const clear = Array.from({ length: outputs }, (_, i) => `mov.b32 %d${i}, 0xdeadbeef;`);
  const store = Array.from({ length: outputs }, (_, i) => `st.global.b32 [%out + ${4 * i}], %d${i};`);
  return kernel(
    '.param .u64 in, .param .u64 out, .param .u64 memory',
    `.reg .b32 %a<${words + 1}>, %d<${outputs + 1}>, %r<32>, %lane, %thread;
.reg .f32 %f<16>;
.reg .b64 %rd<16>, %in, %out, %global;
.reg .pred %p<16>;
.shared .align 1024 .b8 sm[${shared}];
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
ld.param.u64 %global, [memory];
mov.u32 %lane, %laneid;
mov.u32 %thread, %tid.x;
mad.wide.u32 %in, %thread, ${4 * words}, %in;
mad.wide.u32 %out, %thread, ${4 * outputs}, %out;
${[...load, ...clear].join('\n')}
${body}
${store.join('\n')}
ret;`,
    target,
  );
}

/** The words that each lane left; 0xcccccccc where a lane ended before it could. */
export function runLanes(snippet: Snippet): number[][] {
  const { inputs = [], outputs, memory = allocate(16), threads = LANES, options } = snippet;
  const words = inputs[0]?.length ?? 0;
  const given = allocate(Math.max(4, 4 * words * threads));
  inputs.forEach((list, lane) => {
    list.forEach((word, i) => {
      given.writeUInt32LE(word >>> 0, 4 * (lane * words + i));
    });
  });
  const left = allocate(4 * outputs * threads).fill(0xcc);
  const ptx = new Ptx(snippetSource(snippet));
  try {
    ptx.launch('test', [given, left, memory], { block: [threads], ...options });
  } finally {
    ptx.dispose();
  }
  return Array.from({ length: threads }, (_, lane) =>
    Array.from({ length: outputs }, (__, i) => left.readUInt32LE(4 * (lane * outputs + i))),
  );
}

/** f(lane) for every lane. */
export function lanes<T>(f: (lane: number) => T): T[] {
  return Array.from({ length: LANES }, (_, lane) => f(lane));
}

/** A generator of 32-bit words that gives the same ones in every run (xorshift). */
export function words(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}
