// Calls: their arguments, results, events and errors.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as isola from 'isola-core';
import { collect, sandbox, signal, template } from './support/fixture.mjs';

const { Arg } = isola;

test('import and require give the same classes', () => {
  const required = createRequire(import.meta.url)('isola-core');
  assert.deepEqual(Object.keys(required).sort(), Object.keys(isola).sort());
  for (const name of Object.keys(required)) assert.equal(isola[name], required[name], name);
});

const SCRIPTS = {
  python: `
import sys
def echo(value): return value
def greet(name, greeting='Hello'): return greeting + ' ' + name
def fail(): raise ValueError('no')
def count(n):
    for i in range(n): yield i
def nothing(): pass
def talk():
    print('out')
    print('err', file=sys.stderr)
    yield {'n': 1}
`,
  js: `
function echo(value) { return value; }
function greet(name, greeting = 'Hello') { return greeting + ' ' + name; }
function fail() { throw new TypeError('no'); }
function* count(n) { for (let i = 0; i < n; i++) yield i; }
function nothing() {}
function* talk() { console.log('out'); console.error('err'); yield {n: 1}; }
`,
};

for (const runtime of ['python', 'js']) {
  test(`${runtime}: values round-trip as JSON`, async (t) => {
    const guest = await sandbox(t, runtime, SCRIPTS[runtime]);
    for (const value of [
      null,
      true,
      0,
      -1.5,
      'ü\u{1f600}\0"',
      [],
      {},
      [1, [2]],
      { a: { b: [null] } },
    ]) {
      assert.deepEqual(await guest.run('echo', [value]), value);
    }
    assert.equal(await guest.run('nothing'), null);
    assert.deepEqual(await guest.run('echo', [new Date(0)]), '1970-01-01T00:00:00.000Z');
    assert.deepEqual(await guest.run('echo', [{ a: undefined, b: 1 }]), { b: 1 });
  });

  test(`${runtime}: events arrive in order, and the end event is the last`, async (t) => {
    const guest = await sandbox(t, runtime, SCRIPTS[runtime]);
    const events = await collect(guest.runStream('talk'));
    // The console of a JavaScript guest is a log.
    const printed = {
      python: [
        { type: 'stdout', data: 'out\n' },
        { type: 'stderr', data: 'err\n' },
      ],
      js: [
        { type: 'log', data: 'out', level: 'info' },
        { type: 'log', data: 'err', level: 'error' },
      ],
    };
    assert.deepEqual(events, [
      ...printed[runtime],
      { type: 'result', data: { n: 1 } },
      { type: 'end', data: null },
    ]);
    const many = await collect(guest.runStream('count', [500]));
    assert.deepEqual(
      many.slice(0, -1).map((event) => event.data),
      Array.from({ length: 500 }, (_, i) => i),
    );
    assert.equal(many.at(-1).type, 'end');
  });

  test(`${runtime}: an exception is reported as a GuestError and as an error event`, async (t) => {
    const guest = await sandbox(t, runtime, SCRIPTS[runtime]);
    const error = await guest.run('fail').then(assert.fail, (thrown) => thrown);
    assert.ok(error instanceof isola.GuestError && error instanceof isola.IsolaError);
    assert.equal(error.name, 'GuestError');
    assert.equal(error.code, 'guest_exception');
    assert.equal(error.exception.name, runtime === 'python' ? 'ValueError' : 'TypeError');
    assert.equal(error.exception.message, 'no');
    assert.match(error.message, /^(Value|Type)Error: no/);
    const [event, ...rest] = await collect(guest.runStream('fail'));
    assert.equal(event.type, 'error');
    assert.match(event.data, /^(Value|Type)Error: no/);
    assert.equal(event.error.code, 'guest_exception');
    assert.deepEqual(rest, []);
    // The sandbox remains usable.
    assert.equal(await guest.run('echo', [1]), 1);
  });
}

test('arguments are passed by position, by name and as Arg', async (t) => {
  const guest = await sandbox(t, 'python', SCRIPTS.python);
  assert.equal(await guest.run('greet', ['World']), 'Hello World');
  assert.equal(await guest.run('greet', ['World'], { greeting: 'Hey' }), 'Hey World');
  assert.equal(await guest.run('greet', [], { greeting: 'Hey', name: 'Ada' }), 'Hey Ada');
  assert.equal(
    await guest.run('greet', [new Arg('World', 'name'), new Arg('Hi', 'greeting')]),
    'Hi World',
  );
  assert.equal(await guest.run('greet', [new Arg('World'), new Arg('Hi', 'greeting')]), 'Hi World');
  assert.equal(await guest.run('greet', null, { name: 'Ada' }, null), 'Hello Ada');
  await assert.rejects(guest.run('greet', [new Arg('a', 'name')], { name: 'b' }), {
    code: 'invalid_argument',
    message: /"name" is given twice/,
  });
  assert.ok(Object.isFrozen(new Arg(1)));
});

