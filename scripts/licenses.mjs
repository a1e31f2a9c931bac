// The licences of what is linked into the binaries, or compiled into them from headers: the texts that came with the very
// files the build used.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The first of some files that exists. A folder's name may end in * for whatever follows. */
function firstOf(candidates) {
  for (const candidate of candidates) {
    const star = candidate.indexOf('*');
    if (star === -1) {
      if (existsSync(candidate)) return candidate;
      continue;
    }
    const folder = dirname(candidate.slice(0, star + 1));
    const start = candidate.slice(folder.length + 1, star);
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
      const file = join(folder, name, candidate.slice(star + 1));
      if (name.startsWith(start) && existsSync(file)) return file;
    }
  }
  return undefined;
}

/** CUTLASS's, beside its folder of headers: in a checkout, in its wheel, in a package that carries it. */
const ofCutlass = (include) => [
  join(include, '../LICENSE.txt'),
  join(include, '../../../nvidia_cutlass-*/licenses/LICENSE.txt'),
  join(include, '../../../nvidia_cutlass-*/LICENSE.txt'),
];

/** That of the CUDA toolkit, by its folder of headers: as NVIDIA installs it, or as Python packages. */
const ofCuda = (include) =>
  ['..', '../..', '../../..'].flatMap((up) => [
    join(include, up, 'EULA.txt'),
    join(include, up, 'doc/EULA.txt'),
    join(include, up, 'dist-info/nvidia_cuda_runtime-*/licenses/License.txt'),
    join(include, up, 'nvidia_cuda_runtime-*/licenses/License.txt'),
    join(include, up, 'nvidia_cuda_runtime-*/License.txt'),
  ]);

/**
 * One text with all of them. `cuda` is what scripts/cuda.mjs found, without it the CUDA library is not among the
 * binaries. Throws when a text is missing: then the binaries may not be handed on.
 */
export function licenses(root, cuda) {
  const parts = [
    ['node-addon-api', 'in every addon', [join(root, 'node_modules/node-addon-api/LICENSE.md')]],
    ['node-api-headers', 'in every addon', [join(root, 'node_modules/node-api-headers/LICENSE')]],
  ];
  if (cuda) {
    parts.push(['CUTLASS (architecture headers)', 'in libnode_attention_cuda.so', ofCutlass(cuda.cutlass)]);
    parts.push(['NVIDIA CUDA Runtime (cudart_static)', 'in libnode_attention_cuda.so', ofCuda(cuda.include)]);
  }
  const texts = parts.map(([name, where, candidates]) => {
    const file = firstOf(candidates);
    if (!file) throw new Error(`the licence of ${name} is in none of these places:\n  ${candidates.join('\n  ')}`);
    return `${'='.repeat(80)}\n${name}, ${where}\n${'='.repeat(80)}\n\n${readFileSync(file, 'utf8').trim()}\n`;
  });
  return `The binaries in this folder are part of node-attention, which is under the MIT licence (see LICENSE). They contain
code of others, under the licences below. What they contain of GCC's runtime library is under the GPL with the GCC Runtime
Library Exception 3.1, which lets it be part of them under terms of their own.

${texts.join('\n')}`;
}
