// Missing features of the engine's `URL` and related classes.

import { define, SafeString, toStringTag } from './intrinsics.js';

const { Headers, ReadableStream, URL, URLSearchParams } = globalThis;

function parse(url, base = undefined) {
  try {
    return base === undefined
      ? new URL(SafeString(url))
      : new URL(SafeString(url), SafeString(base));
  } catch {
    return null;
  }
}

export function installUrl() {
  define(URL, 'parse', (url, base) => parse(url, base), true);
  define(URL, 'canParse', (url, base) => parse(url, base) !== null, true);
  // Sets the string tags of these classes.
  const classes = { Headers, ReadableStream, URL, URLSearchParams };
  for (const name in classes) define(classes[name].prototype, toStringTag, name, false);
}
