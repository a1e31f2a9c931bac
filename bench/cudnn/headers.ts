// The headers that the cuDNN baseline is compiled with: out of installed Python packages, else out of wheels that fetch.ts
// put into the build folder.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** A header and where it lies below the place that Python packages are installed to. */
const HEADERS = [
  { header: 'cudnn.h', folders: ['nvidia/cudnn/include'] },
  { header: 'nvrtc.h', folders: ['nvidia/cu13/include', 'nvidia/cuda_nvrtc/include'] },
  { header: 'cudnn_frontend.h', folders: ['include'] },
];

export const fetchedTo = (buildFolder: string): string => join(buildFolder, 'cudnn-headers');

/** Their folders, or a sentence that says what is missing. */
export function findCudnnHeaders(buildFolder: string): string[] | string {
  const places = [fetchedTo(buildFolder), ...pythonPackages()];
  const found = HEADERS.map(({ header, folders }) =>
    places.flatMap((place) => folders.map((folder) => join(place, folder))).find((at) => existsSync(join(at, header))),
  );
  const missing = HEADERS.filter((_, i) => found[i] === undefined).map(({ header }) => header);
  if (missing.length === 0) return found as string[];
  return `${missing.join(', ')} missing; npx tsx bench/cudnn/fetch.ts downloads the wheels that hold them (470 MB)`;
}

/** Where python3 has its packages. */
export function pythonPackages(): string[] {
  const script =
    'import json, site, sysconfig; print(json.dumps([sysconfig.get_path("purelib"), *site.getsitepackages()]))';
  const { status, stdout } = spawnSync('python3', ['-c', script], { encoding: 'utf8' });
  return status === 0 ? [...new Set(JSON.parse(stdout) as string[])] : [];
}
