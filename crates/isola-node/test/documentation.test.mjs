// The example programs of the documentation, run unchanged.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import * as isola from 'isola-core';

const run = promisify(execFile);

/** The programs of a page that use the package. */
async function programs(page) {
  const text = await readFile(page, 'utf8');
  const blocks = [...text.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
  return blocks.filter((code) => code.includes("from 'isola-core'"));
}

for (const [page, printed] of [
  ['README.md', ['hello Ada\ncpu_time_limit\n']],
  [
    'docs/isola/node.md',
    ['hello world\n', 'Hello World\nHey World\nHi World\n', '999000\n3\n10\n', 'hello world\n'],
  ],
  ['docs/guest/python/data.md', ['{"north":17,"south":5}\n']],
  ['docs/isola/files.md', ['HELLO\nin.txt 5\nout.txt 5\nENOENT none.txt\n']],
  [
    'docs/isola/run-code.md',
    ['printed area\n12.566370614359172 2\nZeroDivisionError division by zero\n'],
  ],
  ['node_modules/isola-core/README.md', ['hello world\n']],
]) {
  test(`the programs of ${page} print the documented output`, async () => {
    const found = await programs(page);
    assert.equal(found.length, printed.length);
    for (const [index, code] of found.entries()) {
      const file = `documented-${index}.mjs`;
      await writeFile(file, code);
      const { stdout, stderr } = await run(process.execPath, [file]);
      assert.deepEqual([stdout, stderr], [printed[index], '']);
    }
  });
}

/** The first two columns of a page's tables, where they hold names in code style. */
async function columns(page) {
  const names = (cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name);
  const rows = [...(await readFile(page, 'utf8')).matchAll(/^\| (`[^|]*) \|([^|]*)\|/gm)];
  return rows.map(([, first, second]) => [names(first), names(second)]);
}

test('each error code has the same class in code, declarations and documentation', async () => {
  const lib = path.join(path.dirname(createRequire(import.meta.url).resolve('isola-core')), '/');
  const { fromFailure } = createRequire(lib)('./errors.js');
  const classOf = (code) => fromFailure({ code, message: '' }).name;
  const documented = new Map();
  for (const [classes, codes] of await columns('docs/isola/node.md')) {
    if (!classes[0]?.endsWith('Error')) continue;
    // A row lists several classes with one code each, or one class.
    for (const [index, name] of classes.entries()) {
      documented.set(name, classes.length > 1 ? [codes[index]] : codes);
    }
  }
  const declarations = await readFile(path.join(lib, 'index.d.ts'), 'utf8');
  const declared = [...declarations.matchAll(/^export class (\w+Error) extends \w+Error/gm)];
  assert.deepEqual(declared.map(([, name]) => name).sort(), [...documented.keys()].sort());
  for (const [name, codes] of documented) {
    assert.ok(isola[name].prototype instanceof isola.IsolaError, name);
    for (const code of codes.filter((code) => code !== 'cause' && code !== '_limit')) {
      assert.equal(classOf(code), name);
    }
  }
  const all = (await columns('docs/isola/errors.md')).flatMap(([codes]) => codes);
  assert.ok(all.length > 15);
  for (const code of all) {
    const name = classOf(code);
    assert.ok(
      name === 'LimitError' ? code.endsWith('_limit') : documented.get(name).includes(code),
      code,
    );
  }
});
