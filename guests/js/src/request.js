// `Request`, as in the Fetch standard; additionally, a plain object can be a body,
// sent as JSON. (The engine's own class lacks most of it.)

import {
  define,
  freeze,
  keys,
  regExpExec,
  SafeString,
  SafeTypeError,
  string,
  toStringTag,
  uncurry,
  getOwnPropertyDescriptor,
} from './intrinsics.js';
import { createSignal, isSignal } from './abort.js';
import { cloned, extract, installBody, moved, refuseUsed } from './body.js';

const { Headers, ReadableStream, URL } = globalThis;
const hasHeader = uncurry(Headers.prototype.has);
const getHeader = uncurry(Headers.prototype.get);
const setHeader = uncurry(Headers.prototype.set);
const getter = (constructor, name) =>
  uncurry(getOwnPropertyDescriptor(constructor.prototype, name).get);
const hrefOf = getter(URL, 'href');
const protocolOf = getter(URL, 'protocol');
const usernameOf = getter(URL, 'username');
const passwordOf = getter(URL, 'password');

const NORMALIZED_METHODS = {
  __proto__: null,
  DELETE: true,
  GET: true,
  HEAD: true,
  OPTIONS: true,
  POST: true,
  PUT: true,
};
const FORBIDDEN_METHODS = { __proto__: null, CONNECT: true, TRACE: true, TRACK: true };
// A URL without @, which cannot contain a password.
const PLAIN_URL = /^https?:[^@]*$/;
const TOKEN = /^[!#$%&'*+\-.^_`|~\dA-Za-z]+$/;

// The allowed values of these members, the default first. Only `redirect` and `duplex`
// have an effect here.
const CHOICES = {
  __proto__: null,
  redirect: ['manual', 'follow', 'error'],
  duplex: ['half'],
  cache: ['default', 'no-store', 'reload', 'no-cache', 'force-cache', 'only-if-cached'],
  credentials: ['same-origin', 'include', 'omit'],
  mode: ['cors', 'no-cors', 'same-origin'],
};
const CHOICE_NAMES = keys(CHOICES);
const DEFAULT_CHOICES = { __proto__: null };
for (const name of CHOICE_NAMES) DEFAULT_CHOICES[name] = CHOICES[name][0];
freeze(DEFAULT_CHOICES);

let stateOf;
let isRequest;

class Request {
  #state;

  static {
    isRequest = (value) => typeof value === 'object' && value !== null && #state in value;
    stateOf = (request) => {
      if (!isRequest(request)) throw new SafeTypeError('this is not a Request');
      return request.#state;
    };
  }

  constructor(input, init = undefined) {
    if (arguments.length === 0)
      throw new SafeTypeError('Request: a URL or another Request is required');
    this.#state = createRequestState(input, init);
  }

  get method() {
    return stateOf(this).method;
  }

  get url() {
    return stateOf(this).url;
  }

  get headers() {
    return headersOf(stateOf(this));
  }

  get signal() {
    const state = stateOf(this);
    return (state.signal ??= createSignal());
  }

  get redirect() {
    return stateOf(this).choices.redirect;
  }

  get duplex() {
    return stateOf(this).choices.duplex;
  }

  get cache() {
    return stateOf(this).choices.cache;
  }

  get credentials() {
    return stateOf(this).choices.credentials;
  }

  get mode() {
    return stateOf(this).choices.mode;
  }

  clone() {
    const state = stateOf(this);
    refuseUsed(state.content, 'Request.clone');
    const copy = new Request(state.url);
    copy.#state = {
      ...state,
      headers: state.headers === null ? null : new Headers(state.headers),
      content: cloned(state.content, 'Request.clone'),
    };
    return copy;
  }
}

