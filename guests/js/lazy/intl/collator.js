// `Intl.Collator`, with the root collation of Unicode. `derive-collation.mjs` describes
// the table.

import { decodeNumbers } from '../numbers.js';
import { normalize } from '../normalize.js';
import { callable, choice, intlClass, optionsObject, resolveLocale } from './locales.js';

let table = '';
// The weights of a character: its letter × 2^16 + its accent × 2^8 + its case.
let weights;
let ascii;
let digits;

const LETTER = 0x10000;
const ACCENT = 0x100;

export function useCollation(text) {
  table = text;
}

function prepare() {
  weights = new Map();
  const numbers = decodeNumbers(table, 0, table.length - 1);
  let point = 0;
  let letter = 0;
  let accent = 0;
  let cased = 0;
  // Plain statements: destructuring thousands of times takes a tenth of a second here.
  for (let i = 0; i < numbers.length; i++) {
    const distance = numbers[i] >> 2;
    const level = numbers[i] & 3;
    point += distance & 1 ? -(distance + 1) / 2 : distance / 2;
    if (level === 1) {
      letter++;
      accent = cased = 0;
    } else if (level === 2) {
      accent++;
      cased = 0;
    } else if (level === 3) cased++;
    weights.set(
      point,
      letter * LETTER + (accent > 255 ? 255 : accent) * ACCENT + (cased > 255 ? 255 : cased),
    );
  }
  ascii = Array.from({ length: 128 }, (_, code) => weights.get(code) ?? 0);
  digits = [weights.get(48), weights.get(57)].map((weight) => Math.floor(weight / LETTER));
}

/** Returns the weights of the characters of a string. */
function weightsOf(string) {
  const list = [];
  const isAscii = /^[\0-\x7f]*$/.test(string);
  const text = isAscii ? string : normalize(string, 'NFD');
  for (const char of text) {
    const point = char.codePointAt(0);
    if (point < 128) list.push(ascii[point]);
    else addWeights(list, char, point);
  }
  return list;
}

// Ligatures differ from their letters by an accent, or by a case.
const LIGATURES = new Map([
  ['æ', ['ae', ACCENT]],
  ['Æ', ['AE', ACCENT]],
  ['œ', ['oe', ACCENT]],
  ['Œ', ['OE', ACCENT]],
  ['ß', ['ss', 4]],
  ['ẞ', ['SS', 4]],
]);

function addWeights(list, char, point) {
  const ligature = LIGATURES.get(char);
  if (ligature !== undefined) {
    const [letters, difference] = ligature;
    for (const letter of letters) list.push(ascii[letter.charCodeAt(0)] + difference);
    return;
  }
  const weight = weights.get(point);
  if (weight !== undefined) {
    list.push(weight);
    return;
  }
  const parts = normalize(char, 'NFKD');
  if (parts !== char) {
    // A compatibility character differs from its parts as a case does.
    for (const part of parts) {
      const own = weights.get(part.codePointAt(0)) ?? unknown(part.codePointAt(0));
      list.push(own % ACCENT === 0 ? own + 4 : own);
    }
    return;
  }
  list.push(unknown(point));
}

// After all characters of the table, by number; Han ideographs of the first blocks first.
const unknown = (point) =>
  ((point >= 0x4e00 && point <= 0x9fff ? 0x20000 : 0x40000) + point) * LETTER;

class Order {
  #resolved;
  #bound;

