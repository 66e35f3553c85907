// The values of cells, and the names that they leave to later cells.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runAwaiting, runCell } from '../src/cells.js';
import { globalValue } from '../src/scripts.js';

const VALUES = [
  ['1 + 1', 2],
  ['let v1 = 20; v1 + 1', 21],
  ['const v2 = 5', undefined],
  ['v2', 5],
  ['v2 * 2;', 10],
  ['{ a: 1 }', { a: 1 }],
  ['{ let x = 3; x }', 3],
  ['// only a comment', undefined],
  ['function f3(x) { return x }\nclass C3 {}\nf3(typeof C3)', 'function'],
  ['const v2 = 6; v2', 6],
  ["'use strict'\nconst v4 = 1\nv4", 1],
  ['if (v2) "yes"', 'yes'],
  ['1 +\n  2', 3],
];

const AWAITED = [
  ['await 5', 5],
  ['const w1 = await Promise.resolve(4)\nw1 + 1', 5],
  ['w1', 4],
  ['let w2 = 1\nw2 += await 2;\n[w2]\n  .map((x) => x * 2)', [6]],
  ['w2', 3],
  ['await 1\nconst w3 = 7', undefined],
  ['w3', 7],
  ['for (const x of [1, 2]) await x\nfunction w4() { return 8 }\nw4()', 8],
  ['w4()', 8],
  ['const { a5, b5 } = await { a5: 1, b5: 2 }; ({ a5, b5 })', { a5: 1, b5: 2 }],
  ['b5', 2],
  ['await 0; "a;b\\n" + `c\n;d`', 'a;b\nc\n;d'],
];

test('the last expression has a value', () => {
  for (const [source, value] of VALUES) {
    assert.deepEqual(runCell(source, 'cell.js'), value, source);
  }
  assert.deepEqual(
    Object.keys(globalThis).filter((name) => name.includes('isola')),
    [],
  );
});

test('a cell may await', async () => {
  for (const [source, value] of AWAITED) {
    assert.deepEqual(await runAwaiting(source, 'cell.js'), value, source);
  }
});

test('what a cell with await has declared before an error is kept', async () => {
  await assert.rejects(
    runAwaiting('const k1 = await 1\nthrow new TypeError("no")', 'c.js'),
    TypeError,
  );
  assert.equal(globalValue('k1'), 1);
});
