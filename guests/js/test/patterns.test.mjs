// Which literals of a source are rewritten. `{}` stands for a rewritten literal.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { useTexts } from '../src/lazy.js';
import { withUnicodePatterns } from '../src/patterns.js';

// The functions of `lazy/unicode.js`, with a result that is easy to see.
globalThis.isolaTestBundle = { useTable() {}, rewrite: () => 'REWRITTEN' };
useTexts({
  unicode() {
    /*globalThis.isolaTestBundle*/
  },
  unicodeData() {
    /**/
  },
});

const SOURCES = [
  // [source, result]
  ['a = /\\p{L}/u', 'a = {}/u'],
  ['a = /\\P{L}x/gv;', 'a = {}/gv;'],
  ['f(/[/]\\p{L}/u)', 'f({}/u)'],
  ['a = /\\p{L}/', 'a = /\\p{L}/'],
  ['a = /x/iu', 'a = {}/iu'],
  ['a = /x/vi', 'a = {}/vi'],
  ['a = /x/u', 'a = /x/u'],
  ['return /\\p{L}/u', 'return {}/u'],
  ['if (x) /\\p{L}/u.test(x)', 'if (x) {}/u.test(x)'],
  ['}\n/\\p{L}/u.test(x)', '}\n{}/u.test(x)'],
  ["a = '/\\p{L}/u'", "a = '/\\p{L}/u'"],
  ['a = "\\"/\\p{L}/u"', 'a = "\\"/\\p{L}/u"'],
  ['a = `/\\p{L}/u`', 'a = `/\\p{L}/u`'],
  ['a = `${/\\p{L}/u}/\\p{L}/u`', 'a = `${{}/u}/\\p{L}/u`'],
  ['a = `${`${{b: /\\p{L}/u}}`}/\\p{L}/u`; /\\p{N}/u', 'a = `${`${{b: {}/u}}`}/\\p{L}/u`; {}/u'],
  ['// /\\p{L}/u\n/\\p{L}/u', '// /\\p{L}/u\n{}/u'],
  ['/* /\\p{L}/u */ a', '/* /\\p{L}/u */ a'],
  ["a /* b */ / c; d = '/'; e = /\\p{L}/u", "a /* b */ / c; d = '/'; e = {}/u"],
  ['a = b / c / d; e = /\\p{L}/u', 'a = b / c / d; e = {}/u'],
  ["a = /'/; e = /\\p{L}/u", "a = /'/; e = {}/u"],
  ['a = b/i/u', 'a = b/i/u'],
  ["a = 'x/iu'", "a = 'x/iu'"],
  ["a = '\\p{L}", "a = '\\p{L}"],
  ['a = /\\p{L}', 'a = /\\p{L}'],
  ['`${', '`${'],
  ['}}}} `${a}}` /\\p{L}/u', '}}}} `${a}}` /\\p{L}/u'],
];

for (const [source, wanted] of SOURCES) {
  test(`rewrites ${JSON.stringify(source)}`, () => {
    const result = withUnicodePatterns(source);
    assert.equal(result.replaceAll(/\/(?:\(\?:\))*REWRITTEN/g, '{}'), wanted);
    assert.equal(result.split('\n').length, source.split('\n').length);
  });
}

test('a source without such a literal is not read', () => {
  const source = 'const a = "\\\\p{L}";\n'.repeat(1000);
  assert.equal(withUnicodePatterns(source), source);
});
