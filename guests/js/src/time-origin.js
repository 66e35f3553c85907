// `performance.timeOrigin`: the engine's is that of the build.

import { now } from './intrinsics.js';

const wallClock = Date.now;
let timeOrigin;

/** What `Date.now() - performance.now()` is, from the first reading on. */
function origin() {
  timeOrigin ??= wallClock() - now();
  return timeOrigin;
}

/** Reads the clocks anew: this is another sandbox now. */
export function forgetTimeOrigin() {
  timeOrigin = undefined;
}

export function installTimeOrigin() {
  const { prototype } = globalThis.performance.constructor;
  Object.defineProperty(prototype, 'timeOrigin', {
    __proto__: null,
    get: { get timeOrigin() { return origin(); } }.__lookupGetter__('timeOrigin'),
    configurable: true,
    enumerable: true,
  });
}
