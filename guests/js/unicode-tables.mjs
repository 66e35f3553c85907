// Writes the table of the Unicode properties that regular expressions can name, from the
// packages with the data: one line for each set, whose code points `lazy/sets.js` reads.
//
//   kind:Name=ranges          a set
//   kind:Name^ranges          what differs from the set of the same script
//   kind:Name+Other,Other     a union
//   kind:Alias>Name           another name
//
// The kinds: `b` binary properties, `g` general categories, `s` scripts, `x` script
// extensions, `q` properties of strings.

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { encodeNumbers } from './lazy/numbers.js';

const COMBINED = {
  LC: ['Ll', 'Lt', 'Lu'],
  L: ['Ll', 'Lm', 'Lo', 'Lt', 'Lu'],
  M: ['Mc', 'Me', 'Mn'],
  N: ['Nd', 'Nl', 'No'],
  P: ['Pc', 'Pd', 'Pe', 'Pf', 'Pi', 'Po', 'Ps'],
  S: ['Sc', 'Sk', 'Sm', 'So'],
  Z: ['Zl', 'Zp', 'Zs'],
  C: ['Cc', 'Cf', 'Cn', 'Co', 'Cs'],
};

/** Returns the table, from the packages below `tools`. */
export async function unicodeProperties(tools) {
  const require = createRequire(join(tools, 'package.json'));
  const properties = require('regenerate-unicode-properties');
  const resolved = require.resolve('unicode-property-aliases-ecmascript');
  const { default: aliases } = await import(pathToFileURL(resolved));
  const valueAliases = require('unicode-property-value-aliases-ecmascript');
  const data = (kind, name) => require(`regenerate-unicode-properties/${kind}/${name}.js`);
  const lines = [];

  for (const name of properties.get('Binary_Property'))
    lines.push(`b:${name}=${ranges(data('Binary_Property', name).characters)}`);
  const binary = new Set(properties.get('Binary_Property'));
  for (const [alias, name] of aliases) {
    if (binary.has(name) && alias !== name) lines.push(`b:${alias}>${name}`);
  }

  // The short names of categories are their names here.
  const categories = valueAliases.get('General_Category');
  const short = new Map();
  for (const [alias, name] of categories) {
    const known = short.get(name);
    if (known === undefined || alias.length < known.length) short.set(name, alias);
  }
  for (const name of properties.get('General_Category')) {
    const id = short.get(name);
    if (id in COMBINED) lines.push(`g:${id}+${COMBINED[id].map((part) => `g:${part}`)}`);
    else lines.push(`g:${id}=${ranges(data('General_Category', name).characters)}`);
    lines.push(`g:${name}>${id}`);
  }
  for (const [alias, name] of categories) {
    if (alias !== short.get(name) && alias !== name) lines.push(`g:${alias}>${short.get(name)}`);
  }

  const scripts = new Map();
  for (const name of properties.get('Script')) {
    scripts.set(name, data('Script', name).characters.toArray());
    lines.push(`s:${name}=${ranges(data('Script', name).characters)}`);
  }
  for (const name of properties.get('Script_Extensions')) {
    const own = new Set(scripts.get(name) ?? []);
    const extended = new Set(data('Script_Extensions', name).characters.toArray());
    const differing = [
      ...[...own].filter((point) => !extended.has(point)),
      ...[...extended].filter((point) => !own.has(point)),
    ].sort((a, b) => a - b);
    lines.push(`x:${name}^${boundaries(differing)}`);
  }
  for (const kind of ['Script', 'Script_Extensions']) {
    for (const [alias, name] of valueAliases.get(kind)) {
      if (alias !== name) lines.push(`${kind === 'Script' ? 's' : 'x'}:${alias}>${name}`);
    }
  }

  for (const name of properties.get('Property_of_Strings')) {
    if (name === 'RGI_Emoji') continue;
    const { characters, strings } = data('Property_of_Strings', name);
    lines.push(`q:${name}=${ranges(characters)}|${sequences(strings)}`);
  }
  const parts = properties.get('Property_of_Strings').filter((name) => name !== 'RGI_Emoji');
  lines.push(`q:RGI_Emoji+${parts.map((name) => `q:${name}`)}`);
  return `\n${lines.sort().join('\n')}\n`;
}

const ranges = (set) => boundaries(set.toArray());

/** Encodes sorted code points as the distances of the starts and ends of their ranges. */
function boundaries(points) {
  const found = [];
  let last = 0;
  const add = (point) => {
    found.push(point - last);
    last = point;
  };
  for (let i = 0; i < points.length; i++) {
    if (i === 0 || points[i] !== points[i - 1] + 1) add(points[i]);
    if (i === points.length - 1 || points[i + 1] !== points[i] + 1) add(points[i] + 1);
  }
  return encodeNumbers(found);
}

/** Encodes strings by their length and the index of each code point in a list. */
function sequences(strings) {
  const sorted = [...strings].sort((a, b) => (a < b ? -1 : 1)).map((string) => [...string]);
  const used = [...new Set(sorted.flat().map((char) => char.codePointAt(0)))];
  used.sort((a, b) => a - b);
  const list = used.map((point, i) => (i === 0 ? point : point - used[i - 1]));
  const numbers = [list.length, ...list];
  for (const string of sorted) {
    numbers.push(string.length);
    for (const char of string) numbers.push(used.indexOf(char.codePointAt(0)));
  }
  return encodeNumbers(numbers);
}
