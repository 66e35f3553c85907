// `Response`, as in the Fetch standard; additionally, a plain object can be a body,
// sent as JSON. (The engine's own class cannot be cloned, for example.)

import {
  define,
  freeze,
  getOwnPropertyDescriptor,
  regExpExec,
  SafeNumber,
  SafeRangeError,
  SafeString,
  SafeTypeError,
  toStringTag,
  uncurry,
} from './intrinsics.js';
import { cloned, extract, installBody } from './body.js';
import { toJson } from './values.js';

const { Headers, URL } = globalThis;
const hasHeader = uncurry(Headers.prototype.has);
const getHeader = uncurry(Headers.prototype.get);
const setHeader = uncurry(Headers.prototype.set);
const hrefOf = uncurry(getOwnPropertyDescriptor(URL.prototype, 'href').get);

/** The status codes of responses without a body. */
const BODILESS = { __proto__: null, 101: true, 103: true, 204: true, 205: true, 304: true };
const REDIRECTS = { __proto__: null, 301: true, 302: true, 303: true, 307: true, 308: true };

export const isBodiless = (status) => BODILESS[status] === true;
export const isRedirect = (status) => REDIRECTS[status] === true;

// Passed to the constructor to mark its first argument as the state.
const FROM_STATE = {};

let stateOf;
let make;

class Response {
  #state;

  static {
    stateOf = (response) => {
      if (typeof response !== 'object' || response === null || !(#state in response)) {
        throw new SafeTypeError('this is not a Response');
      }
      return response.#state;
    };
    make = (state) => new Response(state, FROM_STATE);
  }

  constructor(body = null, init = undefined) {
    if (init === FROM_STATE) {
      this.#state = body;
      return;
    }
    if (
      init !== undefined &&
      init !== null &&
      typeof init !== 'object' &&
      typeof init !== 'function'
    ) {
      throw new SafeTypeError('Response: the second argument must be an object');
    }
    const state = initialState(init ?? {});
    const { content, type } = extract(body);
    if (content !== null && isBodiless(state.status)) {
      throw new SafeTypeError(
        `Response: a response with status ${state.status} cannot have a body`,
      );
    }
    if (type !== null && !hasHeader(state.headers, 'content-type'))
      setHeader(state.headers, 'content-type', type);
    state.content = content;
    this.#state = state;
  }

  static json(data, init = undefined) {
    const response = new Response(toJson(data), init);
    if (!init?.headers || !hasHeader(new Headers(init.headers), 'content-type')) {
      setHeader(stateOf(response).headers, 'content-type', 'application/json');
    }
    return response;
  }

  static redirect(url, status = 302) {
    const code = SafeNumber(status);
    let location;
    try {
      location = hrefOf(new URL(SafeString(url)));
    } catch {
      throw new SafeTypeError(`Response.redirect: ${SafeString(url)} is not an absolute URL`);
    }
    if (!isRedirect(code))
      throw new SafeRangeError(`Response.redirect: ${code} is not the status of a redirect`);
    return new Response(null, { status: code, headers: { location } });
  }

  static error() {
    return make({ ...initialState({}), status: 0, type: 'error' });
  }

  get status() {
    return stateOf(this).status;
  }

  get statusText() {
    return stateOf(this).statusText;
  }

  get ok() {
    const { status } = stateOf(this);
    return status >= 200 && status <= 299;
  }

  get headers() {
    return headersOf(stateOf(this));
  }

  get url() {
    return stateOf(this).url;
  }

  get redirected() {
    return stateOf(this).redirected;
  }

  get type() {
    return stateOf(this).type;
  }

  clone() {
    const state = stateOf(this);
    return make({
      ...state,
      headers: new Headers(headersOf(state)),
      content: cloned(state.content, 'Response.clone'),
    });
  }
}

function initialState({ status = 200, statusText = '', headers = undefined }) {
  const code = SafeNumber(status);
  if (!(code >= 200 && code <= 599) || code % 1 !== 0) {
    throw new SafeRangeError(
      `Response: the status ${SafeString(status)} is not between 200 and 599`,
    );
  }
  const text = SafeString(statusText);
  if (regExpExec(/[^\t\x20-\x7e\x80-\xff]/, text) !== null) {
    throw new SafeTypeError('Response: the status text contains characters that cannot be sent');
  }
  return {
    status: code,
    statusText: text,
    headers: headers === undefined ? new Headers() : new Headers(headers),
    url: '',
    redirected: false,
    type: 'default',
    content: null,
  };
}

/** Creates a response from the host. Its `Headers` are created on first use. */
export function received({ status, fields, url, redirected, content }) {
  return make({
    status,
    statusText: REASONS[status] ?? '',
    headers: null,
    fields,
    url,
    redirected,
    type: 'basic',
    content,
  });
}

function headersOf(state) {
  return (state.headers ??= new Headers(state.fields));
}

// HTTP/2 has no reason phrases, and the contract carries none.
const REASONS = { __proto__: null };
const PHRASES = `100 Continue|101 Switching Protocols|102 Processing|103 Early Hints|200 OK|201 Created|202 Accepted|
203 Non-Authoritative Information|204 No Content|205 Reset Content|206 Partial Content|207 Multi-Status|
208 Already Reported|226 IM Used|300 Multiple Choices|301 Moved Permanently|302 Found|303 See Other|
304 Not Modified|305 Use Proxy|307 Temporary Redirect|308 Permanent Redirect|400 Bad Request|401 Unauthorized|
402 Payment Required|403 Forbidden|404 Not Found|405 Method Not Allowed|406 Not Acceptable|
407 Proxy Authentication Required|408 Request Timeout|409 Conflict|410 Gone|411 Length Required|
412 Precondition Failed|413 Content Too Large|414 URI Too Long|415 Unsupported Media Type|
416 Range Not Satisfiable|417 Expectation Failed|421 Misdirected Request|422 Unprocessable Content|423 Locked|
424 Failed Dependency|425 Too Early|426 Upgrade Required|428 Precondition Required|429 Too Many Requests|
431 Request Header Fields Too Large|451 Unavailable For Legal Reasons|500 Internal Server Error|
501 Not Implemented|502 Bad Gateway|503 Service Unavailable|504 Gateway Timeout|505 HTTP Version Not Supported|
506 Variant Also Negotiates|507 Insufficient Storage|508 Loop Detected|511 Network Authentication Required`;
for (const phrase of PHRASES.split('|')) {
  const [, code, reason] = /(\d+) (.*)/.exec(phrase);
  REASONS[code] = reason;
}
freeze(REASONS);

export function installResponse(global) {
  installBody(
    Response,
    (response) => stateOf(response).content,
    (response) => getHeader(headersOf(stateOf(response)), 'content-type'),
  );
  define(Response.prototype, toStringTag, 'Response', false);
  define(global, 'Response', Response, false);
}
