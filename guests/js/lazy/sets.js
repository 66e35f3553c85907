// The sets of code points that Unicode properties name. A set is a list of boundaries: the
// first code point of a range, the one after its end, and so on, in ascending order.

import { decodeNumbers } from './numbers.js';

export const END = 0x110000;

let table = '';
const known = new Map();

/** Sets the text with all properties; `unicode-tables.mjs` describes it. */
export function useTable(text) {
  table = text;
}

/** Returns the payload of a line of the table, with its sign, or undefined. */
export function line(name) {
  const start = `\n${name}`;
  for (let at = table.indexOf(start); at >= 0; at = table.indexOf(start, at + 1)) {
    const sign = table[at + start.length];
    if (sign === '=' || sign === '>' || sign === '+' || sign === '^')
      return table.slice(at + start.length, table.indexOf('\n', at + 1));
  }
  return undefined;
}

/** Returns the numbers of a line of the table. */
export function numbersOf(name) {
  return decodeNumbers(line(name), 1);
}

const KINDS = {
  __proto__: null,
  General_Category: 'g',
  gc: 'g',
  Script: 's',
  sc: 's',
  Script_Extensions: 'x',
  scx: 'x',
};

/**
 * Returns `{ points, strings }` for the text in the braces of `\p{..}`, or undefined if
 * there is no such property. Only `withStrings` allows a property of strings.
 */
export function property(text, withStrings) {
  if (!/^\w+(?:=\w+)?$/.test(text)) return undefined;
  const equals = text.indexOf('=');
  if (equals >= 0) {
    const kind = KINDS[text.slice(0, equals)];
    return kind === undefined ? undefined : resolve(`${kind}:${text.slice(equals + 1)}`);
  }
  return (
    resolve(`g:${text}`) ?? resolve(`b:${text}`) ?? (withStrings ? resolve(`q:${text}`) : undefined)
  );
}

function resolve(name) {
  if (known.has(name)) return known.get(name);
  const found = line(name);
  const value = found === undefined ? undefined : parse(name, found[0], found.slice(1));
  known.set(name, value);
  return value;
}

function parse(name, sign, text) {
  if (sign === '>') return resolve(`${name[0]}:${text}`);
  if (sign === '+') {
    const parts = text.split(',').map(resolve);
    return {
      points: parts.reduce((all, part) => combine(all, part.points, or), []),
      strings: parts.flatMap((part) => part.strings),
    };
  }
  const bar = text.indexOf('|');
  const points = boundaries(text, bar < 0 ? text.length : bar);
  if (sign === '^') {
    const script = resolve(`s:${name.slice(2)}`);
    return { points: combine(script?.points ?? [], points, (a, b) => a !== b), strings: [] };
  }
  return { points, strings: bar < 0 ? [] : sequences(decodeNumbers(text, bar + 1)) };
}

function boundaries(text, end) {
  const numbers = decodeNumbers(text, 0, end);
  for (let i = 1; i < numbers.length; i++) numbers[i] += numbers[i - 1];
  return numbers;
}

function sequences(numbers) {
  const count = numbers[0];
  const chars = [];
  for (let i = 1, point = 0; i <= count; i++)
    chars.push(String.fromCodePoint((point += numbers[i])));
  const strings = [];
  for (let i = count + 1; i < numbers.length;) {
    let string = '';
    for (const end = i + numbers[i]; i < end;) string += chars[numbers[++i]];
    strings.push(string);
    i++;
  }
  return strings;
}

export const or = (a, b) => a || b;

/** Combines two sets, by a function of whether each has a code point. */
export function combine(a, b, test) {
  const result = [];
  let inside = false;
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    const at = j >= b.length || a[i] <= b[j] ? a[i] : b[j];
    if (a[i] === at) i++;
    if (b[j] === at) j++;
    const now = test(i % 2 === 1, j % 2 === 1);
    if (now !== inside) result.push(at);
    inside = now;
  }
  return result;
}

export function complement(set) {
  const result = set[0] === 0 ? set.slice(1) : [0, ...set];
  if (result[result.length - 1] === END) result.pop();
  else result.push(END);
  return result;
}

export function has(set, point) {
  let low = 0;
  let high = set.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (set[middle] <= point) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** Returns the set of a list of code points. */
export function setOf(points) {
  const sorted = [...points].sort((a, b) => a - b);
  const result = [];
  for (const point of sorted) {
    if (result[result.length - 1] === point) result[result.length - 1]++;
    else if (!(result[result.length - 1] > point)) result.push(point, point + 1);
  }
  return result;
}

let groups;
let groupOf;

/** Returns the code points that match one with the flags `iu`, itself among them. */
export function equivalents(point) {
  if (groups === undefined) readEquivalents();
  return groupOf.get(point);
}

function readEquivalents() {
  groups = [];
  groupOf = new Map();
  const numbers = numbersOf('c:equivalents');
  for (let i = 0; i < numbers.length;) {
    const group = [];
    let point = 0;
    for (const end = i + numbers[i++]; i <= end; i++) {
      point += numbers[i];
      group.push(point);
      groupOf.set(point, group);
    }
    groups.push(group);
  }
}

/** Returns a set with all code points that match one of its own with the flags `iu`. */
export function closed(set) {
  if (groups === undefined) readEquivalents();
  const more = [];
  for (const group of groups) {
    let some = false;
    let every = true;
    for (const point of group) {
      if (has(set, point)) some = true;
      else every = false;
    }
    if (some && !every) more.push(...group);
  }
  return more.length === 0 ? set : combine(set, setOf(more), or);
}
