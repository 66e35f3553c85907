'use strict';
// Headers, from the Fetch standard.

const cases = {};

cases['of nothing'] = () => same([...new Headers()], []);
cases['of undefined'] = () => same([...new Headers(undefined)], []);
cases['of a record'] = () =>
  same(
    [...new Headers({ B: '1', a: '2' })],
    [
      ['a', '2'],
      ['b', '1'],
    ],
  );
cases['of pairs'] = () =>
  same(
    [
      ...new Headers([
        ['b', '1'],
        ['a', '2'],
      ]),
    ],
    [
      ['a', '2'],
      ['b', '1'],
    ],
  );
cases['of other headers'] = () => {
  const first = new Headers({ a: '1' });
  const second = new Headers(first);
  second.set('a', '2');
  same([first.get('a'), second.get('a')], ['1', '2']);
};
cases['of a Map, a generator'] = () => {
  same(new Headers(new Map([['x', 'y']])).get('X'), 'y');
  same(
    new Headers(
      (function* () {
        yield ['g', '1'];
      })(),
    ).get('g'),
    '1',
  );
};
cases['the sample of the document'] = () => {
  const headers = new Headers([['x-test', 'a']]);
  headers.append('x-test', 'b');
  headers.set('content-type', 'application/json');
  same(
    [...headers],
    [
      ['content-type', 'application/json'],
      ['x-test', 'a, b'],
    ],
  );
};
for (const wrong of [[['a']], [['a', 'b', 'c']], [1], 'text', 5, null]) {
  cases[`${JSON.stringify(wrong)} is refused`] = () => throws(TypeError, () => new Headers(wrong));
}
for (const name of ['', 'a b', 'a:', 'ä', 'a\n', '(', '\0']) {
  cases[`the name ${JSON.stringify(name)} is refused everywhere`] = () => {
    throws(TypeError, () => new Headers({ [name]: 'x' }));
    const headers = new Headers();
    throws(TypeError, () => headers.append(name, 'x'));
    throws(TypeError, () => headers.set(name, 'x'));
    throws(TypeError, () => headers.get(name));
    throws(TypeError, () => headers.has(name));
    throws(TypeError, () => headers.delete(name));
  };
}
for (const value of ['a\nb', 'a\rb', 'a\0b', '\u{1f600}']) {
  cases[`the value ${JSON.stringify(value)} is refused`] = () => {
    throws(TypeError, () => new Headers({ a: value }));
    throws(TypeError, () => new Headers().append('a', value));
    throws(TypeError, () => new Headers().set('a', value));
  };
}
cases['white space around a value goes'] = () =>
  same(new Headers({ a: ' \t x y \r\n' }).get('a'), 'x y');
cases['values become texts'] = () =>
  same(new Headers({ a: 1, b: null, c: undefined }).get('b'), 'null');
cases['append, set, get, has, delete'] = () => {
  const headers = new Headers();
  headers.append('A', '1');
  headers.append('a', '2');
  same(
    [headers.get('a'), headers.has('A'), headers.get('b'), headers.has('b')],
    ['1, 2', true, null, false],
  );
  headers.set('a', '3');
  same(headers.get('a'), '3');
  headers.delete('A');
  same([headers.has('a'), headers.get('a')], [false, null]);
  headers.delete('a');
};
cases['forEach'] = () => {
  const headers = new Headers({ b: '2', a: '1' });
  const seen = [];
  headers.forEach((value, name, all) => seen.push([name, value, all === headers]));
  same(seen, [
    ['a', '1', true],
    ['b', '2', true],
  ]);
  throws(TypeError, () => headers.forEach());
  throws(TypeError, () => headers.forEach(1));
};
cases['entries, keys, values and for...of'] = () => {
  const headers = new Headers({ b: '2', a: '1' });
  same(
    [...headers.entries()],
    [
      ['a', '1'],
      ['b', '2'],
    ],
  );
  same([...headers.keys()], ['a', 'b']);
  same([...headers.values()], ['1', '2']);
  const seen = [];
  for (const [name, value] of headers) seen.push(name + value);
  same(seen, ['a1', 'b2']);
};
cases['methods want their arguments'] = () => {
  const headers = new Headers();
  throws(TypeError, () => headers.append('a'));
  throws(TypeError, () => headers.set('a'));
  throws(TypeError, () => headers.get());
  throws(TypeError, () => headers.has());
  throws(TypeError, () => headers.delete());
};
cases['methods want a Headers'] = () => {
  throws(TypeError, () => Headers.prototype.get.call({}, 'a'));
  throws(TypeError, () => Headers('a'));
};
cases['cookies are kept apart'] = () => {
  const headers = new Headers([
    ['set-cookie', 'a=1'],
    ['Set-Cookie', 'b=2, c'],
    ['x', '1'],
    ['x', '2'],
  ]);
  same(headers.getSetCookie(), ['a=1', 'b=2, c']);
  same(
    [...headers],
    [
      ['set-cookie', 'a=1'],
      ['set-cookie', 'b=2, c'],
      ['x', '1, 2'],
    ],
  );
  same(headers.get('set-cookie'), 'a=1, b=2, c');
  headers.delete('set-cookie');
  same(headers.getSetCookie(), []);
};
cases['it says what it is'] = () =>
  same(Object.prototype.toString.call(new Headers()), '[object Headers]');
