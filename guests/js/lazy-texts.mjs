// Collects what the guest evaluates only when it is needed: the modules in `lazy/`, each
// bundled into one text, and their data. `src/lazy.js` tells why they are comments.

import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { unicodeProperties } from './unicode-tables.mjs';
import { zoneTable } from './zone-tables.mjs';

const LAZY = join(dirname(fileURLToPath(import.meta.url)), 'lazy');

/** Returns the source of the module with all texts. `tools` has the packages. */
export async function lazyTexts(tools) {
  const { build } = createRequire(join(tools, 'package.json'))('esbuild');
  const names = readdirSync(join(LAZY, 'locales'))
    .map((name) => name.replace('.json', ''))
    .sort();
  const texts = {
    unicode: await bundle(build, tools, 'unicode.js'),
    unicodeData: (await unicodeProperties(tools)) + read('unicode.txt'),
    intl: await bundle(build, tools, 'intl.js'),
    segmenter: await bundle(build, tools, 'segmenter.js'),
    zones: zoneTable(tools),
    collation: read('collation.txt'),
    localeNames: names.join(' '),
  };
  names.forEach((name, i) => (texts[`locale${i}`] = read(`locales/${name}.json`)));
  return Object.entries(texts)
    .map(([name, text]) => holder(name, text))
    .join('');
}

const read = (name) => readFileSync(join(LAZY, name), 'utf8');

/** Returns a module and what it imports as an expression whose value has the exports. */
async function bundle(build, tools, name) {
  const { outputFiles } = await build({
    entryPoints: [join(LAZY, name)],
    // Comments in the bundle have paths that are relative to it.
    absWorkingDir: LAZY,
    nodePaths: [join(tools, 'node_modules')],
    bundle: true,
    write: false,
    minify: true,
    charset: 'ascii',
    format: 'iife',
    globalName: 'exported',
    target: 'es2022',
    legalComments: 'none',
    logLevel: 'error',
  });
  const [{ text }] = outputFiles;
  return `(()=>{${text}return exported})()`;
}

function holder(name, text) {
  // Other characters would make the engine keep two bytes for each.
  if (!/^[\0-\x7f]*$/.test(text)) throw new Error(`the text ${name} is not ASCII`);
  if (text.includes('\x01')) throw new Error(`the text ${name} has a control character`);
  return `export function ${name}() {/*${text.replaceAll('*/', '*\x01/')}*/}\n`;
}
