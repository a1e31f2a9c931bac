// Finds the addon's file, in node-gyp-build's order, and says why it is that one.

import { readdirSync } from 'node:fs';
import * as path from 'node:path';

const nodeGypBuild = require('node-gyp-build') as { resolve(folder: string): string };

/** The package's own folder: lib is compiled into dist. */
export const packageFolder = path.join(__dirname, '..');

export const packageVersion = (require('../package.json') as { version: string }).version;

/** Where the addon was looked for. */
export interface AddonSearch {
  /** The file to load; undefined when there is none. */
  file: string | undefined;
  /** A file for this platform that was passed over for one in build/. */
  shadowed: string | undefined;
  /** What was looked at, in that order, and what was found. */
  steps: string[];
  /** What node-gyp-build says when there is none. */
  error: Error | undefined;
}

function addonsIn(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith('.node'));
  } catch {
    return []; // there is no such folder
  }
}

/** Looks again at every call. */
export function findAddon(): AddonSearch {
  // Asked here, not by node-gyp-build alone, which knows the variable only where this package's package.json lies.
  const { NODE_ATTENTION_PREBUILD: elsewhere, PREBUILDS_ONLY: prebuildsOnly } = process.env;
  const folder = elsewhere ? path.resolve(elsewhere) : packageFolder;
  const steps = [
    elsewhere
      ? `NODE_ATTENTION_PREBUILD=${elsewhere} is searched instead of ${packageFolder}`
      : `NODE_ATTENTION_PREBUILD is not set: ${folder} is searched`,
  ];
  let file: string | undefined;
  let error: Error | undefined;
  try {
    file = path.resolve(nodeGypBuild.resolve(folder));
  } catch (caught) {
    error = caught as Error;
  }
  if (prebuildsOnly) steps.push(`PREBUILDS_ONLY=${prebuildsOnly}: build/ is passed over`);
  let shadowed: string | undefined;
  const platform = `prebuilds/${process.platform}-${process.arch}`;
  for (const place of [...(prebuildsOnly ? [] : ['build/Release', 'build/Debug']), platform]) {
    const found = addonsIn(path.join(folder, place)).map((name) => path.join(folder, place, name));
    if (found.length === 0) steps.push(`${place} holds no addon`);
    for (const one of found) {
      if (one === file) {
        steps.push(`${one} is taken`);
      } else if (file && path.dirname(file) !== path.dirname(one)) {
        shadowed ??= one;
        steps.push(`${one} is passed over, since build/ comes first`);
      } else {
        steps.push(`${one} is passed over: it is not the first, or not for this libc`);
      }
    }
  }
  if (file && !file.startsWith(path.join(folder, path.sep))) steps.push(`${file}, beside node itself, is taken`);
  if (!file) steps.push('no addon was found');
  return { file, shadowed, steps, error };
}
