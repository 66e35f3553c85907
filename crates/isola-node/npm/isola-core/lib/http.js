'use strict';

// HTTP requests of a guest: to Node's own `fetch`, or to a function of the
// user. Bodies are streams both ways; a guest that waits for nothing more ends
// its request wherever it is.

const { invalid } = require('./errors');
const { shown } = require('./args');
const { messageOf } = require('./hostcalls');

// A body that a guest sends in pieces could be endless.
const MAX_BUFFERED = 64 * 1024 * 1024;

/**
 * The callback of the native part for this handler. It never throws: what goes
 * wrong fails that one request.
 *
 * @param {true | Function} http
 * @param {'buffer' | 'stream'} requestBody
 */
function answerRequests(http, requestBody) {
  const handler = http === true ? bridge : http;
  const streams = http === true || requestBody === 'stream';
  return async (method, url, fields, exchange) => {
    const gone = new AbortController();
    exchange.gone().then(() => gone.abort());
    let body = null;
    try {
      if (exchange.hasBody) {
        // What the guest sent whole has a length, which a stream would lose.
        const whole = !streams || (http === true && exchange.isWhole);
        body = whole ? await collect(exchange) : stream(exchange);
      }
      const headerList = pairs(fields);
      const request = { method, url, headers: joined(headerList), body, headerList };
      // Not listed: it would be in the way of whoever prints or copies a request.
      Object.defineProperty(request, 'signal', { value: gone.signal });
      const response = prepare(await handler(request));
      const { status, headers, whole, pieces } = response;
      const refused = exchange.respond(status, headers, whole, pieces !== undefined);
      if (refused == null && pieces !== undefined) await send(pieces, exchange, gone.signal);
      else if (pieces !== undefined) await pieces.cancel();
    } catch (error) {
      await exchange.fail(messageOf(error));
    }
    // Nobody has begun to read it, so nobody will.
    if (body instanceof ReadableStream && !body.locked) await exchange.discard();
  };
}

/** Passes a request on to Node's `fetch`. */
async function bridge({ method, url, headerList, body, signal }) {
  const init = { method, headers: headerList, redirect: 'manual', signal };
  if (body !== null) Object.assign(init, { body, duplex: 'half' });
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    // "fetch failed" alone helps nobody; what is in the cause is the machine's.
    const reason = error.cause?.code ?? error.cause?.message;
    throw new Error(reason === undefined ? error.message : `${error.message}: ${reason}`);
  }
  // `fetch` has decoded the body: its length and coding are no longer true.
  const decoded = response.headers.has('content-encoding') && response.body !== null;
  const left = decoded ? ['content-encoding', 'content-length'] : [];
  const headers = [...response.headers].filter(([name]) => !left.includes(name));
  return { status: response.status, headers, body: response.body };
}

async function collect(exchange) {
  const pieces = [];
  let length = 0;
  for (;;) {
    const piece = await read(exchange);
    if (piece === null) return Buffer.concat(pieces, length);
    length += piece.length;
    if (length > MAX_BUFFERED) {
      throw invalid(`the request's body is longer than ${MAX_BUFFERED} bytes`);
    }
    pieces.push(piece);
  }
}

function stream(exchange) {
  return new ReadableStream(
    {
      async pull(controller) {
        const piece = await read(exchange);
        if (piece === null) controller.close();
        else controller.enqueue(new Uint8Array(piece.buffer, piece.byteOffset, piece.length));
      },
      cancel: () => exchange.discard(),
    },
    // Nothing is taken from the guest before somebody wants it.
    { highWaterMark: 0 },
  );
}

async function read(exchange) {
  const piece = await exchange.read();
  if (piece === null || piece instanceof Uint8Array) return piece;
  throw new Error(piece.message);
}

/** Checks a handler's response. */
function prepare(response) {
  if (typeof response !== 'object' || response === null) {
    throw invalid(`the HTTP handler returned ${shown(response)}, and not { status, headers, body }`);
  }
  const { status, headers, body } = response;
  if (!Number.isInteger(status) || status < 100 || status > 999) {
    throw invalid(`the HTTP handler's status is ${shown(status)}, and not a number from 100 to 999`);
  }
  const prepared = { status, headers: flattened(headers) };
  if (body === undefined || body === null) return prepared;
  if (body instanceof Uint8Array) {
    prepared.whole = Buffer.from(body.buffer, body.byteOffset, body.length);
  } else if (body instanceof ReadableStream) {
    prepared.pieces = fromReader(body.getReader());
  } else if (typeof body[Symbol.asyncIterator] === 'function') {
    prepared.pieces = fromIterator(body[Symbol.asyncIterator]());
  } else {
    throw invalid(
      "the HTTP handler's body should be a Buffer, a stream of Buffers, null or left out, " +
        `and not ${shown(body)}`,
    );
  }
  return prepared;
}

function fromReader(reader) {
  return { next: () => reader.read(), cancel: () => reader.cancel().catch(() => {}) };
}

function fromIterator(iterator) {
  return {
    next: () => iterator.next(),
    // A generator that waits for something hears of it when that is over.
    async cancel() {
      try {
        await iterator.return?.();
      } catch {
        // It was to stop, and it did.
      }
    },
  };
}

/** Sends a response's body at the guest's pace. */
async function send(pieces, exchange, gone) {
  const cancel = () => void pieces.cancel();
  if (gone.aborted) return cancel();
  gone.addEventListener('abort', cancel, { once: true });
  try {
    for (;;) {
      const { done, value } = await pieces.next();
      if (done) return await exchange.finish();
      if (!(value instanceof Uint8Array)) {
        cancel();
        throw invalid(`the HTTP handler's body has a piece that is ${shown(value)}, and no Buffer`);
      }
      const piece = Buffer.from(value.buffer, value.byteOffset, value.length);
      if (piece.length > 0 && !(await exchange.write(piece))) return cancel();
    }
  } finally {
    gone.removeEventListener('abort', cancel);
  }
}

function pairs(fields) {
  const list = [];
  for (let index = 0; index < fields.length; index += 2) list.push([fields[index], fields[index + 1]]);
  return list;
}

/** As an object, with repeated fields joined as HTTP has it. */
function joined(list) {
  const headers = Object.create(null);
  for (const [name, value] of list) {
    const glue = name === 'cookie' ? '; ' : ', ';
    headers[name] = name in headers ? headers[name] + glue + value : value;
  }
  return { ...headers };
}

/** `[name, value, ...]`, of an object, pairs or `Headers`. */
function flattened(headers) {
  if (headers === undefined || headers === null) return [];
  if (typeof headers !== 'object') {
    throw invalid(`the HTTP handler's headers are ${shown(headers)}, and not an object`);
  }
  const isList = typeof headers[Symbol.iterator] === 'function';
  const flat = [];
  for (const pair of isList ? headers : Object.entries(headers)) {
    if (!Array.isArray(pair) || pair.length !== 2) {
      throw invalid("the HTTP handler's headers are a list of something else than pairs");
    }
    const [name, value] = pair;
    for (const single of Array.isArray(value) ? value : [value]) {
      if (typeof name !== 'string' || typeof single !== 'string') {
        throw invalid(`the HTTP handler's header field ${shown(name)} is not a string`);
      }
      flat.push(name, single);
    }
  }
  return flat;
}

module.exports = { answerRequests };
