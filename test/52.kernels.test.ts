// What the CUDA sources may include. CUTLASS's tensor templates cost a minute of compiler for every file; its
// architecture headers do not, and kernels/arch is the one place that includes them.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(__dirname, '..');
const ALLOWED = /^(cute|cutlass)\/arch\//;

const includes = (text: string) => [...text.matchAll(/^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm)].map(([, path]) => path!);

/** The includes of CUTLASS that a file may not have. */
function forbidden(path: string, text: string): string[] {
  const cutlass = includes(text).filter((name) => /^(cute|cutlass)\//.test(name));
  return path.startsWith('kernels/arch/') ? cutlass.filter((name) => !ALLOWED.test(name)) : cutlass;
}

const files = ['kernels', 'csrc'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(cu|cuh|cc|h)$/.test(name))
    .map((name) => join(folder, name)),
);
const { cuda } = JSON.parse(readFileSync(join(root, 'sources.json'), 'utf8')) as {
  cuda: Record<'host' | 'kernels' | 'hopper', string[]>;
};

describe('CUDA sources', () => {
  it('include nothing of CUTLASS but its architecture headers, and that in kernels/arch alone', () => {
    const found = files.flatMap((path) =>
      forbidden(path, readFileSync(join(root, path), 'utf8')).map((name) => `${path} includes ${name}`),
    );
    expect(found).toEqual([]);
  });

  it.each([
    ['kernels/attention/x.cu', '#include <cute/arch/mma_sm80.hpp>', 1],
    ['kernels/arch/x.h', '#include <cute/arch/mma_sm80.hpp>\n# include "cutlass/arch/barrier.h"', 0],
    ['kernels/arch/x.h', '#include <cute/tensor.hpp>\n#include "cutlass/cutlass.h"', 2],
  ])('%s with %j has %d too many', (path, text, count) => {
    expect(forbidden(path, text)).toHaveLength(count);
  });

  it('are all listed in sources.json, and all there', () => {
    const listed = [...cuda.host, ...cuda.kernels, ...cuda.hopper];
    expect(listed.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    const present = files.filter((path) => /^kernels\/.*\.cu$|^csrc\/cuda\/.*\.cc$/.test(path));
    expect(present.filter((path) => !listed.includes(path))).toEqual([]);
  });

  it('have limits of spills for sources that exist', () => {
    const limits = JSON.parse(readFileSync(join(root, 'kernels/spills.json'), 'utf8'));
    expect(Object.keys(limits).filter((path) => !cuda.kernels.includes(path))).toEqual([]);
  });
});