test('an invalid argument is refused with its path', async (t) => {
  const guest = await sandbox(t, 'js', SCRIPTS.js);
  const cyclic = { a: [] };
  cyclic.a.push(cyclic);
  let deep = [];
  for (let level = 0; level < 100_000; level += 1) deep = [deep];
  for (const [args, message] of [
    [[undefined], /^argument 0 is undefined.*use null/],
    [[1, { a: [NaN] }], /^argument 1\.a\[0\] is NaN/],
    [[Infinity], /argument 0 is Infinity/],
    [[() => 1], /argument 0 is a function/],
    [[Symbol('s')], /argument 0 is a symbol/],
    [[new Map()], /argument 0 is a Map/],
    [[Buffer.from('a')], /argument 0 is a Buffer.*base64/],
    [[Promise.resolve(1)], /argument 0 is a Promise.*await/],
    [[cyclic], /argument 0\.a\[0\] contains itself/],
    [[deep], /argument 0 is nested too deeply/],
    [[new Arg(NaN, 'x')], /argument "x" is NaN/],
    [{ hello: 'world' }, /arguments of a call must be an array.*wrap/],
    ['text', /arguments of a call must be an array/],
  ]) {
    await assert.rejects(guest.run('echo', args), (error) => {
      assert.ok(error instanceof isola.InvalidArgumentError);
      assert.equal(error.code, 'invalid_argument');
      assert.match(error.message, message);
      return true;
    });
  }
  await assert.rejects(
    guest.run('echo', [], [1]),
    /named arguments must be an object, not an array/,
  );
  await assert.rejects(guest.run('echo', [], { a: NaN }), /argument "a" is NaN/);
  await assert.rejects(guest.run(1), /the name of a function must be a string, not 1/);
  await assert.rejects(guest.loadScript(1), /the code of a script must be a string/);
  assert.throws(() => new Arg(1, 2), /the name of an argument must be a string/);
  // None of these calls affected the sandbox.
  assert.equal(await guest.run('echo', [1]), 1);
});

test('large integers are returned as bigint with the option bigints', async (t) => {
  const plain = await sandbox(t, 'python', SCRIPTS.python);
  const exact = await sandbox(
    t,
    'python',
    SCRIPTS.python +
      'def big(): return [2**70, -2**70, 2**53-1, 2**53, "9007199254740993", 1e300, {"a": 2**64}]\n',
    {
      bigints: true,
      hostcalls: {},
    },
  );
  // A bigint argument is sent unchanged in both cases.
  assert.equal(await plain.run('echo', [2n ** 70n]), 2 ** 70);
  assert.equal(await exact.run('echo', [2n ** 70n + 1n]), 2n ** 70n + 1n);
  assert.deepEqual(await exact.run('echo', [{ a: [1n, -(2n ** 80n)], b: 'x' }]), {
    a: [1, -(2n ** 80n)],
    b: 'x',
  });
  assert.deepEqual(await exact.run('big'), [
    2n ** 70n,
    -(2n ** 70n),
    Number.MAX_SAFE_INTEGER,
    2n ** 53n,
    '9007199254740993',
    1e300,
    { a: 2n ** 64n },
  ]);
  const events = await collect(exact.runStream('echo', [2n ** 65n]));
  assert.deepEqual(events, [{ type: 'end', data: 2n ** 65n }]);
});

test('calls are refused before start, during another call and after close', async (t) => {
  const created = await (await template('js')).create();
  t.after(() => created.close());
  await assert.rejects(created.run('main'), (error) => {
    assert.ok(error instanceof isola.NotRunningError);
    assert.equal(error.code, 'not_running');
    return /sandbox is not running/.test(error.message);
  });
  await assert.rejects(created.runStream('main').next(), { code: 'not_running' });
  await created.start();
  await assert.rejects(created.start(), (error) => {
    assert.ok(error instanceof isola.NotPendingError);
    return error.code === 'not_pending' && /not in pending state/.test(error.message);
  });
  await created.loadScript(
    'async function wait() { await new Promise(() => setTimeout(() => {}, 1e6)); }',
  );
  const waiting = created.run('wait');
  await assert.rejects(created.run('wait'), (error) => {
    assert.ok(error instanceof isola.BusyError);
    return error.code === 'busy' && /sandbox is busy/.test(error.message);
  });
  created.close();
  created.close();
  await assert.rejects(waiting, { code: 'closed' });
  await assert.rejects(created.run('wait'), (error) => {
    assert.ok(error instanceof isola.ClosedError);
    return error.code === 'closed';
  });
  await assert.rejects(created.runStream('wait').next(), { code: 'closed' });
  await assert.rejects(created.start(), { code: 'closed' });
});

