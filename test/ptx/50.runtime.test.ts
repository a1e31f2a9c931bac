// The stand-in CUDA runtime, used by programs as nvcc builds them: host and device code of one source.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { beforeEach, describe, expect, it } from 'vitest';
import { bfloat16, caseOf, type Kind, Results, type Shape } from './support/attention';
import { SCHEDULES } from './support/interpreter';

const BUILD = join(__dirname, '../../build/ptx');
const PROGRAM = join(BUILD, 'libptx_runtime_program.so');
const built = existsSync(PROGRAM);
const title = (name: string) => (built ? name : `${name} (skipped: nvcc is missing, which compiles the programs)`);

const open = (path: string) => koffi.load(path);
const program = built ? open(PROGRAM) : undefined;
const kernels = built ? open(join(BUILD, 'libptx_kernels.so')) : undefined;

/** The functions by which tests steer the runtime; each library has a runtime of its own. */
function steer(library: ReturnType<typeof open>) {
  const directory = library.func('void standin_ptx_directory(const char* path)');
  directory(join(BUILD, 'ptx'));
  return {
    schedule: library.func('void standin_schedule(uint64_t seed, int asynchrony)'),
    report: library.func('const char* standin_last_report()'),
    reset: library.func('void standin_reset()'),
    failNext: library.func('void standin_fail_next()'),
  };
}

const PROGRAMS = {
  fill: 'const char* program_fill(_Out_ int* out, int count, int factor)',
  fresh: 'const char* program_fresh(_Out_ uint8_t* out, int bytes)',
  streams: 'const char* program_streams(_Out_ int* out, int count)',
  graph: 'const char* program_graph(_Out_ int* out, int count, int launches)',
  refused: 'const char* program_refused(int threads, int shared, int asked)',
  overrun: 'const char* program_overrun(int over)',
  use_after_free: 'const char* program_use_after_free()',
  bad_copy: 'const char* program_bad_copy(int bytes, int kind)',
  tensor_map: 'const char* program_tensor_map(int stride)',
  unknown_symbol: 'const char* program_unknown_symbol()',
  pinned: 'const char* program_pinned(_Out_ int* seen)',
  columns: 'const char* program_columns(const int* from, _Out_ int* to)',
  pool: 'const char* program_pool()',
  attributes: 'const char* program_attributes()',
  two_devices: 'const char* program_two_devices(_Out_ int* out)',
  out_of_memory: 'const char* program_out_of_memory()',
  capability: 'int program_capability()',
};

function call(name: keyof typeof PROGRAMS, ...args: unknown[]): unknown {
  return program!.func(PROGRAMS[name])(...args);
}

