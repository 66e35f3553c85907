// The samples of the documentation, compiled by TypeScript. Each runs in a process
// of its own, prints the expected output, and exits.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);

for (const [name, printed, errorOutput] of [
  ['lifecycle', 'hello world\n', ''],
  ['arguments', "Hello World\nHey World\nHi World\n{ hello: 'world' }\n", ''],
  ['hostcalls', "{ name: 'user-7', user_id: 7 }\n", ''],
  [
    'events',
    'stdout: out\n\nlog: careful\nintermediate: 1\nintermediate: { two: 2 }\n',
    /^stderr: err\n\nerror: ValueError: over\n/,
  ],
  ['http', 'hello world\n', ''],
  ['files', 'HELLO\nin.txt 5\nout.txt 5\nENOENT none.txt\n', ''],
  ['code', 'printed: area\n12.566370614359172 2\nZeroDivisionError\n3\n', ''],
  ['streams', '999000\n3\nstream_full\n4\n', ''],
  ['evaluate', '21\nstdout out\n\nresult 0\nresult 1\nresult 4\nend null\n', ''],
]) {
  test(`the sample "${name}" prints the expected output`, async () => {
    const { stdout, stderr } = await run(process.execPath, [`types/out/samples/${name}.mjs`]);
    assert.equal(
      stdout.replace("{ user_id: 7, name: 'user-7' }", "{ name: 'user-7', user_id: 7 }"),
      printed,
    );
    if (errorOutput instanceof RegExp) assert.match(stderr, errorOutput);
    else assert.equal(stderr, errorOutput);
  });
}
