// `MessageChannel`, `MessagePort` and `MessageEvent`. A message is delivered by a timer
// without delay, so it belongs to the call that sent it. A port can be transferred only
// as a port of the event, since the engine cannot clone one inside of a value.

import { dispatch, Event, EventTarget } from './events.js';
import { apply, isArray, SafeString, SafeTypeError } from './intrinsics.js';
import { dictionary, install } from './web-idl.js';

const { freeze } = Object;

class MessageEvent extends Event {
  #data;
  #origin;
  #lastEventId;
  #source;
  #ports;

  constructor(type, options = undefined) {
    super(type, options);
    const given = dictionary(options, 'MessageEvent');
    this.#data = given.data === undefined ? null : given.data;
    this.#origin = given.origin === undefined ? '' : SafeString(given.origin);
    this.#lastEventId = given.lastEventId === undefined ? '' : SafeString(given.lastEventId);
    this.#source = given.source ?? null;
    this.#ports = given.ports === undefined ? freeze([]) : freeze(given.ports);
  }

  get data() {
    return this.#data;
  }
  get origin() {
    return this.#origin;
  }
  get lastEventId() {
    return this.#lastEventId;
  }
  get source() {
    return this.#source;
  }
  get ports() {
    return this.#ports;
  }
}

let clone;
let later;
// Links two ports; only this module can create them.
let entangle;
const KEY = {};

class MessagePort extends EventTarget {
  #other = null;
  #queue = [];
  #started = false;
  #handler = null;

  static {
    entangle = (a, b) => {
      a.#other = b;
      b.#other = a;
    };
  }

  constructor(key) {
    if (key !== KEY) throw new SafeTypeError('Illegal constructor');
    super();
  }

  postMessage(message, options = undefined) {
    const transfer = (isArray(options) ? options : options?.transfer) ?? [];
    const ports = [];
    const others = [];
    for (let i = 0; i < transfer.length; i++) {
      if (transfer[i] instanceof MessagePort) ports[ports.length] = transfer[i];
      else others[others.length] = transfer[i];
    }
    const data = apply(clone, undefined, [message, { transfer: others }]);
    const other = this.#other;
    if (other !== null) other.#receive(data, ports);
  }

  #receive(data, ports) {
    this.#queue[this.#queue.length] = { data, ports };
    if (this.#started) this.#schedule();
  }

  #schedule() {
    apply(later, undefined, [() => this.#deliver(), 0]);
  }

  #deliver() {
    if (this.#queue.length === 0 || !this.#started) return;
    const { data, ports } = this.#queue[0];
    // Without `shift`, which a script may replace.
    for (let i = 1; i < this.#queue.length; i++) this.#queue[i - 1] = this.#queue[i];
    this.#queue.length--;
    const event = new MessageEvent('message', { data, ports });
    if (typeof this.#handler === 'function') {
      const handler = this.#handler;
      dispatch(this, event);
      apply(handler, this, [event]);
    } else dispatch(this, event);
  }

  start() {
    if (this.#started) return;
    this.#started = true;
    for (let i = 0; i < this.#queue.length; i++) this.#schedule();
  }

  close() {
    const other = this.#other;
    this.#other = null;
    this.#started = false;
    this.#queue = [];
    if (other !== null) other.#other = null;
  }

  get onmessage() {
    return this.#handler;
  }
  set onmessage(handler) {
    this.#handler = typeof handler === 'function' ? handler : null;
    this.start();
  }
}

class MessageChannel {
  #port1 = new MessagePort(KEY);
  #port2 = new MessagePort(KEY);

  constructor() {
    entangle(this.#port1, this.#port2);
  }

  get port1() {
    return this.#port1;
  }
  get port2() {
    return this.#port2;
  }
}

/** Called when `structuredClone` and the timers are installed. */
export function installMessages(global) {
  clone = global.structuredClone;
  later = global.setTimeout;
  install(global, MessageEvent, ['data', 'origin', 'lastEventId', 'source', 'ports']);
  install(global, MessagePort, ['postMessage', 'start', 'close', 'onmessage']);
  install(global, MessageChannel, ['port1', 'port2']);
}
