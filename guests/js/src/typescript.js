// Removes the types of a TypeScript source with the parser and transformer of
// sucrase, which the build adds to the runner. Removed tokens are replaced by
// blanks, so lines and columns do not change (except for enums and parameter
// properties, which become code in their own lines).
//
// It runs in the guest and not in the host, because a TypeScript parser has to
// backtrack, and two hundred bytes of a hostile source can keep one busy for years.
// Here that takes the guest's own CPU time.

import { string } from './intrinsics.js';
import { locateSyntaxError } from './failures.js';
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

/** Returns the source as JavaScript, with the same lines. */
export function eraseTypes(source, label) {
  let file;
  try {
    file = parse(source, false, true, false);
  } catch (error) {
    // The parser's messages have the form `text (line:column)`.
    const parts = /^(?:Error: )?(.*?) \((\d+):(\d+)\)$/s.exec(error.message);
    if (parts === null) throw error;
    const syntax = new SyntaxError(
      string.replace(parts[1], /^Unexpected token, /, 'unexpected token, '),
    );
    locateSyntaxError(syntax, `${label}:${parts[2]}:${parts[3]}`);
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