  constructor(locales, given) {
    const { tag, keywords } = resolveLocale(locales);
    const options = optionsObject(given);
    const usage = choice(options, 'usage', ['sort', 'search'], 'sort');
    choice(options, 'localeMatcher', ['lookup', 'best fit']);
    const kn = keywords.get('kn');
    const numeric =
      options.numeric === undefined ? kn === '' || kn === 'true' : Boolean(options.numeric);
    const caseFirst = choice(
      options,
      'caseFirst',
      ['upper', 'lower', 'false'],
      keywords.get('kf') ?? 'false',
    );
    const sensitivity = choice(
      options,
      'sensitivity',
      ['base', 'accent', 'case', 'variant'],
      'variant',
    );
    const ignorePunctuation =
      options.ignorePunctuation === undefined ? false : Boolean(options.ignorePunctuation);
    this.#resolved = {
      locale: tag,
      usage,
      sensitivity,
      ignorePunctuation,
      collation: 'default',
      numeric,
      caseFirst,
    };
  }

  get compare() {
    const resolved = this.#resolved;
    this.#bound ??= (a, b) => compare(String(a), String(b), resolved);
    Object.defineProperty(this.#bound, 'name', { value: '' });
    return this.#bound;
  }

  resolvedOptions() {
    return { ...this.#resolved };
  }
}

const PUNCTUATION =
  /[\s!-#%-*,-/:;?@[-\]_{}\xa1\xa7\xab\xb6\xb7\xbb\xbf\u2010-\u2027\u2030-\u205e\u3001-\u3003]/g;

function compare(a, b, { sensitivity, ignorePunctuation, numeric, caseFirst }) {
  if (a === b) return 0;
  if (weights === undefined) prepare();
  if (ignorePunctuation) [a, b] = [a.replace(PUNCTUATION, ''), b.replace(PUNCTUATION, '')];
  const [first, second] = [weightsOf(a), weightsOf(b)];
  const letters = compareLetters(first, second, numeric);
  if (letters !== 0 || sensitivity === 'base') return letters;
  if (sensitivity !== 'case') {
    const accents = compareLevel(first, second, (weight) => Math.floor(weight / ACCENT) % ACCENT);
    if (accents !== 0 || sensitivity === 'accent') return accents;
  }
  const flip = caseFirst === 'upper' ? -1 : 1;
  return flip * compareLevel(first, second, (weight) => weight % ACCENT);
}

function compareLetters(first, second, numeric) {
  let i = 0;
  let j = 0;
  for (;;) {
    // A mark has no letter.
    while (i < first.length && first[i] < LETTER) i++;
    while (j < second.length && second[j] < LETTER) j++;
    if (i >= first.length || j >= second.length)
      return i < first.length ? 1 : j < second.length ? -1 : 0;
    const x = Math.floor(first[i] / LETTER);
    const y = Math.floor(second[j] / LETTER);
    if (numeric && isDigit(x) && isDigit(y)) {
      const [n, endN] = digitRun(first, i);
      const [m, endM] = digitRun(second, j);
      if (n.length !== m.length) return n.length < m.length ? -1 : 1;
      for (let k = 0; k < n.length; k++) if (n[k] !== m[k]) return n[k] < m[k] ? -1 : 1;
      i = endN;
      j = endM;
      continue;
    }
    if (x !== y) return x < y ? -1 : 1;
    i++;
    j++;
  }
}

const isDigit = (letter) => letter >= digits[0] && letter <= digits[1];

function digitRun(list, at) {
  const run = [];
  for (; at < list.length; at++) {
    const letter = Math.floor(list[at] / LETTER);
    if (!isDigit(letter)) break;
    if (run.length > 0 || letter !== digits[0]) run.push(letter);
  }
  return [run, at];
}

/** Compares one level; a weight without a letter at that level is skipped. */
function compareLevel(first, second, level) {
  let i = 0;
  let j = 0;
  for (;;) {
    while (i < first.length && first[i] < ACCENT) i++;
    while (j < second.length && second[j] < ACCENT) j++;
    if (i >= first.length || j >= second.length)
      return i < first.length ? 1 : j < second.length ? -1 : 0;
    // A mark comes after any letter, at its level.
    const x = level(first[i]);
    const y = level(second[j]);
    if (x !== y) return x < y ? -1 : 1;
    i++;
    j++;
  }
}

export const Collator = callable(intlClass(Order, 'Collator'), 'Collator');

const plain = new Map();

/** Implements `localeCompare`. */
export function compareText(a, b, locales, options) {
  if (options !== undefined || (locales !== undefined && typeof locales !== 'string'))
    return new Order(locales, options).compare(a, b);
  let order = plain.get(locales);
  if (order === undefined) {
    if (plain.size > 20) plain.clear();
    plain.set(locales, (order = new Order(locales)));
  }
  return order.compare(a, b);
}
