// `console.table`: rows and columns of text, formatted as in Node.

import { hasOwn, isArray, join, keys, safeMap, SafeString, string, uncurry } from './intrinsics.js';
import { inspect } from './inspect.js';

const mapEach = uncurry(Map.prototype.forEach);
const setEach = uncurry(Set.prototype.forEach);
// The maximum number of rows that are shown; the others are only counted.
const MAX_ROWS = 1000;

/** Returns the table of `data`, or undefined if it is not an object. */
export function tableText(data, columns) {
  if (typeof data !== 'object' || data === null) return undefined;
  const rows = rowsOf(data);
  const names = [];
  const known = safeMap();
  let hasValues = false;
  for (let i = 0; i < rows.list.length; i++) {
    const { value } = rows.list[i];
    if (typeof value !== 'object' || value === null) {
      hasValues = true;
      continue;
    }
    const own = keys(value);
    for (let k = 0; k < own.length; k++) {
      if (known.has(own[k])) continue;
      known.set(own[k], true);
      names[names.length] = own[k];
    }
  }
  const shown = isArray(columns) ? columns : names;
  const head = [rows.title];
  if (rows.keyed) head[head.length] = 'Key';
  for (let i = 0; i < shown.length; i++) head[head.length] = SafeString(shown[i]);
  if (hasValues) head[head.length] = 'Values';
  const lines = [head];
  for (let i = 0; i < rows.list.length; i++) {
    const { index, key, value } = rows.list[i];
    const line = [index];
    if (rows.keyed) line[line.length] = cell(key);
    const isRow = typeof value === 'object' && value !== null;
    for (let k = 0; k < shown.length; k++) {
      line[line.length] = isRow && hasOwn(value, shown[k]) ? cell(value[shown[k]]) : '';
    }
    if (hasValues) line[line.length] = isRow ? '' : cell(value);
    lines[lines.length] = line;
  }
  const text = drawn(lines);
  return rows.rest > 0 ? `${text}\n... ${rows.rest} more rows` : text;
}

function rowsOf(data) {
  const list = [];
  let rest = 0;
  const add = (row) => {
    if (list.length < MAX_ROWS) list[list.length] = row;
    else rest++;
  };
  let count = 0;
  try {
    mapEach(data, (value, key) => add({ index: SafeString(count++), key, value }));
    return { title: '(iteration index)', keyed: true, list, rest };
  } catch {}
  try {
    setEach(data, (value) => add({ index: SafeString(count++), value }));
    return { title: '(iteration index)', keyed: false, list, rest };
  } catch {}
  const names = keys(data);
  for (let i = 0; i < names.length; i++) add({ index: names[i], value: data[names[i]] });
  return { title: '(index)', keyed: false, list, rest };
}

const cell = (value) => string.replaceAll(inspect(value, { depth: 0 }), '\n', ' ');

function drawn(lines) {
  const widths = [];
  for (let i = 0; i < lines.length; i++) {
    for (let k = 0; k < lines[i].length; k++) {
      const { length } = lines[i][k];
      if (!(widths[k] >= length)) widths[k] = length;
    }
  }
  const rule = (left, middle, right) => {
    const parts = [];
    for (let k = 0; k < widths.length; k++) parts[k] = string.repeat('─', widths[k] + 2);
    return `${left}${join(parts, middle)}${right}`;
  };
  const text = [rule('┌', '┬', '┐')];
  for (let i = 0; i < lines.length; i++) {
    const parts = [];
    for (let k = 0; k < widths.length; k++) parts[k] = string.padEnd(lines[i][k], widths[k]);
    text[text.length] = `│ ${join(parts, ' │ ')} │`;
    if (i === 0) text[text.length] = rule('├', '┼', '┤');
  }
  text[text.length] = rule('└', '┴', '┘');
  return join(text, '\n');
}
