// Finds the module syntax of a source without parsing all of it: its static imports
// and exports, and each `import(..)` and `import.meta`.
//
// One pass over the source recognizes strings, templates, comments, regular
// expressions and brackets, and the two keywords. Everything else is left to the
// engine. So a source that misleads this pass gets an error of the engine, or wrong
// exports, in its own sandbox.

import { evaluate, join, regExpExec, SafeSyntaxError, string } from './intrinsics.js';

// The next character or keyword that the pass has to handle.
const NEXT = /['"`/{}()[\];,]|\b(?:import|export)\b/g;
const SPACE = /\s+|\/\/[^\n\r\u2028\u2029]*|\/\*[^]*?\*\//y;
const STRING = /'(?:[^'\\]|\\[^])*'|"(?:[^"\\]|\\[^])*"/y;
const REGEXP = /\/(?:[^\\/[\n\r]|\\.|\[(?:[^\]\\\n\r]|\\.)*\])+\/[A-Za-z]*/y;
const TEMPLATE = /(?:[^`\\$]|\\[^]|\$(?!\{))*(`|\$\{)/y;
// The engine has no Unicode classes: any character that is neither ASCII nor white
// space counts as a letter here.
export const LETTER =
  String.raw`A-Za-z_$\xaa-\u167f\u1681-\u1fff\u200c\u200d\u2030-\u205e\u2060-\u2fff` +
  String.raw`\u3001-\ufefe\uff00-\uffff`;
const NAME = new RegExp(String.raw`[${LETTER}][${LETTER}\d]*`, 'y');
const WORD_BEFORE = new RegExp(String.raw`[${LETTER}\d]+$`);
// The keywords after which a slash starts a regular expression.
const BEFORE_EXPRESSION =
  /^(?:await|case|delete|do|else|extends|in|instanceof|new|of|return|throw|typeof|void|yield)$/;
const BEFORE_PARENTHESIS = /^(?:if|while|for|with)$/;
const BINDING = new RegExp(
  String.raw`(?:^|[{[,:]|\.\.\.)\s*([${LETTER}][${LETTER}\d]*)(?=\s*(?:[=,}\]]|$))`,
  'g',
);

/**
 * Returns:
 * `imports`: { specifier, name, local, at }, where no name means the complete
 * module, and no local name that the module is only evaluated.
 * `exports`: { name, local } or { name, from, imported }; no name means all.
 * `text`: the source, with that syntax replaced by blanks.
 */
export function findModuleSyntax(source, helper, byDefault) {
  const state = {
    source,
    helper,
    byDefault,
    at: 0,
    // The open brackets, each with whether an operator may follow its end.
    open: [],
    // The end of the last token that is neither space nor comment, and whether an
    // operator may follow it, rather than an operand.
    last: 0,
    lastWasOperand: false,
    imports: [],
    exports: [],
    edits: [],
    // True inside `export const ..`, at its level.
    declaring: false,
    balanced: true,
  };
  if (string.startsWith(source, '#!')) {
    state.edits[0] = { from: 0, to: 2, text: '//' };
    state.at = regExpExec(/^[^\n\r\u2028\u2029]*/, source)[0].length;
  }
  while (state.at < source.length) step(state);
  if (state.open.length > 0) state.balanced = false;
  return {
    imports: state.imports,
    exports: state.exports,
    text: edited(source, state.edits),
    balanced: state.balanced,
  };
}

function step(state) {
  const { source } = state;
  NEXT.lastIndex = state.at;
  const found = regExpExec(NEXT, source);
  if (found === null) {
    state.at = source.length;
    return;
  }
  const at = found.index;
  const sign = found[0];
  noteText(state, state.at, at);
  state.at = at + sign.length;
  switch (sign) {
    case "'":
    case '"':
      skip(state, STRING, at);
      operand(state);
      return;
    case '`':
      templateRest(state);
      return;
    case '/':
      slash(state, at);
      return;
    case '{':
    case '(':
    case '[':
      open(state, sign);
      return;
    case '}':
    case ')':
    case ']':
      close(state, sign);
      return;
    case ';':
      state.declaring = state.declaring && state.open.length > 0;
      operator(state);
      return;
    case ',':
      operator(state);
      if (state.declaring && state.open.length === 0) declarator(state);
      return;
    default:
      word(state, sign, at);
  }
}

/** Records the end of the text before the next stop. */
function noteText(state, from, to) {
  let end = to;
  while (end > from && regExpExec(/\s/, state.source[end - 1]) !== null) end--;
  if (end === from) return;
  state.last = end;
  const last = state.source[end - 1];
  const isTwice = (last === '+' || last === '-') && state.source[end - 2] === last;
  // `a++` is usually followed by an operator.
  state.lastWasOperand =
    isTwice || (isNamePart(last) && regExpExec(BEFORE_EXPRESSION, wordBefore(state)) === null);
}

/** Returns the name or keyword that ends where the last token ends, or ''. */
function wordBefore({ source, last }) {
  const found = regExpExec(WORD_BEFORE, string.slice(source, last > 40 ? last - 40 : 0, last));
  return found === null ? '' : found[0];
}

const isNamePart = (character) =>
  character !== undefined && regExpExec(WORD_BEFORE, character) !== null;

function operand(state) {
  state.last = state.at;
  state.lastWasOperand = true;
}

function operator(state) {
  state.last = state.at;
  state.lastWasOperand = false;
}

function open(state, bracket) {
  const word = wordBefore(state);
  const previous = state.source[state.last - 1];
  let closesAsOperand = true;
  if (bracket === '(') closesAsOperand = regExpExec(BEFORE_PARENTHESIS, word) === null;
  else if (bracket === '{') {
    // An object follows an operator or a word such as `return`; else it is a block.
    const isArrow = previous === '>' && state.source[state.last - 2] === '=';
    closesAsOperand =
      word !== ''
        ? regExpExec(BEFORE_EXPRESSION, word) !== null && word !== 'else' && word !== 'do'
        : state.last > 0 && !isArrow && !string.includes('){};', previous);
  }
  state.open[state.open.length] = { bracket, closesAsOperand };
  operator(state);
}

function close(state, bracket) {
  const opened = state.open[state.open.length - 1];
  const fitting = bracket === '}' ? '{$' : bracket === ')' ? '(' : '[';
  if (opened === undefined || !string.includes(fitting, opened.bracket)) {
    state.balanced = false;
    state.at = state.source.length;
    return;
  }
  state.open.length--;
  if (opened.bracket === '$') {
    templateRest(state);
    return;
  }
  state.last = state.at;
  state.lastWasOperand = opened.closesAsOperand;
}

function templateRest(state) {
  TEMPLATE.lastIndex = state.at;
  const found = regExpExec(TEMPLATE, state.source);
  if (found === null) {
    state.at = state.source.length;
    state.balanced = false;
    return;
  }
  state.at = TEMPLATE.lastIndex;
  if (found[1] === '`') {
    operand(state);
    return;
  }
  state.open[state.open.length] = { bracket: '$', closesAsOperand: true };
  operator(state);
}

function slash(state, at) {
  const { source } = state;
  if (source[at + 1] === '/' || source[at + 1] === '*') {
    if (!skip(state, SPACE, at)) state.at = source.length;
    return;
  }
  if (!state.lastWasOperand && skip(state, REGEXP, at)) operand(state);
  else operator(state);
}

/** Skips the match of the pattern at a position. Returns whether it matched. */
function skip(state, pattern, at) {
  pattern.lastIndex = at;
  if (regExpExec(pattern, state.source) === null) return false;
  state.at = pattern.lastIndex;
  return true;
}

function word(state, text, at) {
  const { source, last } = state;
  const isProperty = source[last - 1] === '.' && source[last - 2] !== '.';
  operand(state);
  if (isProperty || isNamePart(source[at - 1]) || isNamePart(source[state.at])) return;
  const reader = { source, at: state.at };
  space(reader);
  const next = source[reader.at];
  if (text === 'import' && (next === '(' || next === '.')) {
    // `{ import() {} }` is a method.
    if (next === '(') {
      reader.at = closing(source, reader.at);
      space(reader);
      if (source[reader.at] === '{') return;
    }
    state.edits[state.edits.length] = { from: at, to: at + text.length, text: state.helper };
    return;
  }
  if (state.open.length > 0 || next === ':' || next === '=' || next === undefined) return;
  if (text === 'import') importStatement(state, reader, at);
  else exportStatement(state, reader, at);
}

// Parsing the statements.

function space(reader) {
  for (;;) {
    SPACE.lastIndex = reader.at;
    if (regExpExec(SPACE, reader.source) === null) return;
    reader.at = SPACE.lastIndex;
  }
}

function read(reader, pattern) {
  space(reader);
  pattern.lastIndex = reader.at;
  const found = regExpExec(pattern, reader.source);
  if (found === null) return undefined;
  reader.at = pattern.lastIndex;
  return found[0];
}

function accept(reader, text) {
  space(reader);
  if (!string.startsWith(reader.source, text, reader.at)) return false;
  if (isNamePart(text) && isNamePart(reader.source[reader.at + text.length])) return false;
  reader.at += text.length;
  return true;
}

function expect(reader, text) {
  if (!accept(reader, text)) throw unexpected(reader, text);
}

function unexpected(reader, wanted) {
  return setPosition(
    new SafeSyntaxError(`module syntax: expected ${wanted}`),
    reader.source,
    reader.at,
  );
}

/** Sets the line and column of an error in the source. */
export function setPosition(error, source, at) {
  const before = string.slice(source, 0, at);
  const lines = string.split(before, /\r\n|[\n\r\u2028\u2029]/);
  error.lineNumber = lines.length;
  error.columnNumber = lines[lines.length - 1].length + 1;
  return error;
}

const stringValue = (literal) => evaluate(literal);

function specifier(reader) {
  const literal = read(reader, STRING);
  if (literal === undefined) throw unexpected(reader, 'the name of a module in quotes');
  if (accept(reader, 'with'))
    throw setPosition(
      new SafeSyntaxError('import attributes are not supported'),
      reader.source,
      reader.at,
    );
  return stringValue(literal);
}

/** Reads a name in braces: an identifier or a string. */
function moduleName(reader) {
  const literal = read(reader, STRING);
  if (literal !== undefined) return stringValue(literal);
  const name = read(reader, NAME);
  if (name === undefined) throw unexpected(reader, 'a name');
  return name;
}

/** Reads `{ a, b as c }`: pairs of the first and the second name. */
function names(reader) {
  const pairs = [];
  while (!accept(reader, '}')) {
    const first = moduleName(reader);
    pairs[pairs.length] = [first, accept(reader, 'as') ? moduleName(reader) : first];
    if (accept(reader, '}')) break;
    expect(reader, ',');
  }
  return pairs;
}

function importStatement(state, reader, at) {
  const found = [];
  const direct = read(reader, STRING);
  let module;
  if (direct !== undefined) {
    reader.at -= direct.length;
    module = specifier(reader);
    found[0] = { name: undefined, local: undefined };
  } else {
    const local = read(reader, NAME);
    if (local !== undefined) found[0] = { name: 'default', local };
    if (local === undefined || accept(reader, ',')) {
      if (accept(reader, '*')) {
        expect(reader, 'as');
        found[found.length] = { name: undefined, local: read(reader, NAME) };
      } else {
        expect(reader, '{');
        const pairs = names(reader);
        for (let i = 0; i < pairs.length; i++)
          found[found.length] = { name: pairs[i][0], local: pairs[i][1] };
        if (found.length === 0) found[0] = { name: undefined, local: undefined };
      }
    }
    expect(reader, 'from');
    module = specifier(reader);
  }
  for (let i = 0; i < found.length; i++) {
    state.imports[state.imports.length] = {
      specifier: module,
      name: found[i].name,
      local: found[i].local,
      at,
    };
  }
  blank(state, at, reader.at);
}

function exportStatement(state, reader, at) {
  if (accept(reader, '*')) {
    const name = accept(reader, 'as') ? moduleName(reader) : undefined;
    expect(reader, 'from');
    state.exports[state.exports.length] = {
      name,
      from: specifier(reader),
      imported: undefined,
      at,
    };
    blank(state, at, reader.at);
  } else if (accept(reader, '{')) {
    const pairs = names(reader);
    const from = accept(reader, 'from') ? specifier(reader) : undefined;
    for (let i = 0; i < pairs.length; i++) {
      const first = pairs[i][0];
      const name = pairs[i][1];
      state.exports[state.exports.length] =
        from === undefined ? { name, local: first, at } : { name, from, imported: first, at };
    }
    if (pairs.length === 0 && from !== undefined) {
      state.imports[state.imports.length] = {
        specifier: from,
        name: undefined,
        local: undefined,
        at,
      };
    }
    blank(state, at, reader.at);
  } else if (accept(reader, 'default')) {
    exportDefault(state, reader, at);
  } else {
    exportDeclaration(state, reader, at);
  }
}

function exportDefault(state, reader, at) {
  const afterDefault = reader.at;
  const declared = declaredName(reader);
  if (declared !== undefined) {
    state.exports[state.exports.length] = { name: 'default', local: declared, at };
    blank(state, at, afterDefault);
    return;
  }
  // `export` and `default` are replaced by `;const` and a name, of the same length.
  const gap = string.slice(state.source, at + 6, afterDefault - 7);
  state.edits[state.edits.length] = {
    from: at,
    to: afterDefault,
    text: `;const${gap}${state.byDefault}=`,
  };
  state.exports[state.exports.length] = { name: 'default', local: state.byDefault, at };
  state.at = afterDefault;
  operator(state);
}

function exportDeclaration(state, reader, at) {
  const from = reader.at;
  const declared = declaredName(reader);
  if (declared !== undefined) {
    state.exports[state.exports.length] = { name: declared, local: declared, at };
    blank(state, at, from);
    return;
  }
  if (!accept(reader, 'const') && !accept(reader, 'let') && !accept(reader, 'var')) {
    throw unexpected(reader, 'a declaration');
  }
  blank(state, at, from);
  state.at = reader.at;
  operator(state);
  state.declaring = true;
  declarator(state);
}

/** Reads the name of a function or class declaration, if there is one. */
function declaredName(reader) {
  accept(reader, 'async');
  if (accept(reader, 'function')) accept(reader, '*');
  else if (!accept(reader, 'class')) return undefined;
  const name = read(reader, NAME);
  return name === 'extends' ? undefined : name;
}

/** Reads the names that one part of `export const a = 1, { b } = c` declares. */
function declarator(state) {
  const reader = { source: state.source, at: state.at };
  space(reader);
  const first = state.source[reader.at];
  if (first === '{' || first === '[') {
    const end = closing(state.source, reader.at);
    const pattern = string.slice(state.source, reader.at, end);
    BINDING.lastIndex = 0;
    for (;;) {
      const found = regExpExec(BINDING, pattern);
      if (found === null) return;
      state.exports[state.exports.length] = {
        name: found[1],
        local: found[1],
        guessed: true,
        at: reader.at,
      };
    }
  }
  const at = reader.at;
  const name = read(reader, NAME);
  if (name === undefined) return;
  const rest = reader.at;
  space(reader);
  const next = state.source[reader.at];
  const ends =
    next === undefined ||
    string.includes('=,;', next) ||
    regExpExec(/[\n\r]/, string.slice(state.source, rest, reader.at)) !== null;
  if (ends) state.exports[state.exports.length] = { name, local: name, guessed: true, at };
}

/** Returns the position after the matching closing bracket, considering only brackets. */
function closing(source, at) {
  let depth = 0;
  for (let i = at; i < source.length; i++) {
    const sign = source[i];
    if (string.includes('([{', sign)) depth++;
    else if (string.includes(')]}', sign) && --depth === 0) return i + 1;
  }
  return source.length;
}

/** Replaces text by a semicolon and blanks; the semicolon ends the previous statement. */
function blank(state, from, to) {
  const text = string.slice(state.source, from, to);
  const blanks = string.replace(string.slice(text, 1), /[^\s]/g, ' ');
  state.edits[state.edits.length] = { from, to, text: `;${blanks}` };
  state.at = to;
  operator(state);
}

function edited(source, edits) {
  const parts = [];
  let from = 0;
  for (let i = 0; i < edits.length; i++) {
    parts[parts.length] = string.slice(source, from, edits[i].from);
    parts[parts.length] = edits[i].text;
    from = edits[i].to;
  }
  parts[parts.length] = string.slice(source, from);
  return join(parts, '');
}
