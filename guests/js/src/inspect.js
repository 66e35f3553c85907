// Formats any value as text, as Node's `util.inspect` does by default.

import {
  getOwnPropertyDescriptor,
  getPrototypeOf,
  hasOwn,
  isArray,
  join,
  objectTag,
  ownKeys,
  regExpExec,
  SafeError,
  SafeString,
  string,
  stringify,
  toStringTag,
  uncurry,
} from './intrinsics.js';

const LINE_WIDTH = 72;
const MAX_ITEMS = 100;
const MAX_STRING = 10_000;
const DEFAULT_DEPTH = 2;

const mapEach = uncurry(Map.prototype.forEach);
const setEach = uncurry(Set.prototype.forEach);
const mapSize = uncurry(getOwnPropertyDescriptor(Map.prototype, 'size').get);
const setSize = uncurry(getOwnPropertyDescriptor(Set.prototype, 'size').get);
const TypedArray = getPrototypeOf(Uint8Array.prototype);
const typedArrayTag = uncurry(getOwnPropertyDescriptor(TypedArray, toStringTag).get);
const typedArrayLength = uncurry(getOwnPropertyDescriptor(TypedArray, 'length').get);
const bufferLength = uncurry(getOwnPropertyDescriptor(ArrayBuffer.prototype, 'byteLength').get);
const dateToISO = uncurry(Date.prototype.toISOString);
const regExpText = uncurry(RegExp.prototype.toString);
const symbolText = uncurry(Symbol.prototype.toString);
const functionText = uncurry(Function.prototype.toString);
const unbox = {
  Number: uncurry(Number.prototype.valueOf),
  String: uncurry(String.prototype.valueOf),
  Boolean: uncurry(Boolean.prototype.valueOf),
  Symbol: uncurry(Symbol.prototype.valueOf),
  BigInt: uncurry(BigInt.prototype.valueOf),
};
const isError = (value) => value instanceof SafeError;

/** Formats `value` as text; `errorText` formats the errors in it. */
export function inspect(value, { depth = DEFAULT_DEPTH, errorText = plainError } = {}) {
  const state = { depth, errorText, parents: [], circular: [] };
  return format(value, 0, 0, state);
}

function plainError(error) {
  return `[${SafeString(error.name)}: ${SafeString(error.message)}]`;
}

function format(value, level, indent, state) {
  switch (typeof value) {
    case 'string':
      return quote(value);
    case 'bigint':
      return `${SafeString(value)}n`;
    case 'number':
      return value === 0 && 1 / value < 0 ? '-0' : SafeString(value);
    case 'symbol':
      return symbolText(value);
    case 'function':
    case 'object':
      return value === null ? 'null' : formatObject(value, level, indent, state);
    default:
      return SafeString(value);
  }
}

/** Quotes a text with single quotes, unless another kind avoids escapes. */
export function quote(text) {
  let rest = '';
  if (text.length > MAX_STRING) {
    rest = `... ${text.length - MAX_STRING} more characters`;
    text = string.slice(text, 0, MAX_STRING);
  }
  let mark = "'";
  if (string.includes(text, "'")) {
    if (!string.includes(text, '"')) mark = '"';
    else if (!string.includes(text, '`') && !string.includes(text, '${')) mark = '`';
  }
  // JSON also escapes double quotes, which may not be necessary.
  let body = string.replaceAll(string.slice(stringify(text), 1, -1), '\\"', '"');
  if (string.includes(body, mark)) body = string.replaceAll(body, mark, `\\${mark}`);
  return `${mark}${body}${mark}${rest}`;
}

function formatObject(value, level, indent, state) {
  for (let i = 0; i < state.parents.length; i++) {
    if (state.parents[i] === value) {
      let index = 0;
      while (index < state.circular.length && state.circular[index] !== value) index++;
      state.circular[index] = value;
      return `[Circular *${index + 1}]`;
    }
  }
  let text;
  try {
    text = body(value, level, indent, state);
  } catch (error) {
    // A proxy or a getter that throws, or nesting beyond the stack.
    text = `[object that cannot be shown: ${isError(error) ? error.message : 'it threw'}]`;
  }
  for (let i = 0; i < state.circular.length; i++) {
    if (state.circular[i] === value) return `<ref *${i + 1}> ${text}`;
  }
  return text;
}

