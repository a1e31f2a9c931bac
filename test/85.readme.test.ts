// Every TypeScript example of the README: it type-checks, it runs, and it prints what the block after it says.

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { suites } from '../bench/suites';

const root = resolve(__dirname, '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');

interface Example {
  heading: string;
  code: string;
  /** The `text` block that follows. */
  output: string | undefined;
}

const examples: Example[] = readme.split(/^(?=#+ )/m).flatMap((section) =>
  [...section.matchAll(/^```ts\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/gms)].map(([, code, output]) => ({
    heading: section.slice(0, section.indexOf('\n')),
    code: code!,
    output,
  })),
);

const options: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  strict: true,
  types: ['node'],
  noEmit: true,
};

/** The compiler's complaints about examples, as if they were files of this package. */
function complaints(): string {
  const files = new Map(examples.map(({ code }, i) => [join(root, `readme-example-${i}.ts`), code]));
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.getCurrentDirectory = () => root;
  host.fileExists = (name) => files.has(name) || fileExists(name);
  host.readFile = (name) => files.get(name) ?? readFile(name);
  host.getSourceFile = (name, ...rest) => {
    const code = files.get(name);
    return code === undefined ? getSourceFile(name, ...rest) : ts.createSourceFile(name, code, ts.ScriptTarget.ES2022);
  };
  const program = ts.createProgram([...files.keys()], options, host);
  return ts.formatDiagnostics(ts.getPreEmitDiagnostics(program), host);
}

describe('README', () => {
  it('names benchmarks that there are, and cases that they have', () => {
    const commands = [...readme.matchAll(/npm run bench -- (\w+)(?: --filter (?:'([^']*)'|(\w+)))?/g)];
    const unknown = commands.filter(([, name, quoted, word]) => {
      const names = suites.find((suite) => suite.name === name)?.caseNames() ?? [];
      return !names.some((each) => each.includes(quoted ?? word ?? ''));
    });
    expect(commands.length).toBeGreaterThan(10);
    expect(unknown.map(([command]) => command)).toEqual([]);
  });

  it('has an example for every system, each followed by what it prints', () => {
    expect(examples.map(({ heading }) => heading)).toEqual([
      '## Attention',
      '## Windows and neighborhoods',
      '## Simulating neighborhoods',
      '## Sparse plans',
      '## Biases, sinks, extra keys',
      '## Biases by formula and of low rank',
      '## Biases by formula and of low rank',
      '## Ragged batches',
      '## KV cache',
      '## KV cache',
      '## Retrieval',
      '## Merging',
      '## Joint layers of text and image',
      '## Tensors',
      '## Streams, events, graphs',
      '## Errors',
    ]);
    for (const { heading, output } of examples) expect(output, heading).toBeTruthy();
  });

  it('type-checks', () => {
    expect(complaints()).toBe('');
  });

  for (const { heading, code, output } of examples) {
    it(`prints what it says: ${heading.replace(/^#+ /, '')}`, () => {
      const { outputText } = ts.transpileModule(code, { compilerOptions: options });
      const run = spawnSync(process.execPath, ['--input-type=module', '--eval', outputText], {
        cwd: root,
        encoding: 'utf8',
      });
      expect(run.stderr).toBe('');
      expect(run.stdout).toBe(output);
    });
  }

  it('links to files and headings that exist', () => {
    const anchors = [...readme.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
      title!
        .toLowerCase()
        .replace(/[^\w\s-]/g, '')
        .replace(/ /g, '-'),
    );
    for (const [, target] of readme.matchAll(/\]\(([^)]+)\)/g)) {
      if (target!.startsWith('#')) expect(anchors).toContain(target!.slice(1));
      else if (!/^https?:/.test(target!)) expect(existsSync(join(root, target!)), target).toBe(true);
    }
  });
});
