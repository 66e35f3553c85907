// The effects of the package on its process: when it exits, workers, timers and memory.
// Errors about the native part.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);
const require = createRequire(import.meta.url);

const BEGIN = `
const { buildTemplate } = require('isola-core');
const begin = async (script, config) => {
  const sandbox = await (await buildTemplate('js')).create(config);
  await sandbox.start();
  await sandbox.loadScript(script);
  return sandbox;
};
`;

async function printed(program) {
  const { stdout, stderr } = await run(process.execPath, ['-e', BEGIN + program]);
  assert.equal(stderr, '');
  return stdout;
}

test('a process exits while sandboxes are open', async () => {
  assert.equal(
    await printed(`begin('function main() { return 1; }', { http: true, hostcalls: { f() {} } })
      .then((sandbox) => sandbox.run('main')).then(console.log);`),
    '1\n',
  );
});

test('a process exits while an event stream is incomplete', async () => {
  assert.equal(
    await printed(`begin('function* main() { for (;;) yield 1; }').then(async (sandbox) => {
      console.log(await sandbox.runStream('main').next());
    });`),
    "{ done: false, value: { type: 'result', data: 1 } }\n",
  );
});

test('a process exits while the source of a stream argument is pending', async () => {
  assert.equal(
    await printed(`const { StreamArg } = require('isola-core');
    const source = { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) };
    begin('async function* main(xs) { yield 1; for await (const x of xs); }').then(async (sandbox) => {
      console.log(await sandbox.runStream('main', [StreamArg.from(source)]).next());
    });`),
    "{ done: false, value: { type: 'result', data: 1 } }\n",
  );
});

test('process.exit ends the process during a call', async () => {
  assert.equal(
    await printed(`begin('function main() { for (;;); }').then((sandbox) => {
      sandbox.run('main');
      setTimeout(() => { console.log('leaving'); process.exit(0); }, 50);
    });`),
    'leaving\n',
  );
});

test('a pending handler of a closed sandbox does not keep the process running', async () => {
  assert.equal(
    await printed(`let sandbox;
      const forever = () => { setImmediate(() => sandbox.close()); return new Promise(() => {}); };
      begin('async function main() { await hostcall("forever"); }', { hostcalls: { forever } })
        .then((made) => (sandbox = made).run('main')).catch((error) => console.log(error.code));`),
    'closed\n',
  );
});

test('sandboxes work in workers, and a worker can be terminated during a call', async () => {
  assert.equal(
    await printed(`
      const { Worker } = require('node:worker_threads');
      const source = \`(async () => {
        const { parentPort } = require('node:worker_threads');
        const sandbox = await (await require('isola-core').buildTemplate('js')).create();
        await sandbox.start();
        await sandbox.loadScript('function one() { return 1; } function spin() { for (;;); }');
        parentPort.postMessage(await sandbox.run('one'));
        await sandbox.run('spin', [], {}, { cpuTimeoutMs: 300 });
      })().catch(() => {})\`;
      const worker = new Worker(source, { eval: true });
      worker.on('message', async (message) => {
        console.log(message);
        await worker.terminate();
        const sandbox = await begin('function main() { return 2; }');
        console.log(await sandbox.run('main'));
      });`),
    '1\n2\n',
  );
});

test('timers run between consecutive short calls', async () => {
  assert.equal(
    await printed(`begin('function main() { return 1; }').then(async (sandbox) => {
      let ticks = 0;
      const timer = setInterval(() => (ticks += 1), 1);
      while (ticks < 3) await sandbox.run('main');
      clearInterval(timer);
      console.log('ticked');
    });`),
    'ticked\n',
  );
});

