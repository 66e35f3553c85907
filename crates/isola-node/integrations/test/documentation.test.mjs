// The samples of the pages about the adapters, run as they are printed.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);

for (const page of ['codemode.md', 'isola-ai-sdk.md']) {
  test(`the samples of ${page} print the documented output`, async () => {
    const text = await readFile(`docs/integrations/${page}`, 'utf8');
    const samples = [...text.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);
    assert.ok(samples.length >= 1);
    for (const [index, code] of samples.entries()) {
      const file = `${page}-${index}.mjs`;
      await writeFile(file, code);
      const { stdout, stderr } = await run(process.execPath, [file], { timeout: 60_000 });
      const expected = [...code.matchAll(/\/\/> (.*)$/gm)].map(([, line]) => line);
      assert.deepEqual([stdout.trimEnd().split('\n'), stderr], [expected, '']);
    }
  });
}
