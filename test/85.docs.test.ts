// Every TypeScript example of the README and the guides: it type-checks, it runs, and it prints what the block after it
// says. What pages link to and name is there.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { suites } from '../bench/suites';

const root = resolve(__dirname, '..');
const markdownIn = (folder: string) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `${folder}/${name}`);

/** Text of the pages by path. */
const texts = new Map(
  ['README.md', 'CONTRIBUTING.md', 'test/ptx/README.md', ...markdownIn('docs'), ...markdownIn('docs/guide')].map(
    (path) => [path, readFileSync(join(root, path), 'utf8')],
  ),
);
/** The pages that have examples. */
const taught = [...texts.keys()].filter((path) => path === 'README.md' || path.startsWith('docs/guide/'));

interface Example {
  /** The page and the heading. */
  where: string;
  code: string;
  /** The `text` block that follows. */
  output: string | undefined;
}

const examples: Example[] = taught.flatMap((path) =>
  texts
    .get(path)!
    .split(/^(?=#+ )/m)
    .flatMap((section) =>
      [...section.matchAll(/^```ts\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/gms)].map(([, code, output]) => ({
        where: `${path} ${section.slice(0, section.indexOf('\n')).replace(/^#+ /, '')}`,
        code: code!,
        output,
      })),
    ),
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
  const files = new Map(examples.map(({ code }, i) => [join(root, `example-${i}.ts`), code]));
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

/** The anchors of a page's headings. */
const anchors = (text: string) =>
  [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\w\s-]/g, '')
      .replace(/ /g, '-'),
  );

describe('README and guides', () => {
  it('name benchmarks that there are, and cases that they have', () => {
    const commands = taught.flatMap((path) => [
      ...texts.get(path)!.matchAll(/npm run bench -- (\w+)(?: --filter (?:'([^']*)'|(\w+)))?/g),
    ]);
    const unknown = commands.filter(([, name, quoted, word]) => {
      const names = suites.find((suite) => suite.name === name)?.caseNames() ?? [];
      return !names.some((each) => each.includes(quoted ?? word ?? ''));
    });
    expect(commands.length).toBeGreaterThan(15);
    expect(unknown.map(([command]) => command)).toEqual([]);
  });

  it('have an example for every system, each followed by what it prints', () => {
    expect(examples.map(({ where }) => where)).toEqual([
      'README.md Attention',
      'README.md Masks',
      'README.md Biases',
      'README.md Sparse plans',
      'README.md KV cache',
      'README.md Retrieval',
      'README.md Tensors and streams',
      'docs/guide/attention.md Attention',
      'docs/guide/attention.md Ragged batches',
      'docs/guide/attention.md Merging',
      'docs/guide/attention.md Joint layers of text and image',
      'docs/guide/biases.md Biases, sinks, extra keys',
      'docs/guide/biases.md Biases by formula and of low rank',
      'docs/guide/biases.md Biases by formula and of low rank',
      'docs/guide/errors.md Errors',
      'docs/guide/kv-cache.md KV cache',
      'docs/guide/kv-cache.md Saving and loading',
      'docs/guide/kv-index.md Retrieval: KvIndex',
      'docs/guide/masks.md Windows and neighborhoods',
      'docs/guide/masks.md Simulating neighborhoods',
      'docs/guide/sparse-plans.md Sparse plans',
      'docs/guide/sparse-plans.md Means of fewer keys',
      'docs/guide/sparse-plans.md Decoding',
      'docs/guide/streams.md Streams, events, graphs',
      'docs/guide/tensors.md Tensors',
    ]);
    for (const { where, output } of examples) expect(output, where).toBeTruthy();
  });

  it('type-check', () => {
    expect(complaints()).toBe('');
  });

  for (const { where, code, output } of examples) {
    it(`print what they say: ${where}`, () => {
      const { outputText } = ts.transpileModule(code, { compilerOptions: options });
      const run = spawnSync(process.execPath, ['--input-type=module', '--eval', outputText], {
        cwd: root,
        encoding: 'utf8',
      });
      expect(run.stderr).toBe('');
      expect(run.stdout).toBe(output);
    });
  }
});

describe('pages', () => {
  it('link to files and headings that exist', () => {
    const dead = [...texts].flatMap(([path, text]) =>
      [...text.matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)/g)].flatMap(([link, target, anchor]) => {
        const file = relative(root, target ? resolve(root, dirname(path), target) : join(root, path));
        const there = existsSync(join(root, file)) && (!anchor || anchors(texts.get(file) ?? '').includes(anchor));
        return there ? [] : [`${path} ${link}`];
      }),
    );
    expect(dead).toEqual([]);
  });

  it('are all in the list of pages', () => {
    const listed = [...texts.get('docs/README.md')!.matchAll(/\]\(([^)#]+)/g)].map(([, target]) =>
      relative(root, resolve(root, 'docs', target!)),
    );
    const pages = [...texts.keys()].filter((path) => !['README.md', 'docs/README.md'].includes(path));
    expect(pages.filter((path) => !listed.includes(path))).toEqual([]);
  });
});
