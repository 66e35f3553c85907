// Compares the guest's Unicode functions with those of Node.js, which has ICU. What one of
// the two versions of Unicode does not know is left out.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { before, test } from 'node:test';

import { normalize } from '../lazy/normalize.js';
import { rewrite } from '../lazy/rewrite.js';
import { property, useTable } from '../lazy/sets.js';
import { unicodeProperties } from '../unicode-tables.mjs';

const tools = process.env.ISOLA_JS_TOOLS;
if (!tools) throw new Error('ISOLA_JS_TOOLS must be the directory with the node_modules');
const require = createRequire(join(tools, 'package.json'));
const properties = require('regenerate-unicode-properties');
const versions = [
  process.versions.unicode,
  require('regenerate-unicode-properties/unicode-version.js'),
];
const isSameVersion = parseFloat(versions[0]) === parseFloat(versions[1]);

const FORMS = ['NFC', 'NFD', 'NFKC', 'NFKD'];
const characters = [];
// All letters that have a case, all of the first planes' start, some of the others.
const sample = [];

before(async () => {
  const data = readFileSync(new URL('../lazy/unicode.txt', import.meta.url), 'utf8');
  useTable((await unicodeProperties(tools)) + data);
  for (let point = 0; point <= 0x10ffff; point++) {
    const char = String.fromCodePoint(point);
    // What is assigned in both versions has its final properties.
    if (!isSameVersion && !/\p{Assigned}/u.test(char)) continue;
    characters.push(char);
    if (point < 0x400 || point % 61 === 0 || /\p{Changes_When_Casemapped}/u.test(char))
      sample.push(char);
  }
});

test('each character is normalized in each form', () => {
  const marked = new Set([...sample, ...characters.filter((char) => /\p{M}/u.test(char))]);
  for (const form of FORMS) {
    for (const char of characters) {
      // A mark on each side shows the combining class and the compositions.
      const strings = [char];
      if (marked.has(char)) strings.push(`a\u0345\u0334${char}\u0301`, `${char}\u0327\u0300`);
      for (const string of strings)
        if (normalize(string, form) !== string.normalize(form))
          assert.fail(`${form} of ${escape(string)}: ${escape(normalize(string, form))}`);
    }
  }
});

test('sequences of marks and of syllables are normalized', () => {
  const random = randomNumbers(7);
  const wanted = characters.filter((char) =>
    /[\p{M}\u1100-\u11ff\uac00-\uac40\u00c0-\u017f]/u.test(char),
  );
  for (let i = 0; i < 20000; i++) {
    let string = '';
    for (let n = 1 + random(8); n > 0; n--) string += wanted[random(wanted.length)];
    const form = FORMS[i % 4];
    assert.equal(normalize(string, form), string.normalize(form), `${form} of ${escape(string)}`);
  }
});

test('each property has the same characters', () => {
  const names = [];
  for (const name of properties.get('Binary_Property')) names.push(name);
  for (const name of properties.get('General_Category')) names.push(name, `gc=${name}`);
  for (const name of properties.get('Script')) names.push(`Script=${name}`);
  for (const name of properties.get('Script_Extensions')) names.push(`scx=${name}`);
  const text = characters.join('');
  let tested = 0;
  for (const name of names) {
    let native;
    try {
      native = new RegExp(`\\p{${name}}+`, 'gu');
    } catch {
      assert.ok(!isSameVersion, `Node.js does not know ${name}`);
      continue;
    }
    const rewritten = new RegExp(`${rewrite(`\\p{${name}}`, 'u')}+`, 'gu');
    tested++;
    if (!isSameVersion) continue;
    assert.deepEqual(text.match(rewritten)?.join(), text.match(native)?.join(), name);
  }
  assert.ok(tested > 400);
});

test('each alias names the same set', () => {
  const aliases = require('unicode-property-value-aliases-ecmascript');
  for (const [kind, values] of aliases) {
    for (const [alias, name] of values)
      assert.equal(property(`${kind}=${alias}`), property(`${kind}=${name}`), alias);
  }
  assert.equal(property('Alpha'), property('Alphabetic'));
  for (const name of ['', 'x', 'Latin', 'L=L', 'gc=', 'Script=L', '__proto__', 'RGI_Emoji', 'l'])
    assert.equal(property(name, false), undefined, name);
});