test('close stops a busy loop in the guest, which does not block the event loop', async (t) => {
  const guest = await sandbox(t, 'python', 'def spin():\n while True: pass\n');
  const spinning = guest.run('spin');
  let turns = 0;
  await new Promise((resolve) => {
    const turn = () => ((turns += 1) < 50 ? setImmediate(turn) : resolve());
    turn();
  });
  await Promise.all([assert.rejects(spinning, { code: 'closed' }), guest[Symbol.asyncDispose]()]);
});

test('an aborted signal cancels a call and closes its sandbox', async (t) => {
  const guest = await sandbox(t, 'python', 'def spin():\n while True: pass\ndef ok(): return 1\n');
  const reason = new Error('enough');
  // A call that is aborted before it starts does not affect the sandbox.
  await assert.rejects(guest.run('ok', [], {}, { signal: AbortSignal.abort(reason) }), (error) => {
    assert.ok(error instanceof isola.AbortError);
    assert.equal(error.name, 'AbortError');
    assert.equal(error.code, 'aborted');
    assert.equal(error.cause, reason);
    return true;
  });
  const unused = new AbortController();
  assert.equal(await guest.run('ok', [], {}, { signal: unused.signal }), 1);
  const controller = new AbortController();
  const spinning = guest.run('spin', [], {}, { signal: controller.signal });
  setImmediate(() => controller.abort(reason));
  await assert.rejects(spinning, { code: 'aborted', cause: reason });
  await assert.rejects(guest.run('ok'), { code: 'closed', message: /cancelled half-way/ });
});

test('an aborted signal cancels an event stream', async (t) => {
  const guest = await sandbox(t, 'python', 'def spin():\n yield 1\n while True: pass\n');
  const controller = new AbortController();
  const stream = guest.runStream('spin', [], {}, { signal: controller.signal });
  assert.deepEqual(await stream.next(), { done: false, value: { type: 'result', data: 1 } });
  const next = stream.next();
  controller.abort();
  await assert.rejects(next, { code: 'aborted' });
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
  const late = guest.runStream('spin', [], {}, { signal: controller.signal });
  await assert.rejects(late.next(), { code: 'aborted' });
});

test('limits of a call and of a sandbox are enforced', async (t) => {
  const spin =
    'def spin():\n while True: pass\ndef wait():\n import time; time.sleep(1000)\ndef big(): return "x" * 3000\n';
  const check = async (config, name, callOptions, code) => {
    const guest = await sandbox(t, 'python', spin, config);
    await assert.rejects(guest.run(name, [], {}, callOptions), (error) => {
      assert.ok(error instanceof isola.LimitError);
      assert.equal(error.code, code);
      return true;
    });
  };
  await check({}, 'spin', { cpuTimeoutMs: 50 }, 'cpu_time_limit');
  await check({}, 'wait', { timeoutMs: 50 }, 'wall_time_limit');
  await check({ limits: { cpuTimeoutMs: 50 } }, 'spin', {}, 'cpu_time_limit');
  await check({ limits: { timeoutMs: 50 } }, 'wait', undefined, 'wall_time_limit');
  await check({ limits: { maxValueSize: 2000 } }, 'big', undefined, 'value_size_limit');
  const [event] = await collect(
    (await sandbox(t, 'python', spin)).runStream('spin', [], {}, { cpuTimeoutMs: 50 }),
  );
  assert.equal(event.error.code, 'cpu_time_limit');
  const free = await sandbox(t, 'js', 'function ok() { return 1; }');
  assert.equal(await free.run('ok', [], {}, { timeoutMs: Infinity, cpuTimeoutMs: Infinity }), 1);
});

test('breaking out of an event stream stops the guest', async (t) => {
  const seen = [];
  const guest = await sandbox(
    t,
    'python',
    `
from sandbox.asyncio import hostcall
async def main():
    yield 1
    await hostcall('forever', None)
    await hostcall('after', None)
`,
    {
      hostcalls: { forever: () => new Promise(() => {}), after: () => void seen.push('after') },
    },
  );
  for await (const event of guest.runStream('main')) {
    assert.equal(event.data, 1);
    break;
  }
  await assert.rejects(guest.run('main'), { code: 'closed', message: /cancelled half-way/ });
  assert.deepEqual(seen, []);
});

