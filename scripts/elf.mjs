// What a binary for Linux must be, so that it runs wherever Node does: read from its ELF headers by readelf, which reads
// those of other processors too.
import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { basename } from 'node:path';

/** The oldest systems that Node 20 to 26 run on: glibc 2.28, and the C++ library of GCC 8. */
export const limits = { GLIBC: '2.28', GLIBCXX: '3.4.25', CXXABI: '1.3.11', GCC: '7.0.0' };

const MB = 1e6;
/** By name: the symbols a binary exports, and how large it may be, in bytes. */
export const kinds = {
  addon: { exported: ['napi_register_module_v1', 'node_api_module_get_api_version_v1'], most: 3 * MB },
  cuda: { exported: ['node_attention_backend'], most: 40 * MB },
};

/** They became part of libc.so.6 in glibc 2.34. */
const libraries = ['libdl.so.2', 'libpthread.so.0', 'librt.so.1'];

/** What is on every system with glibc where Node runs. */
const everywhere = /^(lib(c|m|dl|rt|pthread)\.so\.\d+|libstdc\+\+\.so\.6|libgcc_s\.so\.1|ld-linux[-\w]*\.so\.\d+)$/;

function readelf(option, file) {
  const { status, stdout, stderr, error } = spawnSync('readelf', ['-W', option, file], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...process.env, LC_ALL: 'C' },
  });
  if (status !== 0) throw new Error(`readelf ${file}: ${error?.message ?? stderr}`);
  return stdout;
}

/** Below zero when version a is older than b. */
export function compareVersions(a, b) {
  const [left, right] = [a, b].map((text) => text.split('.').map(Number));
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** What the headers say. `needs` has the newest version wanted of each library, `reasons` a symbol that wants it. */
export function inspect(file) {
  const dynamic = readelf('--dynamic', file);
  const needs = {};
  const reasons = {};
  const exported = [];
  for (const line of readelf('--dyn-syms', file).split('\n')) {
    const [, index, name, version] = /\s(\w+)\s+([^\s@]+)(?:@+(\S+))?(?: \(\d+\))?$/.exec(line) ?? [];
    if (!name) continue;
    if (/ (GLOBAL|WEAK|UNIQUE) /.test(line) && /^\d+$/.test(index)) exported.push(name);
    const [, library, number] = /^(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)$/.exec(version ?? '') ?? [];
    if (library && (!needs[library] || compareVersions(number, needs[library]) > 0)) {
      needs[library] = number;
      reasons[library] = name;
    }
  }
  return {
    bytes: statSync(file).size,
    exported: exported.sort(),
    needed: [...dynamic.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name),
    searchPath: /\((?:RPATH|RUNPATH)\).*\[(.*)\]/.exec(dynamic)?.[1],
    textRelocations: /\(TEXTREL\)/.test(dynamic),
    nodelete: /FLAGS_1.*NODELETE/.test(dynamic),
    executableStack: !/GNU_STACK\s.*\sRW\s/.test(readelf('--program-headers', file)),
    needs,
    reasons,
  };
}

/** What is wrong with a binary of a kind, in sentences. */
export function refusals(file, kind) {
  const { exported, most } = kinds[kind];
  const found = inspect(file);
  const name = basename(file);
  const refused = [];
  for (const [library, version] of Object.entries(found.needs)) {
    if (compareVersions(version, limits[library]) > 0) {
      refused.push(
        `${name} needs ${library}_${version}, above ${limits[library]}, for ${found.reasons[library]}: ` +
          'add it to csrc/linux/old_symbols.cc',
      );
    }
  }
  for (const library of found.needed) {
    if (!everywhere.test(library)) refused.push(`${name} needs ${library}, which not every system has`);
  }
  for (const library of libraries.filter((one) => !found.needed.includes(one))) {
    refused.push(`${name} does not name ${library}, where its functions are before glibc 2.34`);
  }
  if (found.exported.join() !== exported.join()) {
    refused.push(`${name} exports ${found.exported.join(', ') || 'nothing'}, not ${exported.join(', ')}`);
  }
  if (found.executableStack) refused.push(`${name} asks for an executable stack`);
  if (found.textRelocations) refused.push(`${name} has relocations in its code`);
  if (found.searchPath !== undefined) refused.push(`${name} looks for libraries in ${found.searchPath}`);
  if (!found.nodelete) refused.push(`${name} may be unloaded while its threads run`);
  if (found.bytes > most) refused.push(`${name} has ${found.bytes} bytes, more than ${most}`);
  return refused;
}
