// `AbortController` and `AbortSignal`, as in the DOM standard. (The engine's
// own lose reasons, and their timer would remain open when the call ends.)

import { define, iterator, SafeNumber, SafeTypeError, toStringTag } from './intrinsics.js';
import { dispatch, Event, EventTarget, listen, notify } from './events.js';
import { setTimeout } from './timers.js';

const { DOMException } = globalThis;
const MAX_TIMEOUT_MS = Number.MAX_SAFE_INTEGER;

let allowed = false;
let isAborted;
let reasonOf;
let signalAbort;

class AbortSignal extends EventTarget {
  #aborted = false;
  #reason = undefined;
  #handler = null;

  static {
    isAborted = (signal) => signal.#aborted;
    reasonOf = (signal) => signal.#reason;
    signalAbort = (signal, reason) => {
      if (signal.#aborted) return;
      signal.#aborted = true;
      signal.#reason =
        reason === undefined
          ? new DOMException('This operation was aborted', 'AbortError')
          : reason;
      const event = new Event('abort');
      dispatch(signal, event);
      if (typeof signal.#handler === 'function') notify(signal, signal.#handler, event);
    };
  }

  constructor() {
    if (!allowed) throw new SafeTypeError('AbortSignal: use an AbortController');
    super();
    allowed = false;
  }

  static abort(reason = undefined) {
    const signal = createSignal();
    signalAbort(signal, reason);
    return signal;
  }

  static timeout(milliseconds) {
    const delay = SafeNumber(milliseconds);
    if (!(delay >= 0 && delay <= MAX_TIMEOUT_MS)) {
      throw new SafeTypeError(
        'AbortSignal.timeout: the time must be a non-negative number of milliseconds',
      );
    }
    const signal = createSignal();
    setTimeout(
      () => signalAbort(signal, new DOMException('the operation timed out', 'TimeoutError')),
      delay,
    );
    return signal;
  }

  static any(signals) {
    if (typeof signals?.[iterator] !== 'function') {
      throw new SafeTypeError('AbortSignal.any: the argument must be an iterable of signals');
    }
    const list = [];
    for (const signal of signals) {
      if (!isSignal(signal))
        throw new SafeTypeError('AbortSignal.any: each item must be an AbortSignal');
      list[list.length] = signal;
    }
    const any = createSignal();
    for (let i = 0; i < list.length && !any.#aborted; i++) {
      const source = list[i];
      if (source.#aborted) signalAbort(any, source.#reason);
      else listen(source, 'abort', () => signalAbort(any, source.#reason));
    }
    return any;
  }

  get aborted() {
    return this.#aborted;
  }

  get reason() {
    return this.#reason;
  }

  get onabort() {
    return this.#handler;
  }

  set onabort(handler) {
    this.#handler = typeof handler === 'function' ? handler : null;
  }

  throwIfAborted() {
    if (this.#aborted) throw this.#reason;
  }
}

export function createSignal() {
  allowed = true;
  return new AbortSignal();
}

class AbortController {
  #signal = createSignal();

  get signal() {
    return this.#signal;
  }

  abort(reason = undefined) {
    signalAbort(this.#signal, reason);
  }
}

export function isSignal(value) {
  return value instanceof AbortSignal;
}

export { isAborted, reasonOf };

export function installAbort(global) {
  const classes = { AbortController, AbortSignal };
  for (const name in classes) {
    define(classes[name].prototype, toStringTag, name, false);
    define(global, name, classes[name], false);
  }
}
