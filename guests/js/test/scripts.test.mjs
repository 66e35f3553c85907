// The names of a script that are visible to later scripts.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { globalValue, runScript } from '../src/scripts.js';

const CASES = [
  ['a let declaration', 'let x1 = 1;', { x1: 1 }],
  [
    'several declarations',
    'const a2 = f2(1, 2), b2 = 3\nfunction f2(p, q) { return p + q }',
    { a2: 3, b2: 3 },
  ],
  [
    'destructuring patterns',
    'const { a3, k: b3, ...c3 } = { a3: 1, k: 2, z: 3 }, [d3, , [e3 = 5]] = [4, 0, []]',
    { a3: 1, b3: 2, c3: { z: 3 }, d3: 4, e3: 5 },
  ],
  [
    'comments',
    'let /* one */ a4 = 1, // two\n  b4 = 2 /* three */, c4 = 3',
    { a4: 1, b4: 2, c4: 3 },
  ],
  ['no semicolons', 'let a5\nlet b5 = 2\n;[a5] = [1]', { a5: 1, b5: 2 }],
  [
    'text that looks like a declaration',
    "const s6 = 'let no6 = 1'; const r6 = /[`'\"]let no6b/.source; const t6 = `\nlet no6c = ${1}`",
    { s6: 'let no6 = 1', no6: undefined, no6b: undefined, no6c: undefined },
  ],
  [
    'names of inner scopes',
    '{ let no7 = 1 }\nfor (let no7b = 0; no7b < 1; no7b++) {}\n(() => { let no7c })()\nlet y7 = 1',
    { y7: 1, no7: undefined, no7b: undefined, no7c: undefined },
  ],
  [
    'strict mode',
    "'use strict'\nvar a8 = 1\nfunction f8() {}\nlet b8 = typeof f8",
    { a8: 1, b8: 'function' },
  ],
  ['a comment at the end', 'let a9 = 1 // the end', { a9: 1 }],
  ['a name of a built-in', 'const URL = 10', { URL: 10 }],
  ['non-ASCII names', 'let größe11 = 1, π11 = 3', { größe11: 1, π11: 3 }],
  ['a line break after the keyword', 'let\n  a12 = 1,\n  b12 = 2', { a12: 1, b12: 2 }],
  [
    'several statements on one line',
    'let a13 = 1; let b13 = 2; class C13 {} const d13 = typeof C13',
    { a13: 1, b13: 2, d13: 'function' },
  ],
];

for (const [title, source, names] of CASES) {
  test(title, () => {
    runScript(source, 'case.js');
    for (const [name, value] of Object.entries(names))
      assert.deepEqual(globalValue(name), value, name);
  });
}

test('later scripts change variables of earlier ones', () => {
  runScript('let live = 0; function bump() { return ++live }', 'one.js');
  globalValue('bump')();
  assert.equal(globalValue('live'), 1);
  runScript('live += 10', 'two.js');
  assert.equal(globalValue('bump')(), 12);
});

test('a constant cannot be assigned by a later script', () => {
  runScript('const fixed = 1', 'one.js');
  assert.throws(() => runScript('"use strict"; fixed = 2', 'two.js'), { name: 'TypeError' });
});

test('a later script can redeclare a name', () => {
  runScript('let again = 1; const readAgain = () => again', 'one.js');
  runScript('let again = 2', 'two.js');
  assert.deepEqual([globalValue('again'), globalValue('readAgain')()], [2, 1]);
});

test('an incomplete statement is a syntax error', () => {
  assert.throws(() => runScript('let u1 = 1\nif (true)', 'one.js'), { name: 'SyntaxError' });
  assert.throws(() => runScript('let u2 =', 'one.js'), { name: 'SyntaxError' });
});
