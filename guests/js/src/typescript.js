// Removes the types of a TypeScript source, by the parser and transformer of
// sucrase, which the build puts beside the runner. Every token that goes leaves
// blanks behind, so lines and columns stay as they are (but for enums and
// parameter properties, which become code in their own lines).
//
// It runs in the guest, and not in the host: a parser of TypeScript has to go
// back and try again, and two hundred bytes of a hostile source can keep one
// busy for years. Here that costs the guest's own CPU time.

import { string } from './intrinsics.js';
import { placeSyntaxError } from './failures.js';
import { HelperManager } from './sucrase/HelperManager.js';
import NameManager from './sucrase/NameManager.js';
import TokenProcessor from './sucrase/TokenProcessor.js';
import identifyShadowedGlobals from './sucrase/identifyShadowedGlobals.js';
import { parse } from './sucrase/parser/index.js';
import RootTransformer from './sucrase/transformers/RootTransformer.js';
import getTSImportedNames from './sucrase/util/getTSImportedNames.js';

const OPTIONS = { transforms: ['typescript'], disableESTransforms: true };

const blanks = (text) => string.replace(text, /[^\r\n\u2028\u2029]/g, ' ');

class Blanker extends TokenProcessor {
  removeInitialToken() {
    this.resultCode += this.previousWhitespaceAndComments();
    this.#blank();
  }

  removeToken() {
    this.resultCode += blanks(this.previousWhitespaceAndComments());
    this.#blank();
  }

  #blank() {
    this.resultMappings[this.tokenIndex] = this.resultCode.length;
    this.resultCode += blanks(this.currentTokenCode());
    this.tokenIndex++;
  }
}

/** JavaScript, in the same lines. */
export function eraseTypes(source, label) {
  let file;
  try {
    file = parse(source, false, true, false);
  } catch (error) {
    // The parser says `text (line:column)`.
    const place = /^(?:Error: )?(.*?) \((\d+):(\d+)\)$/s.exec(error.message);
    if (place === null) throw error;
    const syntax = new SyntaxError(string.replace(place[1], /^Unexpected token, /, 'unexpected token, '));
    placeSyntaxError(syntax, `${label}:${place[2]}:${place[3]}`);
    throw syntax;
  }
  const { tokens, scopes } = file;
  const nameManager = new NameManager(source, tokens);
  const helperManager = new HelperManager(nameManager);
  const tokenProcessor = new Blanker(source, tokens, false, true, helperManager);
  identifyShadowedGlobals(tokenProcessor, scopes, getTSImportedNames(tokenProcessor));
  const context = { tokenProcessor, scopes, nameManager, importProcessor: null, helperManager };
  return new RootTransformer(context, OPTIONS.transforms, false, OPTIONS).transform().code;
}
