// `AbortSignal.timeout`, over the runner's timers: the engine's own timer would
// stay open when the call ends.

import { define } from './intrinsics.js';
import { setTimeout } from './timers.js';

const { AbortController, AbortSignal, DOMException } = globalThis;

function timeout(milliseconds) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(new DOMException('the time is over', 'TimeoutError')), milliseconds);
  return controller.signal;
}

export function installAbort() {
  define(AbortSignal, 'timeout', timeout, true);
}