// Patterns, each with the flags for which it is compared.
const PATTERNS = [
  ['^\\p{L}+$', 'u iu v iv'],
  ['\\P{L}', 'u iu v iv'],
  ['\\p{Lu}', 'u iu v iv'],
  ['\\P{Lu}', 'u iu v iv'],
  ['[\\p{Lu}_-]', 'u iu'],
  ['[^\\p{Ll}\\d]', 'u iu v'],
  ['[^\\P{Ll}]', 'u iu v'],
  ['[\\P{Ll}]', 'u iu v iv'],
  ['[^\\W]', 'u iu v iv'],
  ['[\\w-]', 'u iu'],
  ['[a-k_-]', 'u iu'],
  ['[^+--k-]', 'u iu'],
  ['[-k]', 'u iu'],
  ['\\w', 'u iu v iv'],
  ['\\W', 'u iu v iv'],
  ['[\\W]', 'u iu v iv'],
  ['[a-z]', 'u iu v iv'],
  ['[^a-z]', 'u iu v iv'],
  ['[\\p{L}--[a-z]]', 'v iv'],
  ['[\\p{L}&&\\p{ASCII}]', 'v iv'],
  // With `i`, Node.js removes the letters of `\p{..}` before it ignores case.
  ['[[a-z\\p{Nd}]--\\p{ASCII}]', 'v'],
  ['[^[\\p{Lu}]--[A-Z]]', 'v iv'],
  ['\\p{Script=Greek}|\\p{scx=Deva}', 'u iu v iv'],
  ['[\\q{abc|k}\\p{Nd}]', 'v iv'],
  ['k|\\u212a|\\x73|\\u{1e9e}', 'u iu v iv'],
  ['(?<kilo>k)s', 'u iu v iv'],
  ['[\\u{10400}-\\u{10402}]', 'u iu v iv'],
  ['\\ud801\\udc00', 'u iu v iv'],
  ['[\\b\\0\\cA\\-\\]]', 'u iu v iv'],
  ['\\p{Cs}', 'u v'],
  ['\\p{RGI_Emoji_Flag_Sequence}', 'v'],
  ['^\\p{RGI_Emoji}$', 'v'],
  ['[\\p{Emoji_Keycap_Sequence}a]', 'v'],
];
const REFUSED = [
  ['\\p{Foo}', 'u'],
  ['\\p{L', 'u'],
  ['\\pL', 'u'],
  ['[\\p{L}-z]', 'u'],
  ['\\p{RGI_Emoji}', 'u'],
  ['\\P{RGI_Emoji}', 'v'],
  ['[^\\p{RGI_Emoji}]', 'v'],
  ['[\\p{L}', 'u'],
  ['[\\p{L}&&&]', 'v'],
];

for (const [pattern, variants] of PATTERNS) {
  for (const flags of variants.split(' ')) {
    test(`/${pattern}/${flags} matches the same`, () => {
      const native = new RegExp(pattern, flags);
      const text = rewrite(pattern, flags);
      const rewritten = new RegExp(text, flags);
      const emoji = ['👨‍👩‍👧', '🇩🇪', '1️⃣', '👍🏽', 'abc', 'ks', 'KS', '\u212aſ', '\ud800'];
      for (const string of [...sample, ...emoji]) {
        if (native.test(string) !== rewritten.test(string))
          assert.fail(`${escape(string)} differs for ${text.slice(0, 200)}`);
      }
    });
  }
}

for (const [pattern, flags] of REFUSED) {
  test(`/${pattern}/${flags} is refused`, () => {
    assert.throws(() => new RegExp(pattern, flags), SyntaxError);
    const text = rewrite(pattern, flags);
    if (text !== undefined) assert.throws(() => new RegExp(text, flags), SyntaxError);
  });
}

const escape = (string) =>
  JSON.stringify(string).replace(/[^\x20-\x7e]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

/** Returns a generator of the same numbers in each run. */
function randomNumbers(seed) {
  return (limit) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * limit);
  };
}
