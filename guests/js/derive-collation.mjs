// Writes `lazy/collation.txt`: the order of characters of the root collation, derived from
// `Intl.Collator` of this Node.js, which must have a complete ICU:
//
//   node derive-collation.mjs
//
// The characters are sorted; each has the level by which it differs from the one before:
// 1 another letter, 2 another accent, 3 another case, 0 no difference. Han characters,
// Hangul syllables and other large scripts are left out, since their order is that of
// their numbers.

import { writeFileSync } from 'node:fs';

import { encodeNumbers } from './lazy/numbers.js';

const compare = (sensitivity) => new Intl.Collator('en', { sensitivity }).compare;
const [base, accent, variant] = [compare('base'), compare('accent'), compare('variant')];

const chars = [];
for (let point = 0; point < 0x20000; point++) {
  if (point >= 0xd800 && point <= 0xdfff) continue;
  const char = String.fromCodePoint(point);
  if (
    !/\p{Assigned}/u.test(char) ||
    /\p{Co}|\p{Script=Han}|\p{Script=Tangut}|\p{Script=Nushu}/u.test(char)
  )
    continue;
  if (
    /\p{Script=Khitan_Small_Script}|\p{Script=Egyptian_Hieroglyphs}|\p{Script=Cuneiform}/u.test(
      char,
    )
  )
    continue;
  // What is decomposed is compared by its parts, and so is a compatibility character.
  if (char.normalize('NFD') !== char) continue;
  if (char.normalize('NFKD') !== char && isByParts(char)) continue;
  chars.push(char);
}

function isByParts(char) {
  return base(char, char.normalize('NFKD')) === 0;
}

chars.sort((a, b) => variant(a, b) || (a < b ? -1 : 1));
const numbers = [];
let last = 0;
let before = '';
for (const char of chars) {
  const level =
    base(before, char) !== 0
      ? 1
      : accent(before, char) !== 0
        ? 2
        : variant(before, char) !== 0
          ? 3
          : 0;
  const point = char.codePointAt(0);
  const distance = point - last;
  // Mostly the next character, as another letter.
  numbers.push((distance < 0 ? -2 * distance - 1 : 2 * distance) * 4 + level);
  last = point;
  before = char;
}
writeFileSync(new URL('lazy/collation.txt', import.meta.url), `${encodeNumbers(numbers)}\n`);