describe.skipIf(!built)(title('a program'), () => {
  const standin = built ? steer(program!) : undefined;
  beforeEach(() => standin!.reset());

  it('launches a kernel, with arguments of several sizes, and copies its results in order', () => {
    const out = new Int32Array(1000);
    expect(call('fill', out, out.length, 3)).toBeNull();
    expect([...out]).toEqual(Array.from(out, (_, i) => 900000 + 3 * i + 5));
  });

  it('finds memory that nobody wrote full of NaN', () => {
    const out = new Uint8Array(100);
    expect(call('fresh', out, out.length)).toBeNull();
    expect([...out]).toEqual(Array.from(out, () => 0xff));
  });

  it('orders two streams by an event', () => {
    const out = new Int32Array(500);
    expect(call('streams', out, out.length)).toBeNull();
    expect([...out]).toEqual(Array.from(out, (_, i) => 2 * (900000 + i)));
  });

  it.each([0, 1, 3])('captures a graph and launches it %d times', (launches) => {
    const out = new Int32Array(100);
    expect(call('graph', out, out.length, launches)).toBeNull();
    expect([...out]).toEqual(Array.from(out, (_, i) => (900000 + i) * 2 ** launches));
  });

  it.each([
    ['1024 threads', 1024, 4096, 0, null],
    ['1025 threads', 1025, 4096, 0, 'cudaErrorInvalidConfiguration'],
    ['no threads', 0, 4096, 0, 'cudaErrorInvalidConfiguration'],
    ['48 KiB of shared memory', 64, 48 << 10, 0, null],
    ['more without asking', 64, (48 << 10) + 4, 0, 'cudaErrorInvalidValue'],
    ['more than it has', 64, 1024, (227 << 10) + 1, 'cudaErrorInvalidValue'],
    ['all that it has', 64, 227 << 10, 227 << 10, null],
  ])('launches with %s', (_, threads, shared, asked, error) => {
    expect(call('refused', threads, shared, asked)).toBe(error);
  });

  it('gets a sticky error from a kernel that writes too far, and a report that names the line', () => {
    expect(call('overrun', 0)).toBeNull();
    expect(standin!.report()).toBe('');
    expect(call('overrun', 1)).toBe('cudaErrorIllegalAddress');
    expect(standin!.report()).toMatch(
      /fill.*line \d+: st\.global\.u32 .* out of bounds, 4 bytes behind the end of an allocation of 256 bytes \(block 1,0,0 warp 0 lane 0\)/s,
    );
    expect(call('fill', new Int32Array(4), 4, 1)).toBe('cudaErrorIllegalAddress');
    standin!.reset();
    expect(call('fill', new Int32Array(4), 4, 1)).toBeNull();
  });

  it('cannot use memory that it has given back', () => {
    expect(call('use_after_free')).toBe('cudaErrorIllegalAddress');
  });

  it.each([
    ['the right size', 64, 1, null],
    ['a byte too many', 65, 1, 'cudaErrorInvalidValue'],
    ['the wrong direction', 64, 2, 'cudaErrorInvalidValue'],
    ['no direction', 64, 4, null],
    ['an unknown direction', 64, 7, 'cudaErrorInvalidValue'],
  ])('copies %s', (_, bytes, kind, error) => {
    expect(call('bad_copy', bytes, kind)).toBe(error);
  });

  it("finds the driver's encoder of tensor maps, which checks its arguments", () => {
    expect(call('tensor_map', 64)).toBeNull();
    expect(call('tensor_map', 72)).toBe('refused');
    expect(call('unknown_symbol')).toBeNull();
  });

  it('reads pinned memory when the stream comes to it, not before', () => {
    const seen = new Int32Array(1);
    expect(call('pinned', seen)).toBeNull();
    expect(seen[0]).toBe(42);
  });

  it('fails when asked to, for good', () => {
    standin!.failNext();
    const out = new Int32Array(10);
    expect(call('fill', out, out.length, 3)).toBe('cudaErrorIllegalAddress');
    expect(standin!.report()).toMatch(/fill.*as it was asked to/);
    expect(call('fill', out, out.length, 3)).toBe('cudaErrorIllegalAddress');
  });

  it('runs out of memory with an error', () => {
    expect(call('out_of_memory')).toBe('cudaErrorMemoryAllocation');
  });

  it('copies columns, by way of memory that is pinned later', () => {
    const out = new Int32Array(8);
    expect(
      call(
        'columns',
        Int32Array.from({ length: 16 }, (_, i) => i),
        out,
      ),
    ).toBeNull();
    expect([...out]).toEqual([1, 2, 5, 6, 9, 10, 13, 14]);
  });

  it('sees what a pool has in use', () => {
    expect(call('pool')).toBeNull();
  });

  it('asks what a function may use', () => {
    expect(call('attributes')).toBeNull();
  });

  /** Runs a script in a process of its own, which looks at the environment anew. */
  function alone(script: string, env: NodeJS.ProcessEnv): string {
    const start = `const program = require('koffi').load(${JSON.stringify(PROGRAM)});`;
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', start + script], {
      encoding: 'utf8',
      env: { ...process.env, NODE_ATTENTION_STANDIN_PTX: join(BUILD, 'ptx'), ...env },
      cwd: __dirname,
    });
    return `${stdout}${stderr}`;
  }

  it.each([
    ['9.0', 90, 900000],
    ['8.0', 80, 800000],
  ])('sees a device of capability %s, whose code runs', (capability, number, first) => {
    const script = `
      const out = new Int32Array(1);
      const problem = program.func(${JSON.stringify(PROGRAMS.fill)})(out, 1, 0);
      console.log(program.func('int program_capability()')(), problem, out[0] - 5);`;
    expect(alone(script, { NODE_ATTENTION_STANDIN_CAPABILITY: capability })).toBe(`${number} null ${first}\n`);
  });

  it('keeps two devices apart', () => {
    const script = `
      const out = new Int32Array(64);
      const problem = program.func(${JSON.stringify(PROGRAMS.two_devices)})(out);
      console.log(problem, out[0], out[31], out[32], out[63]);`;
    // the first half from the first device, whose kernel added 0, the rest from the second, whose kernel added 1
    expect(alone(script, { NODE_ATTENTION_STANDIN_DEVICES: '2' })).toBe('null 900000 900031 900033 900064\n');
  });
});

describe.skipIf(!built)(title('the test kernels through their host code'), () => {
  const standin = built ? steer(kernels!) : undefined;
  const attention = kernels?.func(
    'const char* test_attention(int hopper, void* q, void* k, void* v, void* out, void* lse, int batch, int heads, int queries, int keys, int headDim, int causal, float scale)',
  );

  const shapes: [Kind, Shape][] = [
    ['hopper', { batch: 2, heads: 2, queries: 140, keys: 201, headDim: 128, causal: true }],
    ['hopper', { batch: 1, heads: 1, queries: 1, keys: 300, headDim: 128, causal: false }],
    ['ampere', { batch: 2, heads: 2, queries: 140, keys: 201, headDim: 128, causal: true }],
    ['ampere', { batch: 1, heads: 3, queries: 65, keys: 100, headDim: 64, causal: false }],
  ];

  it.each(shapes)('%s %o', (kind, shape) => {
    const of = caseOf(shape, 11);
    const [q, k, v] = [of.q, of.k, of.v].map(bfloat16);
    const { batch, heads, queries, keys, headDim, causal } = shape;
    for (const { seed, asynchrony } of SCHEDULES.filter((_, i) => i % 3 === 0)) {
      standin!.schedule(seed, ['immediate', 'late', 'random'].indexOf(asynchrony));
      const results = new Results(of);
      const problem = attention!(
        kind === 'hopper' ? 1 : 0,
        q,
        k,
        v,
        results.out,
        results.lse,
        batch,
        heads,
        queries,
        keys,
        headDim,
        causal ? 1 : 0,
        1 / Math.sqrt(headDim),
      );
      expect(problem, standin!.report()).toBeNull();
      expect(results.problem()).toBeUndefined();
    }
  });
});