/** Creates the state of a request, for `fetch` or for a `Request`. */
export function createRequestState(input, init) {
  if (
    init !== undefined &&
    init !== null &&
    typeof init !== 'object' &&
    typeof init !== 'function'
  ) {
    throw new SafeTypeError('Request: the second argument must be an object');
  }
  const from = isRequest(input) ? stateOf(input) : null;
  if (from === null && (init === undefined || init === null)) {
    return {
      method: 'GET',
      url: absolute(input),
      headers: null,
      signal: null,
      choices: DEFAULT_CHOICES,
      content: null,
    };
  }
  init ??= {};
  const fields = init.headers ?? from?.headers;
  const state = {
    method: init.method === undefined ? (from?.method ?? 'GET') : methodName(init.method),
    url: from === null ? absolute(input) : from.url,
    // Created on demand, because most requests have none.
    headers: fields === undefined || fields === null ? null : new Headers(fields),
    signal: signalOption(init, from),
    choices: from === null ? DEFAULT_CHOICES : from.choices,
    content: null,
  };
  for (let i = 0; i < CHOICE_NAMES.length; i++) {
    const name = CHOICE_NAMES[i];
    const value = init[name];
    if (value !== undefined) state.choices = { ...state.choices, [name]: choice(name, value) };
  }
  const { body } = init;
  const sends = body !== undefined && body !== null;
  const inherited = sends || from === null ? null : from.content;
  if ((sends || inherited !== null) && (state.method === 'GET' || state.method === 'HEAD')) {
    throw new SafeTypeError(`Request: a ${state.method} request cannot have a body`);
  }
  if (!sends) {
    state.content = moved(inherited, 'Request');
    return state;
  }
  if (body instanceof ReadableStream && init.duplex === undefined) {
    throw new SafeTypeError("Request: a stream body requires the option `duplex: 'half'`");
  }
  const { content, type } = extract(body);
  state.content = content;
  if (type !== null && !hasHeader(headersOf(state), 'content-type'))
    setHeader(state.headers, 'content-type', type);
  return state;
}

function headersOf(state) {
  return (state.headers ??= new Headers());
}

function absolute(input) {
  let url;
  try {
    url = new URL(SafeString(input));
  } catch {
    throw new SafeTypeError(`Request: ${SafeString(input)} is not an absolute URL`);
  }
  const href = hrefOf(url);
  if (regExpExec(PLAIN_URL, href) !== null) return href;
  if (usernameOf(url) !== '' || passwordOf(url) !== '') {
    throw new SafeTypeError(
      'Request: a URL with a user name or password is not allowed; use an authorization header',
    );
  }
  const protocol = protocolOf(url);
  if (protocol !== 'http:' && protocol !== 'https:') {
    throw new SafeTypeError(
      `Request: the URL must start with http: or https:, not with ${protocol}`,
    );
  }
  return href;
}

function methodName(value) {
  const text = SafeString(value);
  const upper = string.toUpperCase(text);
  if (FORBIDDEN_METHODS[upper] || regExpExec(TOKEN, text) === null) {
    throw new SafeTypeError(
      `Request: ${text === '' ? 'an empty string' : text} is not a valid method`,
    );
  }
  return NORMALIZED_METHODS[upper] ? upper : text;
}

function signalOption(init, from) {
  const { signal } = init;
  if (signal === undefined) return from === null ? null : from.signal;
  if (signal !== null && !isSignal(signal)) {
    throw new SafeTypeError('Request: the signal must be an AbortSignal');
  }
  return signal;
}

function choice(name, value) {
  const allowed = CHOICES[name];
  const text = SafeString(value);
  for (let i = 0; i < allowed.length; i++) if (allowed[i] === text) return text;
  throw new SafeTypeError(`Request: ${text} is not a valid value of ${name}`);
}

export function installRequest(global) {
  installBody(
    Request,
    (request) => stateOf(request).content,
    (request) => getHeader(headersOf(stateOf(request)), 'content-type'),
  );
  define(Request.prototype, toStringTag, 'Request', false);
  define(global, 'Request', Request, false);
}