function body(value, level, indent, state) {
  const { prefix, open, close, items, base } = shape(value);
  const names = memberNames(value, open === '[');
  if (isError(value)) {
    const text = state.errorText(value);
    const lines = string.replaceAll(text, '\n', `\n${string.repeat(' ', indent)}`);
    if (names.length === 0 || level > state.depth) return lines;
    return `${lines} ${members(value, names, [], '{', '}', level, indent, state)}`;
  }
  if (base !== undefined && names.length === 0) return base;
  const head = base ?? prefix;
  const lead = head === '' ? '' : `${head} `;
  if (items === undefined && names.length === 0) return `${lead}${open}${close}`;
  if (level > state.depth)
    return head === '' ? (open === '[' ? '[Array]' : '[Object]') : `[${head}]`;
  return lead + members(value, names, items ?? [], open, close, level, indent, state);
}

function members(value, names, items, open, close, level, indent, state) {
  const { parents } = state;
  const at = parents.length;
  parents[at] = value;
  const lines = [];
  const inner = indent + 2;
  const shown = items.length > MAX_ITEMS ? MAX_ITEMS : items.length;
  for (let i = 0; i < shown; i++) {
    const item = items[i];
    lines[i] =
      typeof item === 'string'
        ? item
        : item.pair
          ? `${format(item.key, level + 1, inner, state)} => ${format(item.value, level + 1, inner, state)}`
          : format(item.value, level + 1, inner, state);
  }
  if (items.length > shown) lines[shown] = more(items.length - shown, 'item');
  for (let i = 0; i < names.length; i++) {
    lines[lines.length] =
      `${keyText(names[i])}: ${property(value, names[i], level + 1, inner, state)}`;
  }
  parents.length = at;
  return layOut(lines, open, close, indent, items.length > 6 && names.length === 0 && open === '[');
}

function more(count, noun) {
  return `... ${count} more ${noun}${count > 1 ? 's' : ''}`;
}

/** Formats members on one line if it is short, else one per line (numbers: several). */
function layOut(lines, open, close, indent, packs) {
  let total = lines.length + indent;
  let broken = false;
  let widest = 0;
  for (let i = 0; i < lines.length; i++) {
    const { length } = lines[i];
    total += length;
    if (length > widest) widest = length;
    if (string.includes(lines[i], '\n')) broken = true;
  }
  if (lines.length === 0) return `${open}${close}`;
  if (!broken && total + 2 < LINE_WIDTH) return `${open} ${join(lines, ', ')} ${close}`;
  const pad = string.repeat(' ', indent + 2);
  if (packs && !broken && widest <= 16) lines = pack(lines, widest);
  return `${open}\n${pad}${join(lines, `,\n${pad}`)}\n${string.repeat(' ', indent)}${close}`;
}

/** Puts short items side by side. */
function pack(lines, widest) {
  let columns = (LINE_WIDTH / (widest + 2)) | 0;
  if (columns > 16) columns = 16;
  const rows = [];
  for (let i = 0; i < lines.length; i += columns) {
    let row = '';
    for (let k = i; k < i + columns && k < lines.length; k++) {
      const last = k === i + columns - 1 || k === lines.length - 1;
      row += last ? lines[k] : string.padEnd(`${lines[k]}, `, widest + 2);
    }
    rows[rows.length] = row;
  }
  return rows;
}

function keyText(name) {
  if (typeof name === 'symbol') return `[${symbolText(name)}]`;
  return regExpExec(/^[A-Za-z_$][\w$]*$/, name) ? name : quote(name);
}

function property(value, name, level, indent, state) {
  const descriptor = getOwnPropertyDescriptor(value, name);
  if (descriptor === undefined) return 'undefined';
  if (!hasOwn(descriptor, 'value')) {
    if (descriptor.get === undefined) return '[Setter]';
    return descriptor.set === undefined ? '[Getter]' : '[Getter/Setter]';
  }
  return format(descriptor.value, level, indent, state);
}

/** Returns the names of enumerable own members that are not shown as items. */
function memberNames(value, indexed) {
  const all = ownKeys(value);
  const names = [];
  for (let i = 0; i < all.length; i++) {
    const name = all[i];
    if (indexed && typeof name === 'string' && regExpExec(/^\d+$/, name)) continue;
    if (getOwnPropertyDescriptor(value, name)?.enumerable) names[names.length] = name;
  }
  return names;
}

function constructorName(value) {
  for (let object = value; object !== null; object = getPrototypeOf(object)) {
    const descriptor = getOwnPropertyDescriptor(object, 'constructor');
    const constructor = descriptor?.value;
    if (typeof constructor === 'function' && constructor.name !== '')
      return SafeString(constructor.name);
  }
  return null;
}

