// Hostcalls and HTTP requests of a guest, including handlers that fail.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import * as isola from 'isola-core';
import { collect, sandbox, server, signal, template } from './support/fixture.mjs';

const CALLS = `
from sandbox.asyncio import hostcall
async def ask(name, payload=None):
    return await hostcall(name, payload)
async def attempt(name):
    try:
        return await hostcall(name, None)
    except Exception as error:
        return str(error)
`;

test('hostcalls: payloads and results are passed as JSON values', async (t) => {
  const guest = await sandbox(t, 'python', CALLS, {
    hostcalls: {
      echo: async (payload) => payload,
      plain: (payload) => [payload],
      nothing: async () => {},
    },
  });
  assert.deepEqual(await guest.run('ask', ['echo', { a: [1, 'x', null] }]), { a: [1, 'x', null] });
  assert.deepEqual(await guest.run('ask', ['plain', 3]), [3]);
  assert.equal(await guest.run('ask', ['nothing']), null);
});

test('hostcalls: a JavaScript guest gets the result of a handler', async (t) => {
  const guest = await sandbox(
    t,
    'js',
    'async function main() { return await hostcall("f", { a: 1 }); }',
    {
      hostcalls: { f: async ({ a }) => a + 1 },
    },
  );
  assert.equal(await guest.run('main'), 2);
});

test('hostcalls: an error in a handler fails only its hostcall', async (t) => {
  const error = new Error('the message');
  error.cause = new Error('a secret');
  const guest = await sandbox(t, 'python', CALLS, {
    hostcalls: {
      throws: () => {
        throw error;
      },
      rejects: async () => {
        throw error;
      },
      odd: () => {
        throw 'a text';
      },
      unprintable: () => {
        throw {
          toString: () => {
            throw new Error();
          },
        };
      },
      nan: () => [1, NaN],
      fine: () => 1,
    },
  });
  assert.match(await guest.run('attempt', ['throws']), /the message/);
  assert.doesNotMatch(await guest.run('attempt', ['throws']), /secret|host\.test/);
  assert.match(await guest.run('attempt', ['rejects']), /the message/);
  assert.match(await guest.run('attempt', ['odd']), /a text/);
  assert.match(await guest.run('attempt', ['unprintable']), /the handler failed/);
  assert.match(await guest.run('attempt', ['nan']), /the result of nan\[1\] is NaN/);
  for (const name of ['unknown', '__proto__', 'constructor', 'toString']) {
    assert.match(await guest.run('attempt', [name]), /has no function/);
  }
  await assert.rejects(guest.run('ask', ['throws']), (thrown) => {
    assert.ok(thrown instanceof isola.HostcallError);
    assert.equal(thrown.code, 'hostcall_failed');
    assert.match(thrown.message, /the message/);
    return true;
  });
  assert.equal(await guest.run('ask', ['fine']), 1);
});

test('hostcalls: a time limit and close end a call whose handler never settles', async (t) => {
  const asked = signal();
  const config = { hostcalls: { forever: () => (asked.resolve(), new Promise(() => {})) } };
  const limited = await sandbox(t, 'python', CALLS, config);
  await assert.rejects(limited.run('ask', ['forever'], {}, { timeoutMs: 100 }), {
    code: 'wall_time_limit',
  });
  const closed = await sandbox(t, 'python', CALLS, config);
  const asking = closed.run('ask', ['forever']);
  await asked.promise;
  closed.close();
  await assert.rejects(asking, { code: 'closed' });
});

test('hostcalls: a handler can close its own sandbox', async (t) => {
  const guest = await sandbox(t, 'python', CALLS, { hostcalls: { end: () => guest.close() } });
  await assert.rejects(guest.run('ask', ['end']), { code: 'closed' });
});

