// Snapshots and forks of sandboxes.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { InvalidArgumentError, Snapshot, SnapshotError } from 'isola-core';
import { template } from './support/fixture.mjs';

const SCRIPTS = {
  python: `
from sandbox.asyncio import hostcall
n = 0
def items():
    yield from range(9)
pending = items()
def step(by=1):
    global n
    n += by
    return [n, next(pending)]
async def who():
    return await hostcall("who", None)
`,
  js: `
let n = 0;
function* items() { for (let i = 0; i < 9; i++) yield i }
const pending = items();
const step = (by = 1) => [n += by, pending.next().value];
const who = () => hostcall('who', null);
`,
};

async function loaded(t, runtime) {
  const parent = await (
    await template(runtime)
  ).create({ hostcalls: { who: async () => 'parent' } });
  t.after(() => parent.close());
  await parent.start();
  await parent.loadScript(SCRIPTS[runtime]);
  return parent;
}

async function tempDir(t) {
  const path = await mkdtemp(join(tmpdir(), 'isola-'));
  t.after(() => rm(path, { recursive: true }));
  return path;
}

for (const runtime of ['python', 'js']) {
  test(`${runtime}: forks continue independently`, async (t) => {
    const parent = await loaded(t, runtime);
    assert.deepEqual(await parent.run('step'), [1, 0]);
    const children = await parent.fork(3);
    assert.equal(children.length, 3);
    for (const [number, child] of children.entries()) {
      assert.deepEqual(await child.run('step', [10 * number]), [1 + 10 * number, 1]);
      assert.equal(await child.run('who'), 'parent');
      child.close();
    }
    assert.deepEqual(await parent.run('step'), [2, 1]);
    assert.deepEqual(await parent.fork(0), []);
  });

  test(`${runtime}: a snapshot is restored with other options, and from a file`, async (t) => {
    const parent = await loaded(t, runtime);
    await parent.run('step', [5]);
    const snapshot = await parent.snapshot();
    assert.ok(snapshot instanceof Snapshot);
    assert.equal(snapshot.runtime, runtime);
    assert.ok(snapshot.residentSize > 0 && snapshot.residentSize <= snapshot.memorySize);
    parent.close();
    const path = join(await tempDir(t), 'a.snapshot');
    assert.equal(await snapshot.save(path), (await stat(path)).size);
    const built = await template(runtime);
    for (const from of [snapshot, path, await built.loadSnapshot(path)]) {
      const sandbox = await built.restore(from, { hostcalls: { who: async () => 'child' } });
      assert.deepEqual(await sandbox.run('step'), [6, 1]);
      assert.equal(await sandbox.run('who'), 'child');
      await assert.rejects(sandbox.start(), { code: 'not_pending' });
      sandbox.close();
    }
  });
}

test('incompatible and damaged snapshots and invalid arguments are refused', async (t) => {
  const parent = await loaded(t, 'js');
  const path = join(await tempDir(t), 'a.snapshot');
  const snapshot = await parent.snapshot();
  await snapshot.save(path);
  const [python, js] = await Promise.all([template('python'), template('js')]);
  await assert.rejects(python.loadSnapshot(path), (error) => {
    assert.ok(error instanceof SnapshotError);
    assert.equal(error.code, 'snapshot_refused');
    return /for the runtime js/.test(error.message);
  });
  await assert.rejects(python.restore(snapshot), /of the runtime js/);
  const bytes = await readFile(path);
  bytes[bytes.length >> 1] ^= 1;
  await writeFile(path, bytes);
  await assert.rejects(js.restore(path), /damaged/);
  for (const wrong of [
    () => js.restore({}),
    () => js.loadSnapshot(7),
    () => snapshot.save(''),
    () => parent.fork(-1),
  ]) {
    await assert.rejects(wrong(), InvalidArgumentError);
  }
  assert.throws(() => new Snapshot(), InvalidArgumentError);
  await assert.rejects(js.restore(snapshot, { maxMemory: 1 << 20 }), /max_memory/);

  const running = parent.run('step');
  await assert.rejects(parent.snapshot(), { code: 'busy' });
  await running;
  parent.close();
  await assert.rejects(parent.fork(), { code: 'closed' });
});