/**
 * Returns the format of an object: the text before the brackets, the brackets, the
 * items in them; or `base`, the complete text if there are no members.
 */
function shape(value) {
  const tag = string.slice(objectTag(value), 8, -1);
  const name = constructorName(value);
  const named = (usual) => (name === usual ? '' : `${name ?? '[null prototype]'}`);
  if (typeof value === 'function')
    return { prefix: '', open: '{', close: '}', base: functionLabel(value, name) };
  if (isArray(value)) {
    const prefix = name === 'Array' ? '' : `${name ?? '[null prototype] Array'}(${value.length})`;
    return {
      prefix,
      open: '[',
      close: ']',
      items: value.length === 0 ? undefined : arrayItems(value),
    };
  }
  const typed = typedArrayTag(value);
  if (typed !== undefined) {
    const length = typedArrayLength(value);
    const items = [];
    for (let i = 0; i < length && i <= MAX_ITEMS; i++) items[i] = { value: value[i] };
    items.length = length;
    return {
      prefix: `${typed}(${length})`,
      open: '[',
      close: ']',
      items: length === 0 ? undefined : items,
    };
  }
  try {
    switch (tag) {
      case 'Map':
        return {
          prefix: `${name}(${mapSize(value)})`,
          open: '{',
          close: '}',
          items: mapItems(value),
        };
      case 'Set':
        return {
          prefix: `${name}(${setSize(value)})`,
          open: '{',
          close: '}',
          items: setItems(value),
        };
      case 'Date':
        return { prefix: '', open: '{', close: '}', base: dateText(value) };
      case 'RegExp':
        return { prefix: '', open: '{', close: '}', base: regExpText(value) };
      case 'ArrayBuffer':
        return {
          prefix: 'ArrayBuffer',
          open: '{',
          close: '}',
          items: [`byteLength: ${bufferLength(value)}`],
        };
      case 'Promise':
      case 'WeakMap':
      case 'WeakSet':
        return { prefix: tag, open: '{', close: '}', items: ['<...>'] };
      case 'Number':
      case 'String':
      case 'Boolean':
      case 'Symbol':
      case 'BigInt': {
        const inner = format(unbox[tag](value), 0, 0, { depth: 0, parents: [], circular: [] });
        return {
          prefix: '',
          open: tag === 'String' ? '[' : '{',
          close: '}',
          base: `[${tag}: ${inner}]`,
        };
      }
      case 'URL':
      case 'URLSearchParams':
        return { prefix: '', open: '{', close: '}', base: `${tag} ${quote(SafeString(value))}` };
    }
  } catch {
    // Its tag is wrong, so it is formatted as a plain object.
  }
  let prefix = named('Object');
  if (name === null) prefix = '[Object: null prototype]';
  if (tag === 'Arguments') prefix = '[Arguments]';
  else if (tag !== 'Object' && tag !== 'Error' && tag !== name)
    prefix = `${name ?? 'Object'} [${tag}]`;
  return { prefix, open: '{', close: '}' };
}

function arrayItems(value) {
  const items = [];
  let i = 0;
  while (i < value.length && items.length <= MAX_ITEMS) {
    if (hasOwn(value, i)) {
      items[items.length] = { value: value[i++] };
      continue;
    }
    const start = i;
    while (i < value.length && !hasOwn(value, i)) i++;
    items[items.length] = `<${i - start} empty item${i - start > 1 ? 's' : ''}>`;
  }
  if (i < value.length) items.length += value.length - i;
  return items;
}

function mapItems(value) {
  const items = [];
  mapEach(value, (item, key) => {
    items[items.length] = { pair: true, key, value: item };
  });
  return items.length === 0 ? undefined : items;
}

function setItems(value) {
  const items = [];
  setEach(value, (item) => {
    items[items.length] = { value: item };
  });
  return items.length === 0 ? undefined : items;
}

function dateText(value) {
  try {
    return dateToISO(value);
  } catch {
    return 'Invalid Date';
  }
}

function functionLabel(value, kind) {
  const name = getOwnPropertyDescriptor(value, 'name')?.value;
  const isClass = string.startsWith(functionText(value), 'class');
  if (isClass) {
    const parent = getPrototypeOf(value);
    const label = typeof name === 'string' && name !== '' ? name : '(anonymous)';
    return `[class ${label}${parent?.name ? ` extends ${parent.name}` : ''}]`;
  }
  kind ??= 'Function';
  return typeof name === 'string' && name !== '' ? `[${kind}: ${name}]` : `[${kind} (anonymous)]`;
}
