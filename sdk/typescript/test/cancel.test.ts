/** Every call can be cancelled by a signal, and the sandbox stops what it does for the call. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Sandbox } from '@isorun/sdk';

import { server, until } from './environment.js';

const WAIT_FOR_SLEEP = 'while ! pgrep -x sleep; do sleep 0.05; done';
const WAIT_FOR_NO_SLEEP = 'while pgrep -x sleep; do sleep 0.05; done';

test('cancelling kills the command', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const command = 'exec sleep 1000';
  for (const run of [
    (signal: AbortSignal) => sb.exec(command, { timeout: 0, signal }),
    (signal: AbortSignal) => sb.exec(command, { timeout: 0, signal, onStdout: () => {} }),
    (signal: AbortSignal) => sb.execBytes(command, { timeout: 0, signal }),
    (signal: AbortSignal) => sb.execStream(command, { timeout: 0, signal }).result(),
    async (signal: AbortSignal) => {
      for await (const _ of sb.execStream(command, { timeout: 0, signal }));
    },
  ]) {
    const controller = new AbortController();
    const running = assert.rejects(run(controller.signal), { message: 'the reason' });
    assert.ok((await sb.exec(WAIT_FOR_SLEEP)).ok);
    controller.abort(new RangeError('the reason'));
    await running;
    assert.ok((await sb.exec(WAIT_FOR_NO_SLEEP)).ok);
  }
});

test('one signal cancels any number of calls', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const warnings: Error[] = [];
  const listen = (warning: Error): unknown => warnings.push(warning);
  process.on('warning', listen);
  const controller = new AbortController();
  const { signal } = controller;
  const calls = Array.from({ length: 30 }, () => sb.exec('sleep 1000', { timeout: 0, signal }));
  const cancelled = Promise.all(calls.map((call) => assert.rejects(call, { name: 'AbortError' })));
  assert.ok((await sb.exec(WAIT_FOR_SLEEP)).ok);
  controller.abort();
  await cancelled;
  assert.ok((await sb.exec(WAIT_FOR_NO_SLEEP)).ok);
  process.off('warning', listen);
  assert.deepEqual(warnings, []);
});

test('a signal that has fired, or a deadline, cancels', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const signal = AbortSignal.abort();
  const aborted = { name: 'AbortError' };
  await assert.rejects(Sandbox.create({ image: 'host', signal }), aborted);
  await assert.rejects(Sandbox.snapshots({ signal }), aborted);
  await assert.rejects(Sandbox.restore('x', { signal }), aborted);
  await assert.rejects(Sandbox.connect(sb.id, { signal }), aborted);
  await assert.rejects(sb.exec('touch /tmp/started', { signal }), aborted);
  await assert.rejects(sb.execStream('touch /tmp/started', { signal }).result(), aborted);
  await assert.rejects(sb.runCode('open("/tmp/started", "w")', { signal }), aborted);
  await assert.rejects(sb.writeText('/tmp/started', '', { signal }), aborted);
  await assert.rejects(sb.writeBytes('/tmp/started', new Uint8Array(), { signal }), aborted);
  await assert.rejects(sb.download('/etc/hosts', { signal, maxBytes: 1 }), aborted);
  await assert.rejects(sb.uploadFile(process.execPath, '/tmp/started', { signal }), aborted);
  await assert.rejects(sb.shell().run('touch /tmp/started', { signal }), aborted);
  for (const call of [
    () => sb.download('/tmp/x', { signal }),
    () => sb.ls('/tmp', { signal }),
    () => sb.setTimeout(1, { signal }),
    () => sb.fork(1, { signal }),
    () => sb.hibernate({ signal }),
    () => sb.resume({ signal }),
    () => sb.checkpoint({ signal }),
    () => sb.contexts.create({ signal }),
    () => sb.contexts.list({ signal }),
    () => sb.contexts.restart('x', { signal }),
    () => sb.contexts.interrupt('x', { signal }),
    () => sb.contexts.remove('x', { signal }),
    () => sb.destroy({ signal }),
  ]) {
    await assert.rejects(call, aborted);
  }
  // None of them has had an effect.
  assert.deepEqual(await sb.ls('/tmp'), []);
  const start = performance.now();
  const late = sb.exec('sleep 1000', { timeout: 0, signal: AbortSignal.timeout(200) });
  await assert.rejects(late, { name: 'TimeoutError' });
  assert.ok(performance.now() - start < 5000);
  assert.ok((await sb.exec(WAIT_FOR_NO_SLEEP)).ok);
});

test('cancelling interrupts a cell and keeps its context', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  await sb.runCode('n = 1');
  for (const options of [{}, { onStdout: () => {} }]) {
    const controller = new AbortController();
    const cell = sb.runCode('open("/tmp/on", "w").close()\nimport time\ntime.sleep(1000)', {
      timeout: 0,
      signal: controller.signal,
      ...options,
    });
    const cancelled = assert.rejects(cell, { name: 'AbortError' });
    assert.ok((await sb.exec('while ! rm /tmp/on; do sleep 0.05; done')).ok);
    controller.abort();
    await cancelled;
    let busy = true;
    while (busy) busy = (await sb.contexts.list()).some(({ status }) => status === 'busy');
    assert.equal((await sb.runCode('n')).text, '1');
  }
});

test('cancelling interrupts the command of a shell, which remains usable', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  await using sh = sb.shell();
  await sh.run('FOO=bar');
  for (const reason of [undefined, new RangeError('mine')]) {
    const controller = new AbortController();
    const running = sh.run('echo on; sleep 1000', {
      timeout: 0,
      signal: controller.signal,
    });
    // It waits for its turn, which it gives up.
    const waiting = sh.run('FOO=lost', { signal: controller.signal });
    const expected = reason ?? { name: 'AbortError' };
    const cancelled = Promise.all([
      assert.rejects(running, expected),
      assert.rejects(waiting, expected),
    ]);
    assert.ok((await sb.exec(WAIT_FOR_SLEEP)).ok);
    controller.abort(reason);
    await cancelled;
    assert.equal((await sh.run('echo $FOO')).stdout, 'bar\n');
    assert.ok((await sb.exec(WAIT_FOR_NO_SLEEP)).ok);
  }
});

test('cancelling a creation leaves no sandbox', async () => {
  const { url, key } = server();
  // No other test uses this size.
  const memMib = 777;
  const remaining = async (): Promise<number> => {
    const response = await fetch(`${url}/v1/runs`, { headers: { authorization: `Bearer ${key}` } });
    const { runs } = (await response.json()) as { runs: { mem_mib: number }[] };
    return runs.filter((run) => run.mem_mib === memMib).length;
  };
  let cancelled = 0;
  for (const delay of [0, 2, 5, 10, 20]) {
    const controller = new AbortController();
    const creating = Sandbox.create({ image: 'host', memMib, signal: controller.signal });
    setTimeout(() => controller.abort(), delay);
    try {
      await (await creating).destroy();
    } catch (error) {
      assert.ok(error instanceof DOMException && error.name === 'AbortError', String(error));
      cancelled += 1;
    }
  }
  assert.ok(cancelled > 0, 'every sandbox was created before it was cancelled');
  await until(async () => (await remaining()) === 0);
});
