// Evaluated code: its value, events, errors and limits.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as isola from 'isola-core';
import { collect, sandbox, signal, template } from './support/fixture.mjs';

const PIECES = {
  python: [
    ['x = 20', null],
    ['x + 1', 21],
    ['import asyncio\nawait asyncio.sleep(0, "slept")', 'slept'],
    ['{"a": [x, None]}', { a: [20, null] }],
    ['object', "<class 'object'>"],
    ['double(x)', 40],
    ['', null],
  ],
  js: [
    ['var x = 20; undefined', null],
    ['x + 1', 21],
    ['Promise.resolve("slept")', 'slept'],
    ['({ a: [x, null] })', { a: [20, null] }],
    ['Symbol("s")', 'Symbol(s)'],
    ['double(x)', 40],
    ['', null],
  ],
};

const SCRIPTS = {
  python: 'def double(n): return 2 * n\ndef get(): return x\n',
  js: 'const double = (n) => 2 * n;\nfunction get() { return x; }\n',
};

for (const runtime of ['python', 'js']) {
  test(`${runtime}: evaluate returns the last value and shares globals with scripts`, async (t) => {
    const guest = await sandbox(t, runtime, SCRIPTS[runtime]);
    for (const [code, value] of PIECES[runtime])
      assert.deepEqual(await guest.evaluate(code), value, code);
    assert.equal(await guest.run('get'), 20);
    const [child] = await guest.fork();
    t.after(() => child.close());
    assert.equal(await child.evaluate('x'), 20);
    // Other calls in a row, which may start on the thread of the event loop.
    for (let i = 0; i < 20; i += 1) assert.equal(await guest.evaluate(`x + ${i}`), 20 + i);
  });

  test(`${runtime}: the sandbox remains usable after an error in evaluated code`, async (t) => {
    const guest = await sandbox(t, runtime, SCRIPTS[runtime]);
    for (const [code, message] of [
      [
        runtime === 'python' ? '1 / 0' : 'null.x',
        runtime === 'python' ? /^ZeroDivisionError/ : /^TypeError/,
      ],
      ['(', /^SyntaxError/],
    ]) {
      const error = await guest.evaluate(code).then(assert.fail, (thrown) => thrown);
      assert.ok(error instanceof isola.GuestError);
      assert.match(error.message, message);
      if (runtime === 'python') assert.doesNotMatch(error.message, /isola_evaluate/);
    }
    assert.equal(await guest.evaluate('1 + 1'), 2);
  });

  test(`${runtime}: evaluate checks its options, limits, signal and sandbox state`, async (t) => {
    const spin = runtime === 'python' ? 'while True: pass' : 'for (;;);';
    const limited = await sandbox(t, runtime, '');
    await assert.rejects(limited.evaluate(spin, { cpuTimeoutMs: 50 }), { code: 'cpu_time_limit' });
    await assert.rejects(limited.evaluate('1'), (error) => error instanceof isola.ClosedError);
    const stopped = await sandbox(t, runtime, '');
    const controller = new AbortController();
    const spinning = stopped.evaluate(spin, { signal: controller.signal });
    setImmediate(() => controller.abort());
    await assert.rejects(spinning, { code: 'aborted' });
    const closed = await sandbox(t, runtime, '');
    const running = closed.evaluate(spin);
    await assert.rejects(closed.evaluate('1'), { code: 'busy' });
    closed.close();
    await assert.rejects(running, { code: 'closed' });
    const pending = await (await template(runtime)).create();
    t.after(() => pending.close());
    await assert.rejects(pending.evaluate('1'), { code: 'not_running' });
    await assert.rejects(pending.evaluateStream('1').next(), { code: 'not_running' });
    for (const [attempt, message] of [
      [() => pending.evaluate(1), /the code of a script must be a string, not 1/],
      [() => pending.evaluateStream(null), /the code of a script must be a string, not null/],
      [() => pending.evaluate('1', { name: 'x' }), /no option "name"/],
      [() => pending.evaluateStream('1', { timeout: 1 }), /no option "timeout"/],
    ]) {
      await assert.rejects(
        async () => attempt(),
        (error) => {
          assert.ok(error instanceof isola.InvalidArgumentError);
          return message.test(error.message);
        },
      );
    }
  });
}

test('events of evaluated code arrive while it runs', async (t) => {
  const arrived = signal();
  const guest = await sandbox(t, 'python', '', { hostcalls: { wait: () => arrived.promise } });
  const events = guest.evaluateStream(`
from sandbox.asyncio import hostcall
print("out")
async def items():
    yield 1
    await hostcall("wait", None)
    yield {"two": 2}
items()
`);
  const seen = [];
  for await (const event of events) {
    seen.push(event);
    // The guest continues only after its first item was received.
    if (event.type === 'result') arrived.resolve(null);
  }
  assert.deepEqual(seen, [
    { type: 'stdout', data: 'out\n' },
    { type: 'result', data: 1 },
    { type: 'result', data: { two: 2 } },
    { type: 'end', data: null },
  ]);
  const [failed] = await collect(guest.evaluateStream('1 / 0'));
  assert.equal(failed.type, 'error');
  assert.equal(failed.error.code, 'guest_exception');
  for await (const event of guest.evaluateStream('(i for i in iter(int, 1))')) {
    assert.equal(event.data, 0);
    break;
  }
  await assert.rejects(guest.evaluate('1'), { code: 'closed', message: /cancelled half-way/ });
});

test('evaluate returns large integers as bigint with the option bigints', async (t) => {
  const guest = await sandbox(t, 'python', '', { bigints: true });
  assert.equal(await guest.evaluate('2 ** 70'), 2n ** 70n);
});
