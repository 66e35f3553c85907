// Features of strings that the engine lacks, since it is built without ICU.

import {
  define,
  regExpExec,
  SafeRangeError,
  SafeString,
  SafeTypeError,
  string,
  uncurry,
} from './intrinsics.js';
import { unicodeFunctions } from './lazy.js';

const toLower = uncurry(String.prototype.toLowerCase);
const toUpper = uncurry(String.prototype.toUpperCase);

const SIGMA = '\u03a3';
const FINAL = '\u03c2';

function toLowerCase() {
  const lower = toLower(this);
  // Most texts contain no sigma; a null `this` has thrown by now.
  const text = `${this}`;
  if (!string.includes(text, SIGMA)) return lower;
  let result = '';
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== SIGMA || !isLast(text, i)) continue;
    result += toLower(string.slice(text, start, i)) + FINAL;
    start = i + 1;
  }
  return start === 0 ? lower : result + toLower(string.slice(text, start));
}

/** Implements Final_Sigma of the Unicode Standard, table 3-17. */
function isLast(text, index) {
  return nextCased(text, index, -1) && !nextCased(text, index, 1);
}

/** Returns whether the next letter in a direction that is not ignored has a case. */
function nextCased(text, index, step) {
  for (let i = index + step; i >= 0 && i < text.length; i += step) {
    const letter = text[i];
    if (!isIgnored(letter)) return toLower(letter) !== toUpper(letter);
  }
  return false;
}

/** Returns whether a letter is one of the most common with the property Case_Ignorable. */
function isIgnored(letter) {
  if (letter === "'" || letter === '.' || letter === ':' || letter === '^' || letter === '`')
    return true;
  if (letter < '\u00a8') return false;
  return (
    letter === '\u00a8' ||
    letter === '\u00ad' ||
    letter === '\u00af' ||
    letter === '\u00b4' ||
    letter === '\u00b7' ||
    letter === '\u00b8' ||
    letter === '\u0387' ||
    (letter >= '\u02b0' && letter <= '\u036f') ||
    (letter >= '\u0483' && letter <= '\u0489') ||
    (letter >= '\u0591' && letter <= '\u05bd') ||
    (letter >= '\u064b' && letter <= '\u065f') ||
    (letter >= '\u200b' && letter <= '\u200f') ||
    letter === '\u2018' ||
    letter === '\u2019' ||
    letter === '\u2024' ||
    letter === '\u2027' ||
    (letter >= '\u202a' && letter <= '\u202e') ||
    (letter >= '\u2060' && letter <= '\u2064') ||
    (letter >= '\u20d0' && letter <= '\u20f0') ||
    (letter >= '\ufe00' && letter <= '\ufe0f') ||
    letter === '\ufeff'
  );
}

/** Implements `normalize`, with the Unicode data only for a string that may change. */
function normalize(form) {
  if (this === undefined || this === null)
    throw new SafeTypeError('String.prototype.normalize: this is null or undefined');
  const text = SafeString(this);
  const name = form === undefined ? 'NFC' : SafeString(form);
  if (name !== 'NFC' && name !== 'NFD' && name !== 'NFKC' && name !== 'NFKD')
    throw new SafeRangeError(`the form must be one of 'NFC', 'NFD', 'NFKC', or 'NFKD': ${name}`);
  const mayChange = name === 'NFC' ? /[^\0-\u02ff]/ : /[^\0-\x7f]/;
  return regExpExec(mayChange, text) === null ? text : unicodeFunctions().normalize(text, name);
}

export function installText() {
  define(String.prototype, 'normalize', { normalize }.normalize, false);
  define(String.prototype, 'toLowerCase', { toLowerCase }.toLowerCase, false);
}
