// The effect of each option, and the rejection of unknown and invalid ones.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import * as isola from 'isola-core';
import { sandbox, template } from './support/fixture.mjs';

const { buildTemplate, SandboxContext } = isola;
const require = createRequire(import.meta.url);

async function tempDir(t) {
  const created = await mkdtemp(path.join(tmpdir(), 'isola-test-'));
  t.after(() => rm(created, { recursive: true, force: true }));
  return created;
}

async function started(t, built, config) {
  const created = await built.create(config);
  t.after(() => created.close());
  await created.start();
  return created;
}

test('env and mounts of a sandbox override those of its template', async (t) => {
  const [one, two] = [await tempDir(t), await tempDir(t)];
  await writeFile(path.join(one, 'a.txt'), 'one');
  await writeFile(path.join(two, 'a.txt'), 'two');
  const built = await buildTemplate('python', {
    prelude:
      'import os\ndef env(name): return os.environ.get(name)\ndef read(path): return open(path).read()\ndef write(path):\n open(path, "w").write("x")\n',
    env: { A: 'template', B: 'template' },
    mounts: [{ host: one, guest: '/data' }],
    maxMemory: 128 * 1024 * 1024,
  });
  const plain = await started(t, built);
  assert.equal(await plain.run('env', ['A']), 'template');
  assert.equal(await plain.run('read', ['/data/a.txt']), 'one');
  await assert.rejects(plain.run('write', ['/data/b.txt']), { code: 'guest_exception' });
  const other = await started(t, built, {
    env: { B: 'sandbox' },
    mounts: [{ host: two, guest: '/data', dir_perms: 'read-write', file_perms: 'read-write' }],
  });
  assert.equal(await other.run('env', ['A']), 'template');
  assert.equal(await other.run('env', ['B']), 'sandbox');
  assert.equal(await other.run('read', ['/data/a.txt']), 'two');
  await other.run('write', ['/data/b.txt']);
  assert.equal(await readFile(path.join(two, 'b.txt'), 'utf8'), 'x');
});

test('maxMemory of a sandbox overrides that of its template', async (t) => {
  const bomb = 'def main():\n return len(bytearray(100 * 1024 * 1024))\n';
  const small = await buildTemplate('python', { maxMemory: 64 * 1024 * 1024 });
  const guest = await started(t, small);
  await guest.loadScript(bomb);
  await assert.rejects(
    guest.run('main'),
    (error) => error instanceof isola.LimitError && error.code === 'memory_limit',
  );
  const roomy = await started(t, small, { maxMemory: 256 * 1024 * 1024 });
  await roomy.loadScript(bomb);
  assert.equal(await roomy.run('main'), 100 * 1024 * 1024);
  await assert.rejects(small.create({ maxMemory: 1000 }), {
    code: 'invalid_argument',
    message: /max_memory of 1000 bytes/,
  });
});

const LIMITED = `
import asyncio
from sandbox.asyncio import hostcall

def spin():
    while True: pass
def big(n): return "x" * n
def talk(n): print("x" * n)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
async def ask(n): return await asyncio.gather(*(hostcall("never", "x") for _ in range(n)))
async def tell(n): return await hostcall("never", "x" * n)
def open_many(n): return [open("/data/file") for _ in range(n)]
async def fetch_many(n):
    from sandbox.http import fetch
    async def one():
        async with fetch("GET", "http://a.test/") as response: return response.status
    return await asyncio.gather(*(one() for _ in range(n)))
`;

