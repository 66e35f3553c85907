// `performance.timeOrigin`. The engine's own is the time of the build.

import { now } from './intrinsics.js';

const wallClock = Date.now;
let timeOrigin;

/** Returns `Date.now() - performance.now()` at the time of the first call. */
function origin() {
  timeOrigin ??= wallClock() - now();
  return timeOrigin;
}

/** Resets the origin, so that the clocks are read again in a new sandbox. */
export function forgetTimeOrigin() {
  timeOrigin = undefined;
}

export function installTimeOrigin() {
  // Defined on the object: the engine has it there, or on a prototype other than the constructor's.
  Object.defineProperty(globalThis.performance, 'timeOrigin', {
    __proto__: null,
    get: origin,
    configurable: true,
    enumerable: true,
  });
}
