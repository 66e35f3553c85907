// What few programs use, in the form that costs least until then: text. The engine's
// memory is the initial memory of each sandbox, and the text of a comment takes its
// length there; a string takes several times as much, and compiled code more than that.
// `build.mjs` makes a function of each text, with the text as its only comment.

import { evaluate, string, uncurry } from './intrinsics.js';

const sourceOf = uncurry(Function.prototype.toString);

let holders;

/** Sets the functions with the texts. */
export function useTexts(functions) {
  holders = functions;
}

/** Returns the text of that name. */
export function lazyText(name) {
  const source = sourceOf(holders[name]);
  const text = string.slice(
    source,
    string.indexOf(source, '/*') + 2,
    string.lastIndexOf(source, '*/'),
  );
  // A text cannot have the end of a comment.
  return string.includes(text, '*\x01/') ? string.replaceAll(text, '*\x01/', '*/') : text;
}

/** Evaluates the bundle of that name and returns its exports. */
export function lazyBundle(name) {
  return evaluate(`${lazyText(name)}\n//# sourceURL=isola:guest/${name}.js`);
}

let unicode;

/** Returns the functions that need the Unicode data. */
export function unicodeFunctions() {
  if (unicode === undefined) {
    const loaded = lazyBundle('unicode');
    loaded.useTable(lazyText('unicodeData'));
    unicode = loaded;
  }
  return unicode;
}