for (const [limits, name, args, code, message] of [
  [{ cpuTimeoutMs: 50 }, 'spin', [], 'cpu_time_limit', /50ms/],
  [{ timeoutMs: 50 }, 'spin', [], 'wall_time_limit', /50ms/],
  [{ maxMemory: 48 << 20 }, 'big', [200 << 20], 'memory_limit', /memory/],
  [{ maxValueSize: 2000 }, 'big', [2000], 'value_size_limit', /2000/],
  [{ maxOutputSize: 1000 }, 'talk', [1000], 'output_limit', /1000/],
  [{ maxRecursion: 100 }, 'deep', [100], 'recursion_limit', /100/],
  [{ maxPendingHostcalls: 3 }, 'ask', [4], 'hostcall_failed', /3/],
  [{ maxHeldMemory: 1000 }, 'tell', [1000], 'hostcall_failed', /1000/],
  [{ maxHandles: 100 }, 'open_many', [100], 'handle_limit', /100/],
  [{ maxRequests: 3 }, 'fetch_many', [4], 'guest_exception', /3/],
]) {
  test(`the limit ${Object.keys(limits)} of a template and of a sandbox is enforced`, async (t) => {
    const data = await tempDir(t);
    await writeFile(path.join(data, 'file'), '');
    const never = () => new Promise(() => {});
    const config = { hostcalls: { never }, http: never, mounts: [{ host: data, guest: '/data' }] };
    const limited = await buildTemplate('python', { limits });
    for (const guest of [
      await started(t, limited, config),
      await started(t, await template('python'), { ...config, limits }),
    ]) {
      await guest.loadScript(LIMITED);
      await assert.rejects(guest.run(name, args), (error) => {
        assert.equal(error.code, code, error.stack);
        assert.match(error.message, message);
        return true;
      });
    }
    // Each limit of a sandbox overrides that of its template.
    const roomy = { timeoutMs: Infinity, cpuTimeoutMs: Infinity, maxRecursion: 500 };
    const guest = await started(t, limited, { limits: roomy, maxMemory: 128 << 20 });
    await guest.loadScript(LIMITED);
    assert.equal(await guest.run('deep', [200]), 200);
  });
}

test('compiled code is stored in cacheDir and reused', { timeout: 300_000 }, async (t) => {
  const cacheDir = await tempDir(t);
  const phases = [];
  await buildTemplate('js', { cacheDir, onProgress: ({ phase }) => phases.push(phase) });
  assert.ok((await readdir(cacheDir)).some((name) => name.endsWith('.cwasm')));
  await buildTemplate('js', { cacheDir, onProgress: ({ phase }) => phases.push(phase) });
  await new Promise(setImmediate);
  assert.deepEqual(phases, ['compile']);
});

test('runtimePath is a file or a directory, and no other location is searched', async (t) => {
  const shipped = path.dirname(require.resolve('isola-core-runtime-js/package.json'));
  for (const runtimePath of [shipped, path.join(shipped, 'js.wasm')]) {
    const guest = await started(
      t,
      await buildTemplate('js', { runtimePath, runtimeLibDir: shipped }),
    );
    await guest.loadScript('function main() { return 1; }');
    assert.equal(await guest.run('main'), 1);
  }
  const empty = await tempDir(t);
  await assert.rejects(buildTemplate('js', { runtimePath: empty }), {
    code: 'invalid_argument',
    message: /js\.wasm.*was not found/,
  });
  await assert.rejects(
    buildTemplate('js', { runtimePath: shipped, runtimeLibDir: '/nowhere' }),
    /library directory/,
  );
  await writeFile(path.join(empty, 'js.wasm'), 'nonsense');
  await assert.rejects(buildTemplate('js', { runtimePath: empty, cacheDir: empty }), {
    code: 'invalid_argument',
  });
});

test('a context builds templates until it is closed', async (t) => {
  const context = new SandboxContext();
  const built = await context.buildTemplate('js');
  context.close();
  context.close();
  await assert.rejects(
    context.buildTemplate('js'),
    (error) => error instanceof isola.ClosedError && error.code === 'closed',
  );
  const guest = await started(t, built);
  await guest.loadScript('function main() { return 1; }');
  assert.equal(await guest.run('main'), 1);
  const other = new SandboxContext();
  await other[Symbol.asyncDispose]();
  await assert.rejects(other.buildTemplate('js'), { code: 'closed' });
});

test('an error in the prelude fails the start and closes the sandbox', async (t) => {
  const built = await buildTemplate('python', { prelude: 'raise ValueError("no")' });
  const created = await built.create();
  t.after(() => created.close());
  await assert.rejects(created.start(), { code: 'guest_exception' });
  await assert.rejects(created.run('f'), { code: 'closed' });
});

test('tracebacks contain the name of the script', async (t) => {
  const guest = await sandbox(t, 'python', '');
  await guest.loadScript('def f(): raise ValueError()', { name: 'mine.py' });
  await assert.rejects(guest.run('f'), (error) =>
    /File "mine\.py", line 1/.test(error.exception.traceback),
  );
});