test('hostcalls: concurrent hostcalls return their own results', async (t) => {
  const guest = await sandbox(
    t,
    'js',
    'async function main() { return Promise.all(Array.from({length: 200}, (_, i) => hostcall("f", i))); }',
    {
      hostcalls: { f: (i) => new Promise((resolve) => setImmediate(resolve, i * 2)) },
    },
  );
  assert.deepEqual(
    await guest.run('main'),
    Array.from({ length: 200 }, (_, i) => i * 2),
  );
});

test('hostcalls: large integers are passed as bigint with the option bigints', async (t) => {
  const guest = await sandbox(
    t,
    'python',
    CALLS + 'async def big(): return await hostcall("next", 2**70)\n',
    {
      bigints: true,
      hostcalls: { next: (payload) => payload + 1n },
    },
  );
  assert.equal(await guest.run('big'), 2n ** 70n + 1n);
});

const REQUESTS = `
async function get(url, init) {
  try {
    const response = await fetch(url, init);
    return [response.status, [...response.headers], await response.text()];
  } catch (error) {
    return String(error);
  }
}
`;

test('HTTP is disabled by default, by false and by null', async (t) => {
  for (const config of [{}, { http: false }, { http: null }, { httpHandler: false }]) {
    const guest = await sandbox(t, 'js', REQUESTS, config);
    assert.match(await guest.run('get', ['http://a.test/']), /disabled/);
  }
});

test('http: true sends real requests and returns their responses', async (t) => {
  const url = await server(t, async (request, response) => {
    const body = [];
    for await (const piece of request) body.push(piece);
    if (request.url === '/redirect') response.writeHead(302, { location: '/elsewhere' }).end();
    else if (request.url === '/gzip') {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync('unpacked'));
    } else {
      response.setHeader('set-cookie', ['a=1', 'b=2']);
      response.end(
        JSON.stringify([
          request.method,
          request.headers['x-mine'],
          Buffer.concat(body).toString(),
          request.headers['content-length'] ?? null,
        ]),
      );
    }
  });
  for (const name of ['http', 'httpHandler']) {
    const guest = await sandbox(t, 'js', REQUESTS, { [name]: true });
    const [status, headers, text] = await guest.run('get', [
      `${url}/`,
      { method: 'POST', headers: { 'x-mine': 'yes' }, body: 'hello' },
    ]);
    assert.equal(status, 200);
    assert.deepEqual(JSON.parse(text), ['POST', 'yes', 'hello', '5']);
    assert.deepEqual(
      headers.filter(([field]) => field === 'set-cookie'),
      [
        ['set-cookie', 'a=1'],
        ['set-cookie', 'b=2'],
      ],
    );
    assert.equal((await guest.run('get', [`${url}/redirect`]))[0], 302);
    const unpacked = await guest.run('get', [`${url}/gzip`]);
    assert.equal(unpacked[2], 'unpacked');
    assert.ok(!unpacked[1].some(([field]) => field === 'content-encoding'));
  }
  const guest = await sandbox(t, 'js', REQUESTS, { http: true });
  assert.match(await guest.run('get', ['http://127.0.0.1:1/']), /fetch failed/);
});

test('a custom handler receives the request and returns the response', async (t) => {
  const seen = [];
  const http = async (request) => {
    seen.push(request);
    return {
      status: 201,
      headers: { 'x-a': ['1', '2'], 'content-type': 'text/plain' },
      body: Buffer.from('hello'),
    };
  };
  const guest = await sandbox(t, 'js', REQUESTS, { http });
  const [status, headers, text] = await guest.run('get', [
    'https://a.test/x?y=1',
    { method: 'PUT', headers: { 'X-B': 'c' }, body: 'data' },
  ]);
  assert.equal(status, 201);
  assert.equal(text, 'hello');
  assert.equal(headers.find(([name]) => name === 'x-a')[1], '1, 2');
  const [request] = seen;
  assert.equal(request.method, 'PUT');
  assert.equal(request.url, 'https://a.test/x?y=1');
  assert.equal(request.headers['x-b'], 'c');
  assert.ok(Buffer.isBuffer(request.body));
  assert.equal(request.body.toString(), 'data');
  assert.ok(request.signal instanceof AbortSignal);
  await guest.run('get', ['https://a.test/']);
  assert.equal(seen[1].body, null);
});

