// npm runs this before it packs or publishes a checkout: git has neither binaries nor dist/, and npm leaves out silently
// what is not there.
import { existsSync } from 'node:fs';

const promised = [
  'dist/index.js',
  'prebuilds/manifest.json',
  'prebuilds/LICENSES.txt',
  'prebuilds/linux-x64/node-attention.glibc.node',
];
const missing = promised.filter((name) => !existsSync(name));
if (missing.length > 0) {
  console.error(`prepack: the package would lack ${missing.join(', ')}: make them with npm run prebuilds`);
  process.exit(1);
}
