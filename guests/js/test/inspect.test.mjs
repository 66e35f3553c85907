// The console formats values as Node's own `util.inspect` does.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect as expected } from 'node:util';
import { inspect } from '../src/inspect.js';

const circular = { name: 'a' };
circular.self = circular;
circular.list = [circular];
class Point {
  x = 1;
}
class Nothing extends Point {
  get y() {
    return 1;
  }
}

const VALUES = [
  null,
  undefined,
  true,
  0,
  -0,
  1.5,
  10n,
  'text',
  Symbol('s'),
  "it's",
  'it\'s "so"',
  'line\nbreak',
  [],
  {},
  [1, 2, 3],
  [undefined, null],
  [[[[1]]]],
  { a: { b: { c: { d: 1 } } } },
  [1, , , 4],
  new Array(3),
  ['a', { b: 1 }],
  { 'a b': 1, [Symbol('k')]: 2, c: 'x' },
  {
    get a() {
      return 1;
    },
    set b(value) {},
    get c() {
      return 1;
    },
    set c(value) {},
  },
  () => 1,
  function named() {},
  class {},
  class A {},
  class B extends Point {},
  async () => 1,
  function* g() {},
  new Map(),
  new Map([
    [1, { a: 1 }],
    ['k', [1]],
  ]),
  new Set(),
  new Set([1, 'a']),
  new Date(0),
  new Date(NaN),
  /re/g,
  new Point(),
  new Nothing(),
  Object.create(null),
  new Uint8Array(3),
  new Uint8Array(0),
  new String('boxed'),
  new Number(3),
  new Boolean(false),
  circular,
  Object.assign([1], { extra: true }),
  Object.assign(() => 1, { extra: 1 }),
  { text: 'x'.repeat(60), other: 'y'.repeat(40) },
];

for (const value of VALUES) {
  const text = expected(value);
  test(text, () => assert.equal(inspect(value), text));
}
