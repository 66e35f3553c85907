'use strict';

// HTTP requests of a guest, handled by Node's own `fetch` or by a function of the
// embedder. Bodies are streams in both directions. When the guest no longer waits
// for a response, its request is aborted at whatever point it is.

const { invalid, shown } = require('./errors');
const { messageOf } = require('./hostcalls');

// The limit of a buffered request body, since a body sent in chunks could be endless.
const MAX_BUFFERED_BODY_BYTES = 64 * 1024 * 1024;

/**
 * Returns the callback that the native part calls for each request. It never
 * throws: an error fails that one request.
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
        // A complete body has a length, which a stream would lose.
        const buffered = !streams || (http === true && exchange.isComplete);
        body = buffered ? await collect(exchange) : stream(exchange);
      }
      const headerList = pairs(fields);
      const request = { method, url, headers: joined(headerList), body, headerList };
      // Not enumerable, so that printing or copying a request does not include it.
      Object.defineProperty(request, 'signal', { value: gone.signal });
      const response = prepare(await handler(request));
      const { status, headers, bytes, chunks } = response;
      const invalidity = exchange.respond(status, headers, bytes, chunks !== undefined);
      if (invalidity == null && chunks !== undefined) await send(chunks, exchange, gone.signal);
      else if (chunks !== undefined) await chunks.cancel();
    } catch (error) {
      await exchange.fail(messageOf(error));
    }
    // The handler has not started to read the body, so it never will.
    if (body instanceof ReadableStream && !body.locked) await exchange.discard();
  };
}

/** Sends a request with Node's `fetch`. */
async function bridge({ method, url, headerList, body, signal }) {
  const init = { method, headers: headerList, redirect: 'manual', signal };
  if (body !== null) Object.assign(init, { body, duplex: 'half' });
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    // The message is only "fetch failed"; the reason is in the cause, which the system gave.
    const reason = error.cause?.code ?? error.cause?.message;
    throw new Error(reason === undefined ? error.message : `${error.message}: ${reason}`);
  }
  // `fetch` has decoded the body, so its length and encoding no longer apply.
  const decoded = response.headers.has('content-encoding') && response.body !== null;
  const omitted = decoded ? ['content-encoding', 'content-length'] : [];
  const headers = [...response.headers].filter(([name]) => !omitted.includes(name));
  return { status: response.status, headers, body: response.body };
}

async function collect(exchange) {
  const chunks = [];
  let length = 0;
  for (;;) {
    const chunk = await read(exchange);
    if (chunk === null) return Buffer.concat(chunks, length);
    length += chunk.length;
    if (length > MAX_BUFFERED_BODY_BYTES) {
      throw invalid(`the request's body is longer than ${MAX_BUFFERED_BODY_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
}

function stream(exchange) {
  return new ReadableStream(
    {
      async pull(controller) {
        const chunk = await read(exchange);
        if (chunk === null) controller.close();
        else controller.enqueue(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
      },
      cancel: () => exchange.discard(),
    },
    // Nothing is read from the guest before the handler reads it.
    { highWaterMark: 0 },
  );
}

async function read(exchange) {
  const chunk = await exchange.read();
  if (chunk === null || chunk instanceof Uint8Array) return chunk;
  throw new Error(chunk.message);
}

/** Checks a handler's response. */
function prepare(response) {
  if (typeof response !== 'object' || response === null) {
    throw invalid(
      `the HTTP handler must return { status, headers, body }, but returned ${shown(response)}`,
    );
  }
  const { status, headers, body } = response;
  if (!Number.isInteger(status) || status < 100 || status > 999) {
    throw invalid(
      `the HTTP handler's status must be a number from 100 to 999, and is ${shown(status)}`,
    );
  }
  const prepared = { status, headers: flattened(headers) };
  if (body === undefined || body === null) return prepared;
  if (body instanceof Uint8Array) {
    prepared.bytes = Buffer.from(body.buffer, body.byteOffset, body.length);
  } else if (body instanceof ReadableStream) {
    prepared.chunks = fromReader(body.getReader());
  } else if (typeof body[Symbol.asyncIterator] === 'function') {
    prepared.chunks = fromIterator(body[Symbol.asyncIterator]());
  } else {
    throw invalid(
      "the HTTP handler's body must be a Buffer, a stream of Buffers, null or left out, " +
        `not ${shown(body)}`,
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
    // A generator that awaits something returns only after that has settled.
    async cancel() {
      try {
        await iterator.return?.();
      } catch {
        // The iterator has ended, which was the purpose.
      }
    },
  };
}

/** Sends a response's body at the guest's pace. */
async function send(chunks, exchange, gone) {
  const cancel = () => void chunks.cancel();
  if (gone.aborted) return cancel();
  gone.addEventListener('abort', cancel, { once: true });
  try {
    for (;;) {
      const { done, value } = await chunks.next();
      if (done) return await exchange.finish();
      if (!(value instanceof Uint8Array)) {
        cancel();
        throw invalid(`the HTTP handler's body has a chunk that is not a Buffer: ${shown(value)}`);
      }
      const chunk = Buffer.from(value.buffer, value.byteOffset, value.length);
      if (chunk.length > 0 && !(await exchange.write(chunk))) return cancel();
    }
  } finally {
    gone.removeEventListener('abort', cancel);
  }
}

function pairs(fields) {
  const list = [];
  for (let index = 0; index < fields.length; index += 2)
    list.push([fields[index], fields[index + 1]]);
  return list;
}

/** Returns header fields as an object, with repeated ones joined as HTTP defines it. */
function joined(list) {
  const headers = Object.create(null);
  for (const [name, value] of list) {
    const glue = name === 'cookie' ? '; ' : ', ';
    headers[name] = name in headers ? headers[name] + glue + value : value;
  }
  return { ...headers };
}

/** Returns `[name, value, ...]` of an object, pairs or `Headers`. */
function flattened(headers) {
  if (headers === undefined || headers === null) return [];
  if (typeof headers !== 'object') {
    throw invalid(`the HTTP handler's headers must be an object, not ${shown(headers)}`);
  }
  const isList = typeof headers[Symbol.iterator] === 'function';
  const flat = [];
  for (const pair of isList ? headers : Object.entries(headers)) {
    if (!Array.isArray(pair) || pair.length !== 2) {
      throw invalid("the HTTP handler's headers must be a list of [name, value] pairs");
    }
    const [name, value] = pair;
    for (const single of Array.isArray(value) ? value : [value]) {
      if (typeof name !== 'string' || typeof single !== 'string') {
        throw invalid(`the HTTP handler's header field ${shown(name)} must be a string`);
      }
      flat.push(name, single);
    }
  }
  return flat;
}

module.exports = { answerRequests };
