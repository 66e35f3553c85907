'use strict';
// structuredClone, from the HTML standard; TextEncoder and related functions.

const cases = {};

const VALUES = {
  null: null,
  undefined: undefined,
  true: true,
  number: 1.5,
  '-0': -0,
  text: 'ü\u{1f600}',
  bigint: 2n ** 70n,
  array: [1, [2, [3]]],
  object: { a: { b: [{}] } },
};
for (const [name, value] of Object.entries(VALUES)) {
  cases[`clones ${name}`] = () => same(structuredClone(value), value);
}
cases['clones a Map'] = () => same([...structuredClone(new Map([[1, { a: 2 }]]))], [[1, { a: 2 }]]);
cases['clones a Set'] = () => same([...structuredClone(new Set([1, 'a']))], [1, 'a']);
cases['clones a Date'] = () => same(structuredClone(new Date(5)).getTime(), 5);
cases['clones a RegExp'] = () => same(String(structuredClone(/a/gi)), '/a/gi');
cases['clones boxed values'] = () => same(structuredClone(new Number(5)).valueOf(), 5);
cases['clones typed arrays and their buffer'] = () => {
  const bytes = new Uint8Array([1, 2, 3]);
  const copy = structuredClone(bytes);
  bytes[0] = 9;
  same([...copy], [1, 2, 3]);
  same(structuredClone(new Float64Array([0.5]).buffer).byteLength, 8);
};
cases['clones an error'] = () => {
  const copy = structuredClone(new RangeError('bad'));
  same([copy instanceof RangeError, copy.message], [true, 'bad']);
};
cases['keeps cycles and what is there twice'] = () => {
  const value = { inner: {} };
  value.self = value;
  value.again = value.inner;
  const copy = structuredClone(value);
  same([copy.self === copy, copy.again === copy.inner, copy !== value], [true, true, true]);
};
cases['keeps own members only'] = () => {
  class Point {
    x = 1;
    get y() {
      return 2;
    }
  }
  const copy = structuredClone(new Point());
  same([Object.getPrototypeOf(copy) === Object.prototype, copy], [true, { x: 1 }]);
};
cases['transfers a buffer'] = () => {
  const { buffer } = new Uint8Array([1, 2]);
  const copy = structuredClone(buffer, { transfer: [buffer] });
  same([copy.byteLength, buffer.byteLength], [2, 0]);
};
// The engine refuses a symbol with a TypeError, and texts that are not base64
// with a RangeError, where the standards have a DOMException.
cases['refuses a symbol'] = () => throws('TypeError', () => structuredClone(Symbol('s')));
for (const [name, value] of Object.entries({
  function: () => 1,
  'nested function': { f() {} },
  WeakMap: new WeakMap(),
  promise: Promise.resolve(),
})) {
  cases[`refuses a ${name}`] = () => throws('DataCloneError', () => structuredClone(value));
}
cases['encodes and decodes'] = () => {
  same(
    [...new TextEncoder().encode('aü€\u{1f600}')],
    [97, 195, 188, 226, 130, 172, 240, 159, 152, 128],
  );
  same(new TextDecoder().decode(new Uint8Array([0xc3, 0xbc])), 'ü');
  throws(TypeError, () => new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xff])));
  throws(RangeError, () => new TextDecoder('nope'));
};
cases['base64'] = () => {
  same([btoa('abc'), atob('YWJj')], ['YWJj', 'abc']);
  throws('RangeError', () => btoa('\u{1f600}'));
  throws('RangeError', () => atob('*'));
};
cases['random numbers'] = () => {
  same(
    crypto.getRandomValues(new Uint8Array(16)).some((byte) => byte > 0),
    true,
  );
  same(
    /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/.test(crypto.randomUUID()),
    true,
  );
};
cases['digests'] = async () => {
  const digest = new Uint8Array(
    await crypto.subtle.digest('SHA-256', new TextEncoder().encode('abc')),
  );
  same([...digest.slice(0, 4)], [0xba, 0x78, 0x16, 0xbf]);
};
