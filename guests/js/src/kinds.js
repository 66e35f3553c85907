// Which errors the runner itself made, and the kind of failure that each is
// if no user code catches it.

import { apply } from './intrinsics.js';

const kinds = new WeakMap();
const { get, set } = WeakMap.prototype;

/** Marks an error as one of the contract's kinds of failure; returns it. */
export function ofKind(kind, error) {
  apply(set, kinds, [error, kind]);
  return error;
}

/** The kind of an error that the runner made, or undefined. */
export function markedKind(error) {
  return apply(get, kinds, [error]);
}
