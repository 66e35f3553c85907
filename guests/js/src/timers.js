// setTimeout, setInterval and their clear functions, driven by the pump: pending
// timers are dropped when their call ends, and a callback that throws fails the call,
// as does one of queueMicrotask.

import { apply, define, microtask, now, SafeNumber, safeMap, SafeTypeError } from './intrinsics.js';
import * as loop from './loop.js';

const MAX_DELAY_MS = 2 ** 31 - 1;
// By the HTML standard, timers beyond this nesting level have a minimum delay of 4 ms.
const NESTING_LIMIT = 5;
const MIN_NESTED_DELAY_MS = 4;

const active = safeMap();
let lastId = 0;
let nesting = 0;

// A binary heap with the earliest deadline first; equal deadlines are in the order of
// their creation. Cancelled entries remain until they are reached.
let heap = [];

function before(a, b) {
  return a.deadline < b.deadline || (a.deadline === b.deadline && a.order < b.order);
}

function push(entry) {
  let i = heap.length;
  while (i > 0) {
    const parent = (i - 1) >> 1;
    if (!before(entry, heap[parent])) break;
    heap[i] = heap[parent];
    i = parent;
  }
  heap[i] = entry;
}

function pop() {
  const first = heap[0];
  const size = heap.length - 1;
  const last = heap[size];
  heap.length = size;
  if (size > 0) {
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= size) break;
      if (child + 1 < size && before(heap[child + 1], heap[child])) child++;
      if (!before(heap[child], last)) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = last;
  }
  return first;
}

let orders = 0;

function schedule(timer) {
  let delay = timer.delay;
  if (timer.nesting > NESTING_LIMIT && delay < MIN_NESTED_DELAY_MS) delay = MIN_NESTED_DELAY_MS;
  timer.deadline = now() + delay;
  timer.order = ++orders;
  push(timer);
  loop.arm();
}

function set(what, callback, delay, args, repeats) {
  if (typeof callback !== 'function') {
    throw new SafeTypeError(`${what}: the callback must be a function`);
  }
  let ms = SafeNumber(delay);
  if (!(ms >= 0)) ms = 0;
  if (ms > MAX_DELAY_MS) ms = 1;
  const id = ++lastId;
  if (!loop.isRunning()) return id;
  const timer = {
    id,
    callback,
    args,
    delay: ms,
    repeats,
    nesting: nesting + 1,
    deadline: 0,
    order: 0,
  };
  active.set(id, timer);
  schedule(timer);
  return id;
}

function clear(id) {
  // Timeouts and intervals share their ids, as in browsers.
  if (active.delete(SafeNumber(id)) && active.size === 0) heap = [];
}

const functions = {
  queueMicrotask,
  setTimeout(callback, delay = 0, ...args) {
    return set('setTimeout', callback, delay, args, false);
  },
  setInterval(callback, delay = 0, ...args) {
    return set('setInterval', callback, delay, args, true);
  },
  clearTimeout(id) {
    clear(id);
  },
  clearInterval(id) {
    clear(id);
  },
};

/** Implements `queueMicrotask`; an uncaught error of the callback fails the call. */
function queueMicrotask(callback) {
  if (typeof callback !== 'function')
    throw new SafeTypeError('queueMicrotask: the callback must be a function');
  microtask(() => {
    try {
      callback();
    } catch (error) {
      loop.uncaught(error);
    }
  });
}

function nextDeadline() {
  while (heap.length > 0) {
    if (active.has(heap[0].id)) return heap[0].deadline;
    pop();
  }
  return Infinity;
}

/** Runs the earliest timer if it is due. Only one, since microtasks run between two. */
function runDue() {
  if (nextDeadline() > now()) return false;
  const timer = pop();
  if (!timer.repeats) active.delete(timer.id);
  nesting = timer.nesting;
  try {
    apply(timer.callback, undefined, timer.args);
  } finally {
    nesting = 0;
    if (timer.repeats && active.has(timer.id)) {
      timer.nesting++;
      schedule(timer);
    }
  }
  return true;
}

function drop() {
  if (heap.length === 0) return;
  active.clear();
  heap = [];
}

loop.serve({ timers: { nextDeadline, runDue, drop } });

export const { setTimeout } = functions;

export function installTimers(global) {
  for (const name in functions) define(global, name, functions[name], true);
}