test('closed sandboxes free their memory', async () => {
  const program = `
    const { buildTemplate } = require('isola-core');
    (async () => {
      const template = await buildTemplate('js');
      const cycle = async (n) => {
        for (let i = 0; i < n; i += 1) {
          const sandbox = await template.create({ hostcalls: { f() {} }, http: true });
          await sandbox.start();
          await sandbox[Symbol.asyncDispose]();
        }
        for (let i = 0; i < 3; i += 1) { gc(); await new Promise(setImmediate); }
        return process.memoryUsage();
      };
      const before = await cycle(100);
      const after = await cycle(400);
      console.log(JSON.stringify([after.heapUsed - before.heapUsed, after.rss - before.rss]));
    })();
  `;
  const { stdout } = await run(process.execPath, ['--expose-gc', '-e', program]);
  const [heap, rss] = JSON.parse(stdout);
  // 400 guests that were not freed would take about 300 MB.
  assert.ok(heap < 1e6, `the heap grew by ${heap} bytes`);
  assert.ok(rss < 40e6, `the process grew by ${rss} bytes`);
});

test('memory use does not grow with the length of a stream argument', async () => {
  const program = `
    const { buildTemplate, StreamArg } = require('isola-core');
    (async () => {
      const sandbox = await (await buildTemplate('js')).create();
      await sandbox.start();
      await sandbox.loadScript(
        'async function main(xs) { let n = 0; for await (const x of xs) n += x.length; return n; }',
      );
      function* texts(n) {
        for (let i = 0; i < n; i += 1) yield 'x'.repeat(100_000);
      }
      const send = async (n) => {
        const length = await sandbox.run('main', [StreamArg.from(texts(n), { capacity: 4 })]);
        for (let i = 0; i < 3; i += 1) { gc(); await new Promise(setImmediate); }
        return [length, process.memoryUsage()];
      };
      const [, before] = await send(1000);
      const [length, after] = await send(3000);
      console.log(JSON.stringify([length, after.heapUsed - before.heapUsed, after.rss - before.rss]));
    })();
  `;
  const { stdout } = await run(process.execPath, ['--expose-gc', '-e', program]);
  const [length, heap, rss] = JSON.parse(stdout);
  assert.equal(length, 300_000_000);
  // A stream that kept its values would take 300 MB.
  assert.ok(heap < 1e6, `the heap grew by ${heap} bytes`);
  assert.ok(rss < 150e6, `the process grew by ${rss} bytes`);
});

/** Creates a directory in which only isola-core and `more` are installed. */
async function alone(t, more = {}) {
  const app = await mkdtemp(path.join(tmpdir(), 'isola-test-'));
  t.after(() => rm(app, { recursive: true, force: true }));
  const modules = path.join(app, 'node_modules');
  const core = path.dirname(require.resolve('isola-core/package.json'));
  await cp(core, path.join(modules, 'isola-core'), { recursive: true });
  for (const [name, content] of Object.entries(more)) {
    await mkdir(path.dirname(path.join(modules, name)), { recursive: true });
    await writeFile(path.join(modules, name), content);
  }
  return app;
}

async function refusal(cwd, before = '') {
  const program = `${before}
    require('isola-core').buildTemplate('js').catch((error) => console.log(error.code, error.message));`;
  const { stdout } = await run(process.execPath, ['-e', program], { cwd });
  return stdout;
}

test('an unsupported platform is reported with the supported ones', async (t) => {
  const other = "Object.defineProperty(process, 'platform', { value: 'sunos' });";
  assert.match(
    await refusal(await alone(t), other),
    /^invalid_argument isola-core does not support sunos-x64: supported platforms are linux-x64$/m,
  );
});

test('a missing or damaged native part is reported', async (t) => {
  assert.match(
    await refusal(await alone(t)),
    /^invalid_argument the package isola-core-linux-x64-gnu is not installed: install isola-core without --omit=optional$/m,
  );
  const damaged = await alone(t, {
    'isola-core-linux-x64-gnu/package.json':
      '{ "name": "isola-core-linux-x64-gnu", "main": "isola.node" }',
    'isola-core-linux-x64-gnu/isola.node': 'nonsense',
  });
  assert.match(
    await refusal(damaged),
    /^invalid_argument the native part of isola-core, which needs glibc, cannot be loaded: /m,
  );
});
