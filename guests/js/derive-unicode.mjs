// Writes `lazy/unicode.txt`: the decompositions, the combining classes and the equivalent
// letters of Unicode, which no small package has. They are derived from the functions of
// this Node.js, which must have a complete ICU:
//
//   node derive-unicode.mjs
//
// Run it with a Node.js whose `process.versions.unicode` is that of the package
// `regenerate-unicode-properties`. `test/unicode.test.mjs` compares the result with Node.js.

import { writeFileSync } from 'node:fs';

import { encodeNumbers } from './lazy/numbers.js';

const LAST = 0x10ffff;
const isSurrogate = (point) => point >= 0xd800 && point <= 0xdfff;
const isHangul = (point) => point >= 0xac00 && point <= 0xd7a3;
const pointsOf = (string) => [...string].map((char) => char.codePointAt(0));

function* characters() {
  for (let point = 0; point <= LAST; point++) {
    if (!isSurrogate(point)) yield point;
  }
}

/** Returns the full decompositions: the distance of the character, a length, the text. */
function decompositions(form, without) {
  const numbers = [];
  let last = 0;
  for (const point of characters()) {
    if (isHangul(point)) continue;
    const char = String.fromCodePoint(point);
    const text = char.normalize(form);
    if (text === char || (without && text === char.normalize(without))) continue;
    const points = pointsOf(text);
    numbers.push(point - last, points.length, ...points);
    last = point;
  }
  return encodeNumbers(numbers);
}

/** Returns the composites that NFC never creates. */
function exclusions() {
  const numbers = [];
  let last = 0;
  for (const point of characters()) {
    const char = String.fromCodePoint(point);
    if (char.normalize('NFD') === char || char.normalize('NFC') === char) continue;
    numbers.push(point - last);
    last = point;
  }
  return encodeNumbers(numbers);
}

/**
 * Returns the combining classes: for each character, the distance to the last one and the
 * rank of its class. Only the order of the classes matters. A mark comes after another
 * one of a lower class, so sorting by normalization gives the order.
 */
function combiningClasses() {
  const LOWEST = '\u0334';
  const HIGHEST = '\u0345';
  const swaps = (first, second) => (first + second).normalize('NFD') === second + first;
  const ranked = [];
  const marks = [];
  for (const point of characters()) {
    const char = String.fromCodePoint(point);
    if (char.normalize('NFD') !== char) continue;
    if (swaps(HIGHEST, char) || swaps(char, LOWEST)) marks.push(char);
  }
  if (!marks.includes(LOWEST)) marks.push(LOWEST);
  if (!marks.includes(HIGHEST)) marks.push(HIGHEST);
  const classes = [];
  for (const mark of marks) {
    const same = classes.find(([one]) => !swaps(one, mark) && !swaps(mark, one));
    if (same) same.push(mark);
    else classes.push([mark]);
  }
  classes.sort(([a], [b]) => (swaps(a, b) ? 1 : -1));
  classes.forEach((members, rank) => {
    for (const member of members) ranked.push([member.codePointAt(0), rank + 1]);
  });
  ranked.sort(([a], [b]) => a - b);
  let last = 0;
  return encodeNumbers(
    ranked.flatMap(([point, rank]) => {
      const distance = point - last;
      last = point;
      return [distance, rank];
    }),
  );
}

/**
 * Returns the groups of letters that match each other with the flags `iu`: the number of
 * members, the first one, the distances of the others.
 */
function equivalents() {
  const cased = [...characters()].map((point) => String.fromCodePoint(point));
  const all = cased.join('');
  const numbers = [];
  const seen = new Set();
  for (const char of cased) {
    if (seen.has(char) || !/\p{Changes_When_Casemapped}|\p{Changes_When_Casefolded}/u.test(char))
      continue;
    const found = all.match(new RegExp(char.replace(/[\\^$.*+?()[\]{}|/]/, '\\$&'), 'giu'));
    if (found.length === 1) continue;
    const points = found.map((one) => one.codePointAt(0));
    for (const one of found) seen.add(one);
    numbers.push(points.length, points[0]);
    for (let i = 1; i < points.length; i++) numbers.push(points[i] - points[i - 1]);
  }
  return encodeNumbers(numbers);
}

const lines = [
  `n:canonical=${decompositions('NFD')}`,
  `n:compatibility=${decompositions('NFKD', 'NFD')}`,
  `n:exclusions=${exclusions()}`,
  `n:classes=${combiningClasses()}`,
  `c:equivalents=${equivalents()}`,
];
writeFileSync(new URL('lazy/unicode.txt', import.meta.url), `\n${lines.join('\n')}\n`);
