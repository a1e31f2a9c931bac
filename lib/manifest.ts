// prebuilds/manifest.json: what each prebuilt file is and how it was made.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';

/** What scripts/prebuilds.mjs writes. */
export interface Manifest {
  version: string;
  /** Of the sources; with "-dirty" when they held changes that were not committed. */
  commit: string;
  /** By path in prebuilds/. */
  files: Record<string, ManifestFile>;
}

export interface ManifestFile {
  sha256: string;
  bytes: number;
  /** The rest on binaries only. What the file is stamped with. */
  build?: string;
  compiler?: string;
  /** The oldest version of each system library that will do. */
  needs?: Record<string, string>;
  /** The toolkit, and the architectures of the machine code; on the CUDA library. */
  cuda?: { version: string; architectures: string[] };
}

export interface Verification {
  manifest: Manifest;
  /** One line for each file that is as it should be. */
  good: string[];
  /** One sentence for each that is not. */
  bad: string[];
}

/** Compares the files in a prebuilds/ folder with its manifest; undefined when it has none. */
export function verifyPrebuilds(folder: string): Verification | undefined {
  const file = path.join(folder, 'manifest.json');
  if (!existsSync(file)) return undefined;
  const manifest = JSON.parse(readFileSync(file, 'utf8')) as Manifest;
  const good: string[] = [];
  const bad: string[] = [];
  for (const [name, { sha256, bytes }] of Object.entries(manifest.files)) {
    if (!existsSync(path.join(folder, name))) {
      bad.push(`${name} is missing`);
      continue;
    }
    const data = readFileSync(path.join(folder, name));
    const hash = createHash('sha256').update(data).digest('hex');
    if (hash === sha256 && data.length === bytes) good.push(`${name} ${bytes} bytes, sha256 ${sha256}`);
    else bad.push(`${name} has been changed: its sha256 is ${hash}, not ${sha256}`);
  }
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const name = path.relative(folder, path.join(entry.parentPath, entry.name)).split(path.sep).join('/');
    if (name !== 'manifest.json' && !(name in manifest.files)) bad.push(`${name} is not in the manifest`);
  }
  return { manifest, good, bad };
}
