// Code that runs as in a notebook: results, listeners, contexts, interrupts.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as isola from 'isola-core';
import { sandbox, signal } from './support/fixture.mjs';

// A PNG of one pixel.
const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

const PICTURE = `
import base64

class Picture:
    def _repr_png_(self):
        return base64.b64decode('${PNG}')
    def _repr_html_(self):
        return '<img>'
    def _repr_json_(self):
        return {'width': 1}
    def __repr__(self):
        return 'a picture'

print('before')
display(Picture())
Picture()
`;

test('results have all representations', async (t) => {
  const guest = await sandbox(t, 'python', '');
  const execution = await guest.runCode(PICTURE);
  assert.ok(execution instanceof isola.Execution);
  assert.equal(execution.error, null);
  assert.deepEqual(execution.logs, { stdout: ['before\n'], stderr: [] });
  assert.deepEqual(
    execution.results.map((result) => result.isMainResult),
    [false, true],
  );
  for (const result of execution.results) {
    assert.ok(result instanceof isola.Result);
    const types = ['application/json', 'image/png', 'text/html', 'text/plain'];
    assert.deepEqual(result.formats().sort(), types);
    assert.equal(result.png, PNG);
    assert.deepEqual([result.html, result.text, result.svg], ['<img>', 'a picture', null]);
    assert.deepEqual([result.json, result.chart], [{ width: 1 }, null]);
  }
  assert.equal(execution.text, 'a picture');
  assert.equal(execution.executionCount, 1);
  const json = JSON.parse(JSON.stringify(execution));
  assert.deepEqual(Object.keys(json), ['results', 'logs', 'error', 'execution_count']);
  assert.equal(json.results[1].is_main_result, true);
  assert.equal(json.results[1].data['image/png'], PNG);
});

test('an exception is in the execution', async (t) => {
  const guest = await sandbox(t, 'python', '');
  const { error, text } = await guest.runCode('x = 1\n1 / 0');
  assert.deepEqual(
    [error.name, error.value, text],
    ['ZeroDivisionError', 'division by zero', null],
  );
  assert.match(error.traceback, /^Traceback/);
  const execution = await guest.runCode('x + 1');
  assert.deepEqual([execution.text, execution.executionCount], ['2', 2]);
});

test('listeners get events while the code runs', async (t) => {
  const arrived = signal();
  const guest = await sandbox(t, 'python', '', { hostcalls: { wait: () => arrived.promise } });
  const seen = [];
  const execution = await guest.runCode(
    `
import sys
from sandbox.asyncio import hostcall
print('out')
await hostcall('wait', None)
print('err', file=sys.stderr)
display(1)
raise ValueError('no')
`,
    {
      onStdout(text) {
        seen.push(['stdout', text]);
        // The code continues only after its first line was received.
        arrived.resolve(null);
      },
      onStderr: (text) => seen.push(['stderr', text]),
      async onResult(result) {
        await new Promise(setImmediate);
        seen.push(['result', result.text]);
      },
      onError: (error) => seen.push(['error', error.name]),
    },
  );
  assert.deepEqual(seen, [
    ['stdout', 'out\n'],
    ['stderr', 'err\n'],
    ['result', '1'],
    ['error', 'ValueError'],
  ]);
  assert.equal(execution.error.value, 'no');
});

test('code is interrupted if a listener throws', async (t) => {
  const guest = await sandbox(t, 'python', '');
  const loop = 'count = 0\nwhile True:\n    count += 1\n    print(count)';
  const onStdout = (text) => {
    throw new RangeError(text);
  };
  await assert.rejects(guest.runCode(loop, { onStdout }), { name: 'RangeError', message: /^1\n/ });
  assert.equal((await guest.runCode('count > 0')).text, 'True');
});

test('contexts have their own state', async (t) => {
  const guest = await sandbox(t, 'python', '');
  await guest.files.makeDir('/data');
  const context = await guest.contexts.create({ cwd: '/data' });
  assert.deepEqual([context.language, context.cwd, context.executionCount], ['python', '/data', 0]);
  await guest.runCode('x = 1');
  assert.equal((await guest.runCode('x = 2; x', { context })).text, '2');
  assert.equal((await guest.runCode('x')).text, '1');
  assert.equal((await guest.runCode('x', { context: context.id })).text, '2');
  assert.deepEqual(
    (await guest.contexts.list()).map(({ id, executionCount }) => [id, executionCount]),
    [
      ['default', 2],
      [context.id, 2],
    ],
  );
  const [child] = await guest.fork();
  t.after(() => child.close());
  assert.equal((await child.runCode('x', { context })).text, '2');
  assert.equal((await guest.contexts.restart(context)).executionCount, 0);
  assert.equal((await guest.runCode('x', { context })).error.name, 'NameError');
  assert.equal(await guest.contexts.interrupt(context), false);
  await guest.contexts.remove(context);
  await assert.rejects(guest.runCode('x', { context }), { code: 'invalid_argument' });
  await assert.rejects(guest.contexts.remove('default'), { code: 'invalid_argument' });
});

