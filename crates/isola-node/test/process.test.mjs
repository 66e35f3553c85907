// What a process sees of the package: that it ends when nothing is left to do,
// and survives what handlers and workers do.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);

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

test('a process ends with sandboxes that nobody closed', async () => {
  assert.equal(
    await printed(`begin('function main() { return 1; }', { http: true, hostcalls: { f() {} } })
      .then((sandbox) => sandbox.run('main')).then(console.log);`),
    '1\n',
  );
});

test('a process ends with a stream that nobody goes on with', async () => {
  assert.equal(
    await printed(`begin('function* main() { for (;;) yield 1; }').then(async (sandbox) => {
      console.log(await sandbox.runStream('main').next());
    });`),
    "{ done: false, value: { type: 'result', data: 1 } }\n",
  );
});

test('a process ends in the middle of a call when it is told to', async () => {
  assert.equal(
    await printed(`begin('function main() { for (;;); }').then((sandbox) => {
      sandbox.run('main');
      setTimeout(() => { console.log('leaving'); process.exit(0); }, 50);
    });`),
    'leaving\n',
  );
});

test('a handler that never settles holds nothing once its sandbox is closed', async () => {
  assert.equal(
    await printed(`let sandbox;
      const forever = () => { setImmediate(() => sandbox.close()); return new Promise(() => {}); };
      begin('async function main() { await hostcall("forever"); }', { hostcalls: { forever } })
        .then((made) => (sandbox = made).run('main')).catch((error) => console.log(error.code));`),
    'closed\n',
  );
});

test('sandboxes work in workers, and a worker may be terminated during a call', async () => {
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