test('unknown and invalid options are refused by name', async (t) => {
  const built = await template('js');
  const guest = await sandbox(t, 'js', 'function f() {}');
  const signal = 'later';
  for (const [attempt, message] of [
    [() => buildTemplate('ruby'), /no runtime "ruby": use "python", "python-data" or "js"/],
    [() => buildTemplate(), /no runtime undefined/],
    [() => buildTemplate('js', 'x'), /options must be an object/],
    [() => buildTemplate('js', { memory: 1 }), /no option "memory": the options are runtimePath, /],
    [
      () => buildTemplate('js', { maxMemory: '1' }),
      /maxMemory must be a non-negative integer, not "1"/,
    ],
    [
      () => buildTemplate('js', { maxMemory: -1 }),
      /maxMemory must be a non-negative integer, not -1/,
    ],
    [() => buildTemplate('js', { maxMemory: 1.5 }), /maxMemory/],
    [() => buildTemplate('js', { cacheDir: 1 }), /cacheDir must be a string/],
    [() => buildTemplate('js', { reuseMemory: 'no' }), /reuseMemory must be true or false/],
    [() => buildTemplate('js', { prelude: 1 }), /prelude must be a string/],
    [() => buildTemplate('js', { version: 1 }), /version must be a string/],
    [() => buildTemplate('js', { version: '../x' }), /not the version of a release/],
    [() => buildTemplate('js', { env: [] }), /env must be an object of strings/],
    [() => buildTemplate('js', { env: { A: 1 } }), /env\.A must be a string/],
    [() => buildTemplate('js', { env: { 'A=B': '' } }), /environment variable "A=B"/],
    [() => buildTemplate('js', { mounts: {} }), /mounts must be an array/],
    [() => buildTemplate('js', { mounts: [1] }), /mounts\[0\]: options must be an object/],
    [() => buildTemplate('js', { mounts: [{ host: '/' }] }), /mounts\[0\]\.guest must be a path/],
    [
      () => buildTemplate('js', { mounts: [{ host: '/', guest: '/x', dirPerms: 'read' }] }),
      /mounts\[0\] has no option "dirPerms"/,
    ],
    [
      () => buildTemplate('js', { mounts: [{ host: '/', guest: '/x', dir_perms: 'rw' }] }),
      /dir_perms must be "read", "write" or "read-write"/,
    ],
    [() => buildTemplate('js', { mounts: [{ host: '/nowhere', guest: '/x' }] }), /cannot be read/],
    [() => buildTemplate('js', { mounts: [{ host: '/', guest: 'x' }] }), /absolute/],
    [() => buildTemplate('js', { limits: { memory: 1 } }), /limits has no option "memory"/],
    [
      () => buildTemplate('js', { limits: { timeoutMs: 0 } }),
      /timeoutMs must be a positive number/,
    ],
    [() => buildTemplate('js', { onProgress: 1 }), /onProgress must be a function/],
    [() => buildTemplate('js', { version: '9.9.9', downloadUrl: 'ftp://a.test' }), /use https/],
    [
      () => buildTemplate('js', { version: '9.9.9', downloadUrl: 'http://a.test' }),
      /use https, or give the SHA-256 digest/,
    ],
    [() => built.create({ memory: 1 }), /create has no option "memory"/],
    [() => built.create({ hostcalls: [] }), /hostcalls must be an object/],
    [() => built.create({ hostcalls: { f: 1 } }), /hostcalls\.f must be a function/],
    [() => built.create({ http: 'yes' }), /http must be true or a function/],
    [() => built.create({ httpHandler: 1 }), /httpHandler must be true or a function/],
    [() => built.create({ http: true, httpHandler: true }), /two names of one option/],
    [() => built.create({ httpRequestBody: 'x' }), /httpRequestBody must be "buffer" or "stream"/],
    [() => built.create({ bigints: 1 }), /bigints must be true or false/],
    [() => guest.run('f', [], {}, { timeout: 1 }), /a call has no option "timeout"/],
    [() => guest.run('f', [], {}, { timeoutMs: '1' }), /timeoutMs must be a positive number/],
    [() => guest.run('f', [], {}, { cpuTimeoutMs: NaN }), /cpuTimeoutMs must be/],
    [() => guest.run('f', [], {}, { signal }), /signal must be an AbortSignal/],
    [() => guest.start({ name: 'x' }), /no option "name"/],
    [() => guest.loadScript('', { name: 1 }), /name must be a string/],
  ]) {
    await assert.rejects(
      async () => attempt(),
      (error) => {
        assert.ok(error instanceof isola.InvalidArgumentError, error.stack);
        assert.equal(error.code, 'invalid_argument');
        assert.match(error.message, message);
        return true;
      },
    );
  }
  assert.throws(() => new isola.Sandbox(), /a Sandbox cannot be constructed: use template\.create/);
  assert.throws(() => new isola.SandboxTemplate(), /cannot be constructed: use buildTemplate/);
});