test('repeated header fields of requests and responses are preserved', async (t) => {
  const seen = signal();
  const guest = await sandbox(
    t,
    'python',
    `
from sandbox.http import fetch
def main():
    with fetch('GET', 'http://a.test/', headers=[('x-a', '1'), ('x-a', '2')]) as response:
        return [response.status, response.headers.get_all('x-b')]
`,
    {
      http: async (request) => (
        seen.resolve(request),
        {
          status: 204,
          headers: [
            ['x-b', '3'],
            ['x-b', '4'],
          ],
        }
      ),
    },
  );
  assert.deepEqual(await guest.run('main'), [204, ['3', '4']]);
  const request = await seen.promise;
  assert.deepEqual(
    request.headerList.filter(([name]) => name === 'x-a'),
    [
      ['x-a', '1'],
      ['x-a', '2'],
    ],
  );
  assert.equal(request.headers['x-a'], '1, 2');
});

test('the body of a response can be bytes, a stream, a generator or absent', async (t) => {
  const bodies = {
    buffer: () => Buffer.from('abc'),
    bytes: () => new Uint8Array([97, 98, 99]),
    null: () => null,
    left_out: () => undefined,
    stream: () => new Blob(['a', 'bc']).stream(),
    async *generator() {
      yield Buffer.from('a');
      yield new Uint8Array(0);
      yield Buffer.from('bc');
    },
  };
  const guest = await sandbox(t, 'js', REQUESTS, {
    http: async ({ url }) => ({ status: 200, body: bodies[new URL(url).pathname.slice(1)]() }),
  });
  for (const name of Object.keys(bodies)) {
    const [, , text] = await guest.run('get', [`http://a.test/${name}`]);
    assert.equal(text, name === 'null' || name === 'left_out' ? '' : 'abc', name);
  }
});

test('an invalid response of a handler fails only its request', async (t) => {
  const answers = {
    none: undefined,
    text: 'hello',
    status: { status: '200' },
    range: { status: 99 },
    body: { status: 200, body: 'text' },
    number: { status: 200, body: 7 },
    headers: { status: 200, headers: 'x' },
    pairs: { status: 200, headers: [['a']] },
    value: { status: 200, headers: { a: 1 } },
    name: { status: 200, headers: { 'a b': '1' } },
    line: { status: 200, headers: { a: 'b\r\nc: d' } },
    piece: {
      status: 200,
      body: (async function* () {
        yield 'text';
      })(),
    },
    broken: {
      status: 200,
      body: (async function* () {
        yield Buffer.from('a');
        throw new Error('cut');
      })(),
    },
  };
  const guest = await sandbox(t, 'js', REQUESTS, {
    http: async ({ url }) => {
      const name = new URL(url).pathname.slice(1);
      if (name === 'throw') throw new Error('refused by policy');
      return answers[name];
    },
  });
  for (const [name, message] of [
    ['none', /must return .*, but returned undefined/],
    ['text', /must return .*, but returned "hello"/],
    ['status', /from 100 to 999, and is "200"/],
    ['range', /from 100 to 999, and is 99/],
    ['body', /body must be a Buffer/],
    ['number', /body must be a Buffer/],
    ['headers', /headers must be an object, not "x"/],
    ['pairs', /must be a list of \[name, value\] pairs/],
    ['value', /field "a" must be a string/],
    ['name', /"a b" is not the name/],
    ['line', /header field a cannot be sent/],
    ['piece', /chunk that is not a Buffer: "text"/],
    ['broken', /cut/],
    ['throw', /refused by policy/],
  ]) {
    const reported = await guest.run('get', [`http://a.test/${name}`]);
    assert.match(String(reported), message, name);
  }
  answers.fine = { status: 200 };
  assert.equal((await guest.run('get', ['http://a.test/fine']))[0], 200);
});

