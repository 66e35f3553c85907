// Rewrites a regular expression for an engine without Unicode data: `\p{..}` becomes a
// character class, and with the flags `iu` or `iv` a letter becomes the class of all
// letters that match it. Everything else, errors too, is left to the engine.
//
// (Word boundaries, back references and `\q{..}` ignore case as the engine does.)

import { closed, combine, complement, equivalents, or, property, setOf } from './sets.js';

/** Returns the pattern for the engine, or undefined if the engine shall refuse it. */
export function rewrite(pattern, flags) {
  const state = {
    pattern,
    at: 0,
    sets: flags.includes('v'),
    ignoreCase: flags.includes('i'),
  };
  try {
    let text = '';
    while (state.at < pattern.length) text += term(state);
    return text;
  } catch (error) {
    if (error === REFUSED) return undefined;
    throw error;
  }
}

const REFUSED = new Error('the engine shall refuse the pattern');
const WORDS = [48, 58, 65, 91, 95, 96, 97, 123];
const FOLDED_WORDS = [...WORDS, 0x17f, 0x180, 0x212a, 0x212b];
function term(state) {
  const { pattern, at } = state;
  switch (pattern[at]) {
    case '[':
      return state.sets ? nestedClass(state) : simpleClass(state);
    case '\\': {
      const escape = readEscape(state);
      if (escape.set !== undefined) return classText(escape, state.sets);
      return escape.point === undefined ? escape.text : letter(state, escape.point, escape.text);
    }
    case '(': {
      // A name, or modifiers, are no letters of the pattern.
      const head = /^\(\?(?:<[^=!>][^>]*>|[a-z-]*:)/.exec(pattern.slice(at, at + 300));
      const text = head === null ? '(' : head[0];
      state.at += text.length;
      return text;
    }
    default: {
      const point = pattern.codePointAt(at);
      const text = String.fromCodePoint(point);
      state.at += text.length;
      return letter(state, point, text);
    }
  }
}

/** Returns a letter outside of a class. */
function letter(state, point, text) {
  const group = state.ignoreCase ? equivalents(point) : undefined;
  return group === undefined ? text : `[${rangesText(setOf(group))}]`;
}

/**
 * Reads an escape sequence: `{ text, point }` for a character, `{ text, set, strings }`
 * for a class that has to be rewritten, else `{ text }`.
 */
function readEscape(state) {
  const { pattern, at, ignoreCase } = state;
  const sign = pattern[at + 1];
  const take = (length, point) => {
    state.at += length;
    return { text: pattern.slice(at, at + length), point };
  };
  if (sign === 'p' || sign === 'P') {
    const end = pattern.indexOf('}', at);
    if (pattern[at + 2] !== '{' || end < 0) throw REFUSED;
    const found = property(pattern.slice(at + 3, end), state.sets);
    if (found === undefined) throw REFUSED;
    const { strings } = found;
    let set = found.points;
    if (sign === 'P') {
      if (strings.length > 0) throw REFUSED;
      // With `v`, the complement is that of the letters that match.
      if (ignoreCase && state.sets) set = closed(set);
      set = complement(set);
    }
    if (ignoreCase) set = closed(set);
    state.at = end + 1;
    return { set, strings, text: pattern.slice(at, end + 1) };
  }
  if (sign === 'w' || sign === 'W') {
    if (!ignoreCase) return take(2);
    const set = sign === 'w' ? FOLDED_WORDS : complement(FOLDED_WORDS);
    return { ...take(2), set, strings: [] };
  }
  if (sign === 'u') {
    const rest = pattern.slice(at, at + 14);
    const braces = /^\\u\{([\dA-Fa-f]+)\}/.exec(rest);
    if (braces !== null) return take(braces[0].length, parseInt(braces[1], 16));
    const pair = /^\\u([dD][89abAB][\dA-Fa-f]{2})\\u([dD][c-fC-F][\dA-Fa-f]{2})/.exec(rest);
    if (pair !== null) {
      const units = [parseInt(pair[1], 16), parseInt(pair[2], 16)];
      return take(12, String.fromCharCode(...units).codePointAt(0));
    }
    const one = /^\\u([\dA-Fa-f]{4})/.exec(rest);
    return one === null ? take(2) : take(6, parseInt(one[1], 16));
  }
  if (sign === 'x') {
    const hex = /^\\x([\dA-Fa-f]{2})/.exec(pattern.slice(at, at + 4));
    return hex === null ? take(2) : take(4, parseInt(hex[1], 16));
  }
  if (sign === 'c') return take(3);
  if (sign === 'k') {
    const end = pattern.indexOf('>', at);
    return take(end < 0 ? 2 : end + 1 - at);
  }
  const controls = { __proto__: null, t: 9, n: 10, v: 11, f: 12, r: 13, 0: 0 };
  if (sign in controls) return take(2, controls[sign]);
  return take(2, /^[^\w\s]$/.test(sign) ? sign.charCodeAt(0) : undefined);
}

/** Returns a class of the flag `u`. */
function simpleClass(state) {
  const { pattern } = state;
  const negated = pattern[state.at + 1] === '^';
  let text = negated ? '[^' : '[';
  let all = [];
  state.at += text.length;
  const add = (set) => {
    if (state.ignoreCase) all = combine(all, set, or);
  };
  while (pattern[state.at] !== ']') {
    if (state.at >= pattern.length) throw REFUSED;
    const first = classAtom(state);
    // An unescaped hyphen and another atom make a range.
    if (pattern[state.at] === '-' && pattern[state.at + 1] !== ']') {
      state.at++;
      const last = classAtom(state);
      if (first.point === undefined || last.point === undefined || first.set || last.set) {
        if (first.set !== undefined || last.set !== undefined) throw REFUSED;
        text += `${first.text}-${last.text}`;
        continue;
      }
      text += `${first.text}-${last.text}`;
      if (first.point > last.point) throw REFUSED;
      add([first.point, last.point + 1]);
    } else if (first.set !== undefined) {
      text += rangesText(first.set);
      add(first.set);
    } else {
      // More may follow than in the pattern, with which a hyphen at its end would be a range.
      text += first.text === '-' ? '\\-' : first.text;
      if (first.point !== undefined) add([first.point, first.point + 1]);
    }
  }
  state.at++;
  if (state.ignoreCase) text += rangesText(combine(closed(all), all, (a, b) => a && !b));
  return `${text}]`;
}

function classAtom(state) {
  const { pattern, at } = state;
  if (pattern[at] === '\\') {
    // A backspace.
    if (pattern[at + 1] === 'b') {
      state.at += 2;
      return { text: '\\b', point: 8 };
    }
    return readEscape(state);
  }
  const point = pattern.codePointAt(at);
  const text = String.fromCodePoint(point);
  state.at += text.length;
  return { text, point };
}

/** Returns a class of the flag `v`, whose operands may be classes. */
function nestedClass(state) {
  const { pattern } = state;
  let text = '[';
  state.at++;
  if (pattern[state.at] === '^') {
    text += '^';
    state.at++;
  }
  while (pattern[state.at] !== ']') {
    if (state.at >= pattern.length) throw REFUSED;
    if (pattern[state.at] === '[') {
      text += nestedClass(state);
      continue;
    }
    const two = pattern.slice(state.at, state.at + 2);
    if (two === '--' || two === '&&') {
      text += two;
      state.at += 2;
      continue;
    }
    if (two === '\\q') {
      const end = pattern.indexOf('}', state.at);
      if (end < 0) throw REFUSED;
      text += pattern.slice(state.at, end + 1);
      state.at = end + 1;
      continue;
    }
    const first = classAtom(state);
    if (first.set !== undefined) {
      text += classText(first, true);
      continue;
    }
    const isRange = pattern[state.at] === '-' && pattern[state.at + 1] !== '-';
    if (!isRange) {
      const group = state.ignoreCase ? equivalents(first.point) : undefined;
      text += group === undefined ? first.text : `[${rangesText(setOf(group))}]`;
      continue;
    }
    state.at++;
    const last = classAtom(state);
    const range = `${first.text}-${last.text}`;
    if (!state.ignoreCase || !(first.point <= last.point)) text += range;
    else text += `[${rangesText(closed([first.point, last.point + 1]))}]`;
  }
  state.at++;
  return `${text}]`;
}

/** Returns a class, whose strings need the flag `v`. */
function classText({ set, strings }, sets) {
  // The shorter form, since most complements begin with a long range.
  if (strings.length === 0 && set[0] === 0 && set.length > 2)
    return `[^${rangesText(complement(set))}]`;
  if (strings.length === 0) return set.length === 0 ? '[]' : `[${rangesText(set)}]`;
  const longest = [...strings].sort((a, b) => b.length - a.length);
  const quoted = longest.map((string) =>
    [...string].map((char) => pointText(char.codePointAt(0))).join(''),
  );
  return sets ? `[${rangesText(set)}\\q{${quoted.join('|')}}]` : '';
}

function rangesText(set) {
  let text = '';
  for (let i = 0; i < set.length; i += 2) {
    const last = set[i + 1] - 1;
    text += pointText(set[i]);
    if (last > set[i] + 1) text += '-';
    if (last > set[i]) text += pointText(last);
  }
  return text;
}

function pointText(point) {
  const hex = point.toString(16);
  const isLetter = (point >= 97 && point <= 122) || (point >= 65 && point <= 90);
  if (isLetter || (point >= 48 && point <= 57)) return String.fromCharCode(point);
  if (point < 0x100) return `\\x${hex.padStart(2, '0')}`;
  // Two escapes of four digits could be read as one surrogate pair.
  if (point > 0xffff || (point >= 0xd800 && point <= 0xdfff)) return `\\u{${hex}}`;
  return `\\u${hex.padStart(4, '0')}`;
}
