// The kinds of failure of the errors that the runner itself created, for the case
// that user code does not catch them.

import { apply } from './intrinsics.js';

const kinds = new WeakMap();
const { get, set } = WeakMap.prototype;

/** Marks an error as one of the contract's kinds of failure; returns it. */
export function ofKind(kind, error) {
  apply(set, kinds, [error, kind]);
  return error;
}

/** Returns the kind of an error that the runner created, or undefined. */
export function markedKind(error) {
  return apply(get, kinds, [error]);
}