test('code is interrupted, by the caller and by time limits', async (t) => {
  const guest = await sandbox(t, 'python', '');
  assert.equal(guest.interrupt(), false);
  const started = signal();
  const running = guest.runCode("print('running')\ncount = 0\nwhile True:\n    count += 1", {
    onStdout: started.resolve,
  });
  await started.promise;
  await assert.rejects(guest.runCode('1'), { code: 'busy' });
  assert.equal(await guest.contexts.interrupt('other'), false);
  assert.equal(guest.interrupt(), true);
  assert.equal((await running).error.name, 'KeyboardInterrupt');
  for (const limit of [{ timeoutMs: 50 }, { timeout: 50 }]) {
    const execution = await guest.runCode('while True: pass', limit);
    assert.equal(execution.error.name, 'TimeoutError');
  }
  assert.equal((await guest.runCode('count > 0')).text, 'True');
  await assert.rejects(guest.runCode('while True: pass', { cpuTimeoutMs: 50 }), {
    code: 'cpu_time_limit',
  });
  const stopped = await sandbox(t, 'js', '');
  const controller = new AbortController();
  const spinning = stopped.runCode('for (;;);', { signal: controller.signal });
  setImmediate(() => controller.abort());
  await assert.rejects(spinning, { code: 'aborted' });
  await assert.rejects(stopped.runCode('1'), { code: 'closed' });
});

test('the arguments of runCode and of contexts are checked', async (t) => {
  const guest = await sandbox(t, 'python', '');
  for (const [operation, message] of [
    [() => guest.runCode(5), /code of a script must be a string, not 5/],
    [() => guest.runCode('1', { language: 'ruby' }), /this sandbox runs python, not `ruby`/],
    [() => guest.runCode('1', { language: 5 }), /language must be a string/],
    [() => guest.runCode('1', { context: 5 }), /context must be a context or its id, not 5/],
    [() => guest.runCode('1', { context: 'a b' }), /not an id of a context: `a b`/],
    [() => guest.runCode('1', { onResult: 5 }), /onResult must be a function, not 5/],
    [() => guest.runCode('1', { timeout: 1, timeoutMs: 1 }), /two names of one option/],
    [() => guest.runCode('1', { timeout: 0 }), /timeout must be a positive number/],
    [() => guest.runCode('1', { name: 'x' }), /no option "name"/],
    [() => guest.contexts.create({ language: 'js' }), /this sandbox runs python, not `js`/],
    [() => guest.contexts.create({ name: 'x' }), /no option "name"/],
    [() => guest.contexts.create({ cwd: '/none' }), /\/none/],
    [() => guest.contexts.restart('none'), /none/],
    [() => guest.contexts.remove(5), /context must be a context or its id, not 5/],
  ]) {
    await assert.rejects(
      async () => operation(),
      (error) => {
        assert.ok(error instanceof isola.InvalidArgumentError, String(error));
        assert.match(error.message, message);
        return true;
      },
    );
  }
  assert.equal((await guest.runCode('1', { language: 'python', context: null })).text, '1');
  assert.throws(() => new isola.Contexts(), /use sandbox.contexts/);
});

test('JavaScript runs in contexts', async (t) => {
  const guest = await sandbox(t, 'js', '', { bigints: true });
  const context = await guest.contexts.create({ language: 'javascript' });
  await guest.runCode('const x = 1', { context });
  const execution = await guest.runCode(
    "console.log('out'); display({ 'text/html': '<b>' }); display({ 'application/json': 2n ** 70n }); [x]",
    { context },
  );
  assert.deepEqual(execution.logs.stdout, ['out\n']);
  assert.equal(execution.results[0].html, '<b>');
  assert.equal(execution.text, '[ 1 ]');
  assert.equal((await guest.runCode('x')).error.name, 'ReferenceError');
});
