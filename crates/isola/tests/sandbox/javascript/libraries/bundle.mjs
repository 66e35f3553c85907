// Bundles each file of `entries`, which gives a library a small task, into one source
// without imports, and runs it in Node.js. The tests run the same bundle in the guest, and
// compare the results.
//
// usage: node bundle.mjs TOOLS MODULES OUT
//   TOOLS    the directory with the node_modules that contain esbuild
//   MODULES  the node_modules that contain the libraries
//   OUT      the directory for the bundles and for results.json

import { execFileSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

// The zone and the language of a sandbox.
const ENVIRONMENT = { TZ: 'UTC', LC_ALL: 'en_US.UTF-8' };

const [tools, modules, out] = process.argv.slice(2);
const { build } = createRequire(join(tools, 'package.json'))('esbuild');
const entries = fileURLToPath(new URL('entries', import.meta.url));

const results = {};
for (const file of readdirSync(entries).sort()) {
  const name = file.replace('.mjs', '');
  const options = {
    entryPoints: [join(entries, file)],
    nodePaths: [modules],
    bundle: true,
    charset: 'utf8',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    logLevel: 'warning',
  };
  const module = join(out, `${name}.mjs`);
  await build({ ...options, format: 'esm', outfile: module });
  // A script has no exports: its function is a member of a global object.
  const footer = { js: 'function main() { return library.main() }' };
  const script = join(out, `${name}.js`);
  await build({ ...options, format: 'iife', globalName: 'library', footer, outfile: script });
  results[name] = run(module);
}
writeFileSync(join(out, 'results.json'), JSON.stringify(results, null, 1));

/** Returns what `main` of a bundle returns in a Node.js of its own. */
function run(bundle) {
  const program = `
    const { main } = await import(${JSON.stringify(pathToFileURL(bundle))});
    process.stdout.write(JSON.stringify(await main()));`;
  const args = ['--input-type=module', '--eval', program];
  const env = { ...process.env, ...ENVIRONMENT };
  return JSON.parse(execFileSync(process.execPath, args, { env, maxBuffer: 1 << 24 }));
}
