// Finds the literals of regular expressions that the engine lacks the data for, and
// replaces them. Only a source that may have one is read, in one pass.

import { regExpExec, string } from './intrinsics.js';
import { foldsUnicode, rewrittenLiteral } from './regexp.js';
import { LETTER } from './syntax.js';

// A property outside of a string, where the backslash would be doubled.
const PROPERTY = /(?<!\\)(?:\\\\)*\\[pP]\{/;
const FOLDING = /\/[dgmsy]*(?:i[dgmsy]*[uv]|[uv][dgmsy]*i)[dgmsy]*(?![\w$])/;
const STOP = /['"`/]/g;
const STOP_IN_TEMPLATE = /['"`/{}]/g;
const STRING = /'[^'\\]*(?:\\[^][^'\\]*)*'|"[^"\\]*(?:\\[^][^"\\]*)*"/y;
const COMMENT = /\/\/[^\n\r\u2028\u2029]*|\/\*[^]*?\*\//y;
const TEMPLATE = /[^`\\$]*(?:(?:\\[^]|\$(?!\{))[^`\\$]*)*(`|\$\{)/y;
const LITERAL =
  /\/((?:[^\\/[\n\r\u2028\u2029]|\\[^\n\r\u2028\u2029]|\[(?:[^\]\\\n\r\u2028\u2029]|\\[^\n\r\u2028\u2029])*\])+)\/([A-Za-z]*)/y;
// A class of the flag `v` may have brackets in it.
const OPERAND_BEFORE = new RegExp(String.raw`[${LETTER}\d)\]}"'\`]\s*$`);
const WORD_BEFORE = new RegExp(String.raw`(?:^|[^${LETTER}\d.])([a-z]+)\s*$`);
const KEYWORD =
  /^(?:await|case|delete|do|else|extends|in|instanceof|new|of|return|throw|typeof|void|yield)$/;

/** Returns the source with such literals replaced. Its lines do not change. */
export function withUnicodePatterns(source) {
  const hasProperty = string.includes(source, '\\p{') || string.includes(source, '\\P{');
  if (!(hasProperty && regExpExec(PROPERTY, source) !== null) && !mayFold(source)) return source;
  let result = '';
  let copied = 0;
  // The number of open braces in each template that is open.
  const open = [];
  let at = 0;
  // The start and the end of the last comments, which do not separate operands.
  let comment = 0;
  let afterComment = 0;
  while (at < source.length) {
    const pattern = open.length === 0 ? STOP : STOP_IN_TEMPLATE;
    pattern.lastIndex = at;
    const found = regExpExec(pattern, source);
    if (found === null) break;
    at = found.index;
    const sign = found[0];
    if (sign === '{') {
      open[open.length - 1]++;
      at++;
    } else if (sign === '}') {
      at++;
      if (open[open.length - 1]-- === 0) {
        open.length--;
        at = templateEnd(source, at, open);
      }
    } else if (sign === '`') {
      at = templateEnd(source, at + 1, open);
    } else if (sign !== '/') {
      at = end(STRING, source, at) ?? at + 1;
    } else if (source[at + 1] === '/' || source[at + 1] === '*') {
      if (!isBlank(source, afterComment, at)) comment = at;
      at = end(COMMENT, source, at) ?? source.length;
      afterComment = at;
    } else {
      LITERAL.lastIndex = at;
      const literal = regExpExec(LITERAL, source);
      const before = isBlank(source, afterComment, at) ? comment : at;
      if (literal === null || !isLiteral(source, before, literal)) {
        at++;
        continue;
      }
      const [whole, body, flags] = literal;
      if (isWanted(body, flags)) {
        result += `${string.slice(source, copied, at)}/${rewrittenLiteral(body, flags)}/${flags}`;
        copied = at + whole.length;
      }
      at += whole.length;
    }
  }
  return copied === 0 ? source : result + string.slice(source, copied);
}

// A slash and a flag: few sources have that anywhere, and it is found quickly.
const FLAGS = ['/i', '/u', '/g', '/v', '/m', '/s', '/y', '/d'];

function mayFold(source) {
  for (let i = 0; i < FLAGS.length; i++) {
    if (string.includes(source, FLAGS[i])) return regExpExec(FOLDING, source) !== null;
  }
  return false;
}

const isWanted = (body, flags) =>
  (string.includes(flags, 'u') || string.includes(flags, 'v')) &&
  (foldsUnicode(flags) || regExpExec(/\\[pP]\{/, body) !== null);

/** Returns whether a slash begins a literal, and does not divide. */
function isLiteral(source, at, [, body, flags]) {
  const before = string.slice(source, at > 40 ? at - 40 : 0, at);
  if (regExpExec(OPERAND_BEFORE, before) === null) return true;
  const word = regExpExec(WORD_BEFORE, before);
  if (word !== null && regExpExec(KEYWORD, word[1]) !== null) return true;
  // After `)` or `}` it can be either; an operand has no backslash.
  return (
    isWanted(body, flags) &&
    regExpExec(/^[\s\S]*[)}]\s*$/, before) !== null &&
    string.includes(body, '\\')
  );
}

const isBlank = (source, from, to) => regExpExec(/\S/, string.slice(source, from, to)) === null;

function end(pattern, source, at) {
  pattern.lastIndex = at;
  return regExpExec(pattern, source) === null ? undefined : pattern.lastIndex;
}

/** Returns the position after the text of a template, and notes whether it goes on. */
function templateEnd(source, at, open) {
  TEMPLATE.lastIndex = at;
  const found = regExpExec(TEMPLATE, source);
  if (found === null) return source.length;
  if (found[1] !== '`') open[open.length] = 0;
  return TEMPLATE.lastIndex;
}