test('a response body is streamed to the guest', async (t) => {
  const taken = signal();
  const guest = await sandbox(
    t,
    'js',
    `
async function* main() {
  const response = await fetch('http://a.test/');
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield new TextDecoder().decode(value);
  }
}`,
    {
      http: async () => ({
        status: 200,
        body: (async function* () {
          yield Buffer.from('first');
          // The second is sent only after the first was received.
          await taken.promise;
          yield Buffer.from('second');
        })(),
      }),
    },
  );
  const events = [];
  for await (const event of guest.runStream('main')) {
    events.push(event.data);
    if (event.data === 'first') taken.resolve();
  }
  assert.deepEqual(events, ['first', 'second', null]);
});

test('a chunked request body is passed as a stream or as one buffer', async (t) => {
  const script = `
from sandbox.http import fetch
def pieces():
    for part in (b'one ', b'two ', b'three'):
        yield part
def main():
    with fetch('POST', 'http://a.test/', body=pieces()) as response:
        return response.text()
`;
  const streamed = await sandbox(t, 'python', script, {
    httpRequestBody: 'stream',
    http: async ({ body }) => {
      assert.ok(body instanceof ReadableStream);
      const pieces = [];
      for await (const piece of body) pieces.push(piece);
      assert.equal(pieces.length, 3);
      return { status: 200, body: Buffer.concat(pieces) };
    },
  });
  assert.equal(await streamed.run('main'), 'one two three');
  const buffered = await sandbox(t, 'python', script, {
    http: async ({ body }) => ({ status: 200, body: Buffer.concat([Buffer.from('got '), body]) }),
  });
  assert.equal(await buffered.run('main'), 'got one two three');
  const url = await server(t, (request, response) => request.pipe(response));
  const bridged = await sandbox(t, 'python', script.replace('http://a.test', url), { http: true });
  assert.equal(await bridged.run('main'), 'one two three');
  const unread = await sandbox(t, 'python', script, {
    httpRequestBody: 'stream',
    http: async () => ({ status: 200, body: Buffer.from('enough') }),
  });
  assert.equal(await unread.run('main'), 'enough');
});

test('closing a sandbox closes the connection of its pending request', async (t) => {
  const reached = signal();
  const gone = signal();
  const url = await server(t, (request, response) => {
    response.writeHead(200);
    response.write('first');
    response.on('close', gone.resolve);
    reached.resolve();
  });
  const guest = await sandbox(t, 'js', REQUESTS, { http: true });
  const getting = guest.run('get', [url]);
  await reached.promise;
  guest.close();
  await Promise.all([gone.promise, assert.rejects(getting, { code: 'closed' })]);
});

test('closing a sandbox aborts the signal of its pending request', async (t) => {
  const aborted = signal();
  const asked = signal();
  const guest = await sandbox(t, 'js', REQUESTS, {
    http: ({ signal: gone }) => {
      gone.addEventListener('abort', aborted.resolve);
      asked.resolve();
      return new Promise(() => {});
    },
  });
  const getting = guest.run('get', ['http://a.test/']);
  await asked.promise;
  guest.close();
  await Promise.all([aborted.promise, assert.rejects(getting, { code: 'closed' })]);
});

test('a response body that is larger than one read arrives complete', async (t) => {
  const size = 3 * 1024 * 1024;
  const url = await server(t, (request, response) => response.end(Buffer.alloc(size, 'x')));
  const guest = await sandbox(
    t,
    'js',
    'async function main(url) { return (await (await fetch(url)).text()).length; }',
    { http: true },
  );
  assert.equal(await guest.run('main', [url]), size);
});
