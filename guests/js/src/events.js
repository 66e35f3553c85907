// `Event`, `CustomEvent` and `EventTarget`, as in the DOM standard without a
// tree. (In the engine's own, a listener that throws terminates the guest.) An
// uncaught error of a listener fails the call, as one of a timer does.

import { apply, define, now, SafeString, SafeTypeError, toStringTag } from './intrinsics.js';
import * as loop from './loop.js';

let begin;
let end;
let isStopped;

export class Event {
  #type;
  #bubbles;
  #cancelable;
  #composed;
  #target = null;
  #dispatching = false;
  #prevented = false;
  #stopped = false;
  #time = now();

  static {
    begin = (event, target) => {
      if (event.#dispatching) return false;
      event.#target = target;
      event.#dispatching = true;
      event.#stopped = false;
      return true;
    };
    end = (event) => {
      event.#dispatching = false;
      return !event.#prevented;
    };
    isStopped = (event) => event.#stopped;
  }

  constructor(type, options = undefined) {
    if (arguments.length === 0) throw new SafeTypeError('Event: a type is required');
    this.#type = SafeString(type);
    this.#bubbles = Boolean(options?.bubbles);
    this.#cancelable = Boolean(options?.cancelable);
    this.#composed = Boolean(options?.composed);
  }

  get type() {
    return this.#type;
  }

  get target() {
    return this.#target;
  }

  get srcElement() {
    return this.#target;
  }

  get currentTarget() {
    return this.#dispatching ? this.#target : null;
  }

  get eventPhase() {
    return this.#dispatching ? 2 : 0;
  }

  get bubbles() {
    return this.#bubbles;
  }

  get cancelable() {
    return this.#cancelable;
  }

  get composed() {
    return this.#composed;
  }

  get defaultPrevented() {
    return this.#prevented;
  }

  get isTrusted() {
    return false;
  }

  get timeStamp() {
    return this.#time;
  }

  preventDefault() {
    if (this.#cancelable) this.#prevented = true;
  }

  stopPropagation() {}

  stopImmediatePropagation() {
    this.#stopped = true;
  }

  composedPath() {
    return this.#dispatching ? [this.#target] : [];
  }
}

export class CustomEvent extends Event {
  #detail;

  constructor(type, options = undefined) {
    super(type, options);
    this.#detail = options?.detail ?? null;
  }

  get detail() {
    return this.#detail;
  }
}

let dispatch;
let add;
let remove;

export class EventTarget {
  // { type, callback, capture, once, removed }, in the order in which they were added.
  #listeners = [];

  static {
    add = (target, type, callback, capture, once) => {
      const list = target.#listeners;
      for (let i = 0; i < list.length; i++) if (matches(list[i], type, callback, capture)) return;
      list[list.length] = { type, callback, capture, once, removed: false };
    };
    remove = (target, type, callback, capture) => {
      const kept = [];
      for (let i = 0; i < target.#listeners.length; i++) {
        const listener = target.#listeners[i];
        if (matches(listener, type, callback, capture)) listener.removed = true;
        else kept[kept.length] = listener;
      }
      target.#listeners = kept;
    };
    dispatch = (target, event) => {
      if (!begin(event, target))
        throw new SafeTypeError('dispatchEvent: the event is being dispatched already');
      const list = target.#listeners;
      // Listeners that are added during the dispatch are called for the next event.
      for (let i = 0, { length } = list; i < length; i++) {
        const { type, callback, capture, once, removed } = list[i];
        if (removed || type !== event.type) continue;
        if (once) remove(target, type, callback, capture);
        notify(target, callback, event);
        if (isStopped(event)) break;
      }
      return end(event);
    };
  }

  addEventListener(type, callback, options = undefined) {
    if (callback === null || callback === undefined) return;
    if (typeof callback !== 'function' && typeof callback !== 'object') {
      throw new SafeTypeError('addEventListener: the listener must be a function or an object');
    }
    const signal = options?.signal;
    if (signal?.aborted) return;
    const capture = captures(options);
    add(
      this,
      SafeString(type),
      callback,
      capture,
      typeof options === 'object' && Boolean(options?.once),
    );
    if (signal) listen(signal, 'abort', () => remove(this, SafeString(type), callback, capture));
  }

  removeEventListener(type, callback, options = undefined) {
    remove(this, SafeString(type), callback, captures(options));
  }

  dispatchEvent(event) {
    if (!(event instanceof Event))
      throw new SafeTypeError('dispatchEvent: the argument must be an Event');
    return dispatch(this, event);
  }
}

function captures(options) {
  return Boolean(typeof options === 'object' && options !== null ? options.capture : options);
}

function matches(listener, type, callback, capture) {
  return listener.type === type && listener.callback === callback && listener.capture === capture;
}

function notify(target, callback, event) {
  try {
    if (typeof callback === 'function') apply(callback, target, [event]);
    else callback.handleEvent(event);
  } catch (error) {
    loop.uncaught(error);
  }
}

/** Functions for the runner itself, which scripts cannot replace. */
export const listen = (target, type, callback) => add(target, type, callback, false, true);
export const unlisten = (target, type, callback) => remove(target, type, callback, false);
export { dispatch, notify };

export function installEvents(global) {
  const classes = { Event, CustomEvent, EventTarget };
  for (const name in classes) {
    define(classes[name].prototype, toStringTag, name, false);
    define(global, name, classes[name], false);
  }
}