test('return ends an event stream while next is pending, and throw rejects', async (t) => {
  const guest = await sandbox(t, 'python', 'def spin():\n while True: pass\n');
  const stream = guest.runStream('spin');
  const next = stream.next();
  assert.deepEqual(await stream.return(7), { done: true, value: 7 });
  assert.deepEqual(await next, { done: true, value: undefined });
  const other = await sandbox(t, 'python', 'def f(): yield 1\n');
  const thrown = other.runStream('f');
  await thrown.next();
  await assert.rejects(thrown.throw(new Error('mine')), /mine/);
});

test('close ends an event stream with an error event', async (t) => {
  const guest = await sandbox(t, 'python', 'def spin():\n yield 1\n while True: pass\n');
  const stream = guest.runStream('spin');
  await stream.next();
  const next = stream.next();
  guest.close();
  const { value } = await next;
  assert.equal(value.type, 'error');
  assert.match(value.data, /closed/);
  assert.equal(value.error.code, 'closed');
  assert.equal((await stream.next()).done, true);
});

test('a slow consumer applies backpressure to the guest', async (t) => {
  let asked = 0;
  const reached = signal();
  const guest = await sandbox(
    t,
    'python',
    `
from sandbox.asyncio import hostcall
async def flood():
    for i in range(2000):
        yield i
        await hostcall('tick', i)
`,
    {
      hostcalls: {
        tick: (i) => {
          asked = i;
          if (i === 5) reached.resolve();
        },
      },
    },
  );
  const stream = guest.runStream('flood');
  await stream.next();
  // A stream without a pending `next` does not keep a process running.
  const keepRunning = setInterval(() => {}, 1000);
  t.after(() => clearInterval(keepRunning));
  await reached.promise;
  // A guest that ignored backpressure would have finished by the end of another complete run.
  const other = await sandbox(t, 'python', 'def f():\n for i in range(2000): yield i\n');
  await collect(other.runStream('f'));
  await collect(
    (await sandbox(t, 'python', 'def f():\n for i in range(2000): yield i\n')).runStream('f'),
  );
  assert.ok(asked < 200, `the guest is ${asked} events ahead`);
  let last;
  for await (const event of stream) if (event.type === 'result') last = event.data;
  assert.equal(last, 1999);
  assert.equal(asked, 1999);
});

test('calls in many sandboxes run at the same time', async (t) => {
  const results = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const guest = await sandbox(t, 'js', 'let own; function main(i) { own = i; return own; }');
      return guest.run('main', [i]);
    }),
  );
  assert.deepEqual(
    results,
    Array.from({ length: 20 }, (_, i) => i),
  );
});

test('python: finish runs exit handlers and closes the sandbox', async (t) => {
  const script = `
import atexit
written = open('/end/log', 'w')
written.write('held back')
atexit.register(print, 'bye')
def fail(): raise ValueError('at the end')
def prepare(): atexit.register(fail)
def spin():
    def forever():
        while True: pass
    atexit.register(forever)
`;
  const directory = mkdtempSync(join(tmpdir(), 'isola-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const mounts = [
    { host: directory, guest: '/end', dir_perms: 'read-write', file_perms: 'read-write' },
  ];
  const guest = await sandbox(t, 'python', script, { mounts });
  const events = await collect(guest.finishStream());
  assert.deepEqual(
    events.filter(({ type }) => type === 'stdout').map(({ data }) => data),
    ['bye\n'],
  );
  assert.equal(events.at(-1).type, 'end');
  assert.equal(readFileSync(join(directory, 'log'), 'utf8'), 'held back');
  await assert.rejects(guest.run('prepare'), { code: 'closed' });
  await assert.rejects(guest.finish(), { code: 'closed' });
  const plain = await sandbox(t, 'python', 'x = 1');
  assert.equal(await plain.finish(), undefined);
  const endless = await sandbox(t, 'python', script.replace('/end/log', '/dev/null'));
  await endless.run('spin');
  await assert.rejects(endless.finish({ timeoutMs: 300 }), { code: 'wall_time_limit' });
});

test('js: finish closes the sandbox', async (t) => {
  const guest = await sandbox(t, 'js', SCRIPTS.js);
  await guest.finish();
  await assert.rejects(guest.run('echo', [1]), { code: 'closed' });
});
