// The programs of the documentation, as they are printed there.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The programs of a page that use the package. */
async function programs(page) {
  const text = await readFile(page, 'utf8');
  const blocks = [...text.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
  return blocks.filter((code) => code.includes("from 'isola-core'"));
}

for (const [page, printed] of [
  ['README.md', ['hello Ada\ncpu_time_limit\n']],
  ['docs/node.md', ['hello world\n', 'Hello World\nHey World\nHi World\n', 'hello world\n']],
  ['node_modules/isola-core/README.md', ['hello world\n']],
]) {
  test(`the programs of ${page}`, async () => {
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
