/** Responses, including invalid ones. These tests need no server. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  ExecBytesResult,
  ExecResult,
  IsorunConnectionError,
  IsorunError,
  IsorunTimeoutError,
  Sandbox,
} from '@isorun/sdk';

import { decodeName, encodeName } from '../dist/esm/names.js';
import {
  BoundedContent,
  create,
  errorResponse,
  ExecEvents,
  execute,
  executeBytes,
  get,
  upload,
} from '../dist/esm/protocol.js';
import { ShellState } from '../dist/esm/shell-protocol.js';

const EVENTS = Buffer.from(
  [
    { type: 'stdout', data: 'caf\u00e9\n' },
    { type: 'stderr', data: 'oops' },
    { type: 'from-the-future', data: 1 },
    { type: 'exit', exit_code: 3 },
  ]
    .map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
    .join(''),
);

for (const step of [1, 2, 7, 1000]) {
  test(`events are parsed from chunks of ${step} bytes`, () => {
    const events = new ExecEvents();
    const chunks = [];
    for (let start = 0; start < EVENTS.length; start += step) {
      chunks.push(...events.feed(EVENTS.subarray(start, start + step)));
    }
    assert.deepEqual(chunks, [
      { type: 'stdout', text: 'caf\u00e9\n' },
      { type: 'stderr', text: 'oops' },
    ]);
    assert.deepEqual(events.result(), new ExecResult(3, 'caf\u00e9\n', 'oops'));
  });
}

test('comments, CRLF and data of several lines are parsed', () => {
  const events = new ExecEvents();
  const text = ': a comment\r\n\r\ndata:{"type": "exit",\r\ndata: "exit_code": 0}\r\n\r\n';
  assert.deepEqual(events.feed(Buffer.from(text)), []);
  assert.ok(events.result().ok);
});

test('a truncated stream is an error', () => {
  const events = new ExecEvents();
  events.feed(EVENTS.subarray(0, -4));
  assert.throws(
    () => events.result(),
    (error) => error instanceof IsorunConnectionError && /before the command/.test(error.message),
  );
});

test('error events and invalid events throw errors', () => {
  const events = new ExecEvents();
  events.feed(Buffer.from('data: {"type": "stdout", "data": "begun"}\n\n'));
  const late = 'data: {"type":"error","error":"late","code":"exec_timeout","status":504}\n\n';
  assert.throws(
    () => events.feed(Buffer.from(late)),
    (error) =>
      error instanceof IsorunTimeoutError && error.code === 504 && error.stdout === 'begun',
  );
  for (const nonsense of ['x', '[]', 'null', '{"type":"exit"}', '{"type":"stdout","data":1}']) {
    assert.throws(
      () => new ExecEvents().feed(Buffer.from(`data: ${nonsense}\n\n`)),
      (error) => error instanceof IsorunError && /invalid response/.test(error.message),
      nonsense,
    );
  }
});

test('error responses are parsed', () => {
  const body = '{"error": "there is no run", "code": "run_not_found"}';
  const error = errorResponse(404, Buffer.from(body));
  assert.deepEqual(
    [error.name, error.message, error.code, error.status, error.kind],
    ['IsorunError', 'there is no run', 404, 404, 'run_not_found'],
  );
  const proxy = errorResponse(502, Buffer.from('<html>Bad Gateway</html>'));
  assert.deepEqual([proxy.code, proxy.kind], [502, undefined]);
  assert.match(proxy.message, /Bad Gateway/);
  for (const content of ['[]', '{}', '{"exit_code":"0","stdout":"","stderr":""}', '\xff']) {
    assert.throws(
      () =>
        execute('run0', { command: 'true', timeout: 1 }).parseResponse(200, Buffer.from(content)),
      (error) =>
        error instanceof IsorunError &&
        error.code === 200 &&
        /invalid response/.test(error.message),
      content,
    );
  }
});

test('output in base64 is decoded in results and errors', () => {
  const command = {
    command: ['cat'],
    timeout: 5,
    env: { A: 'b' },
    cwd: '/srv',
    stdin: 'in',
  };
  const operation = executeBytes('run0', command);
  assert.deepEqual(operation.body, { ...command, encoding: 'base64' });
  assert.deepEqual(execute('run0', command).body, command);
  // What was not given is not sent.
  const plain = { command: 'true', timeout: 5 };
  assert.deepEqual(execute('run0', { ...plain, env: {}, cwd: undefined }).body, plain);
  const response = (body: object): Buffer => Buffer.from(JSON.stringify(body));
  const done = { exit_code: 0, stdout: '/wA=', stderr: '', stdout_truncated: true };
  const result = operation.parseResponse(200, response(done));
  assert.deepEqual(
    result,
    new ExecBytesResult(0, Uint8Array.of(0xff, 0), new Uint8Array(), true, false),
  );
  const late = { error: 'too late', code: 'exec_timeout', stdout: 'b2sK', stderr: '/w==' };
  assert.throws(
    () => operation.parseResponse(504, response(late)),
    (error) => {
      assert.ok(error instanceof IsorunTimeoutError, String(error));
      assert.deepEqual([error.stdout, error.stderr], ['ok\n', '\ufffd']);
      return true;
    },
  );
  for (const stdout of ['%', '/w', '/wA=x', 1, null]) {
    assert.throws(
      () => operation.parseResponse(200, response({ ...done, stdout })),
      (error) => error instanceof IsorunError && /invalid response/.test(error.message),
      String(stdout),
    );
  }
});

test('the content of a file is limited', () => {
  const content = new BoundedContent(5);
  for (const part of ['ab', 'cde']) assert.deepEqual(content.feed(Buffer.from(part)), []);
  assert.deepEqual(content.result(), new Uint8Array(Buffer.from('abcde')));
  assert.throws(
    () => content.feed(Buffer.from('f')),
    (error) =>
      error instanceof IsorunError &&
      error.kind === 'too_large' &&
      /more than 5 bytes/.test(error.message),
  );
  assert.equal(new BoundedContent(0).result().byteLength, 0);
});

test('an id cannot change the path of a request', () => {
  assert.equal(get('run0').target, '/v1/runs/run0');
  assert.equal(get('../snapshots?x=1#y').target, '/v1/runs/..%2Fsnapshots%3Fx%3D1%23y');
});

test('errors are told apart', () => {
  const timeout = new IsorunTimeoutError('late');
  assert.ok(timeout instanceof IsorunError && timeout instanceof Error);
  assert.ok(!(timeout instanceof IsorunConnectionError));
  assert.ok(!(new IsorunError('x') instanceof IsorunTimeoutError));
  assert.ok(!(new Error('x') instanceof IsorunError));
  class Own extends IsorunError {}
  assert.ok(new Own('x') instanceof Own && new Own('x') instanceof IsorunError);
  assert.ok(!(new IsorunError('x') instanceof Own));
  assert.match(String(timeout), /^IsorunTimeoutError: late$/);
});

test('names that are not UTF-8 keep their bytes', () => {
  const odd = 'caf\udce9 & \udcff/\u{1F600}~';
  assert.equal(encodeName(odd), 'caf%E9%20%26%20%FF%2F%F0%9F%98%80~');
  assert.equal(decodeName(encodeName(odd)), odd);
  assert.equal(decodeName('%ED%A0%80%C3%28%F0%9F'), '\udced\udca0\udc80\udcc3(\udcf0\udc9f');
  assert.throws(() => encodeName('\ud800'), /half of a UTF-16 pair/);
});

test('invalid options are refused before anything is sent', async () => {
  const both = { image: 'host', networkProfile: 'internet', allow: ['a.example'] };
  // @ts-expect-error: a profile and lists exclude each other.
  assert.throws(() => create(both), /exclude each other/);
  for (const timeout of [Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => execute('run0', { command: 'true', timeout }), /finite number/);
    // The server could not be reached.
    const options = { image: 'host', timeout, apiUrl: 'http://127.0.0.1:1', apiKey: 'k' };
    await assert.rejects(Sandbox.create(options), /finite number/);
    await assert.rejects(Sandbox.connect('run0', options), /finite number/);
  }
  for (const mode of [-1, 0.5, 2 ** 32, Number.NaN]) {
    assert.throws(() => upload('run0', '/file', mode), /such as 0o644/);
  }
  for (const maxBytes of [-1, Number.NaN]) {
    assert.throws(() => new BoundedContent(maxBytes), /maxBytes/);
  }
});

test('frames of a shell are parsed', () => {
  const state = new ShellState(undefined);
  assert.deepEqual(state.feed('{"type":"ready","session":"s1"}'), { type: 'ready' });
  assert.equal(state.session, 's1');
  // A character is never split.
  const bytes = Buffer.from('\u20ac');
  const out = (part: Uint8Array): Buffer => Buffer.concat([Buffer.from([1]), part]);
  assert.deepEqual(state.feed(out(bytes.subarray(0, 2))), { type: 'stdout', text: '' });
  assert.deepEqual(state.feed(out(bytes.subarray(2))), { type: 'stdout', text: '\u20ac' });
  const ended = state.feed('{"type":"result","exit_code":0}');
  assert.deepEqual(ended, { type: 'ended', result: new ExecResult(0, '\u20ac', '') });
  assert.deepEqual(state.feed('{"type":"news"}'), { type: 'unknown' });
  for (const nonsense of ['x', '[]', '{"type":"result"}', Buffer.from([3]), Buffer.alloc(0)]) {
    assert.throws(() => state.feed(nonsense), /invalid frame/);
  }
  const kind = (name: string): RegExp => new RegExp(name);
  const hibernated =
    '{"type":"error","error":"run_hibernated","code":"run_hibernated","status":409}';
  assert.throws(() => state.feed(hibernated), kind('run_hibernated'));
  assert.equal(state.isClosed, false);
  assert.throws(() => state.feed('{"type":"error","error":"gone","code":"x"}'), kind('gone'));
  assert.equal(state.isClosed, true);
});
