// Completes what the compiler has written: marks `dist/cjs` as CommonJS, since the package itself
// is of ES modules, and adds the licence.
import { copyFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const repository = process.env.ISORUN_REPOSITORY ?? `${here}../..`;
writeFileSync(`${here}dist/cjs/package.json`, '{ "type": "commonjs" }\n');
copyFileSync(`${repository}/LICENSE`, `${here}LICENSE`);
