import assert from 'node:assert/strict';
import { test } from 'node:test';
import { markedKind } from '../src/kinds.js';
import { fromJson, limitValues, toJson } from '../src/values.js';

const cycle = { list: [{}] };
cycle.list[0].again = cycle;
class Point {
  constructor() {
    this.x = 1;
    this.y = undefined;
  }
}

const SENT = [
  [undefined, 'null'],
  [null, 'null'],
  [true, 'true'],
  [1.5, '1.5'],
  ['é"\n', '"é\\"\\n"'],
  ['\ud800', '"\\ud800"'],
  [2n ** 70n, '1180591620717411303424'],
  [[1, , undefined, 'null', null], '[1,null,null,"null",null]'],
  [{ a: undefined, b: [{ c: 1n }] }, '{"b":[{"c":1}]}'],
  [
    { when: new Date(0), deep: [{ at: new Date(1) }] },
    '{"when":"1970-01-01T00:00:00.000Z","deep":[{"at":"1970-01-01T00:00:00.001Z"}]}',
  ],
  [new Point(), '{"x":1}'],
  [[new String('boxed'), new Number(2)], '["boxed",2]'],
  [{ x: { toJSON: () => [1n] } }, '{"x":[1]}'],
  [Object.assign(Object.create(null), { a: 1 }), '{"a":1}'],
  ['{}', '"{}"'],
];

for (const [value, json] of SENT) {
  test(`sends ${json}`, () => assert.equal(toJson(value), json));
}

const REFUSED = [
  [NaN, 'cannot send $ to the host: NaN is not a JSON value'],
  [[1, [-Infinity]], 'cannot send $[1][0] to the host: -Infinity is not a JSON value'],
  [
    { items: [{}, { price: NaN }] },
    'cannot send $.items[1].price to the host: NaN is not a JSON value',
  ],
  [{ 'a b': () => 1 }, 'cannot send $["a b"] to the host: a function is not a JSON value'],
  [{ s: Symbol('x') }, 'cannot send $.s to the host: a symbol is not a JSON value'],
  [{ m: new Map() }, 'cannot send $.m to the host: a Map is not a JSON value'],
  [[new Uint8Array(2)], 'cannot send $[0] to the host: a Uint8Array is not a JSON value'],
  [
    [Promise.resolve()],
    'cannot send $[0] to the host: a Promise (is an `await` missing?) is not a JSON value',
  ],
  [[new Error('x')], 'cannot send $[0] to the host: an Error is not a JSON value'],
  [cycle, 'cannot send $.list[0].again to the host: a circular reference is not a JSON value'],
];

for (const [value, message] of REFUSED) {
  test(message, () => {
    assert.throws(
      () => toJson(value),
      (error) => {
        assert.equal(error.message, message);
        assert.ok(error instanceof TypeError);
        assert.equal(markedKind(error), 'value');
        return true;
      },
    );
  });
}

test('deeply nested values are refused', () => {
  let value = NaN;
  for (let i = 0; i < 100_000; i++) value = [value];
  assert.throws(() => toJson(value), /nested more than 1000 levels/);
});

test('the size limit is in bytes', () => {
  limitValues(10);
  try {
    assert.equal(toJson('éééé'), '"éééé"');
    assert.throws(
      () => toJson('ééééé'),
      (error) => markedKind(error) === 'size',
    );
    assert.throws(
      () => toJson('123456789'),
      (error) => markedKind(error) === 'size',
    );
  } finally {
    limitValues(Infinity);
  }
});

test('JSON is parsed', () => {
  assert.deepEqual(fromJson('{"a":[1,2.5,"1234567890123456789"]}'), {
    a: [1, 2.5, '1234567890123456789'],
  });
});
