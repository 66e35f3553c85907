/** The samples of the manual compile and run unchanged. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { finish, PACKAGE, REPOSITORY } from './environment.js';

const PAGES = ['docs/isorun/typescript-sdk.md', 'sdk/typescript/README.md'];

interface Sample {
  name: string;
  place: string;
  code: string;
}

/** Returns the samples. Those in JavaScript are CommonJS. */
function samples(): Sample[] {
  const found: Sample[] = [];
  for (const page of PAGES) {
    const text = readFileSync(join(REPOSITORY, page), 'utf8');
    const blocks = [...text.matchAll(/^```(ts|js)\n(.*?)^```/gms)];
    assert.ok(blocks.length >= 2, `${page} contains no samples`);
    for (const [, language = '', code = ''] of blocks) {
      const place = `${page}:${found.length}`;
      found.push({
        name: `sample${found.length}.${language === 'ts' ? 'mts' : 'cts'}`,
        place,
        code,
      });
    }
  }
  assert.ok(found.length >= 9, `${found.length} samples`);
  return found;
}

const SAMPLES = samples();
let directory: string;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isorun-docs-'));
  const modules = join(directory, 'node_modules');
  mkdirSync(join(modules, '@isorun'), { recursive: true });
  symlinkSync(PACKAGE, join(modules, '@isorun', 'sdk'));
  symlinkSync(join(PACKAGE, 'node_modules', '@types'), join(modules, '@types'));
  for (const { name, code } of SAMPLES) writeFileSync(join(directory, name), code);
  const options = ['--strict', '--target', 'es2022', '--lib', 'es2022', '--module', 'nodenext'];
  const names = SAMPLES.map(({ name }) => name).filter((name) => name.endsWith('.mts'));
  const compiler = join(PACKAGE, 'node_modules', 'typescript', 'bin', 'tsc');
  const done = await finish(process.execPath, [compiler, ...options, ...names], { cwd: directory });
  assert.equal(done.code, 0, done.stdout);
  for (const { name, code } of SAMPLES) {
    if (name.endsWith('.cts')) writeFileSync(join(directory, name.replace('.cts', '.cjs')), code);
  }
});

after(() => rmSync(directory, { recursive: true, force: true }));

for (const { name, place, code } of SAMPLES) {
  test(`the sample ${place} prints the documented output`, async () => {
    const program = join(directory, name.replace(/ts$/, 'js'));
    const done = await finish(process.execPath, ['--unhandled-rejections=strict', program]);
    assert.equal(done.code, 0, done.stderr);
    const expected = [...code.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm)].map(([, text]) => text);
    assert.ok(expected.length > 0, 'the sample prints nothing');
    const printed = done.stdout.split('\n');
    const missing = expected.filter((line) => !printed.includes(line ?? ''));
    assert.deepEqual(missing, [], done.stdout);
  });
}
