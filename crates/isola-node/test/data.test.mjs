// The runtime `python-data`: an optional package with numpy and pandas.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { StreamArg } from 'isola-core';
import { sandbox, server, template } from './support/fixture.mjs';

const run = promisify(execFile);
const require = createRequire(import.meta.url);

const SALES = `
import io
import pandas as pd

def totals(text):
    sales = pd.read_csv(io.StringIO(text))
    sums = sales.groupby("region")["amount"].sum()
    return {region: int(amount) for region, amount in sums.items()}

async def running(numbers):
    total = 0
    async for number in numbers:
        total += number
    return total
`;

const DRAW = `
import numpy as np

def draw():
    return int(np.random.randint(2**60))
`;

test('a table is grouped and its sums are returned', async (t) => {
  const guest = await sandbox(t, 'python-data', SALES);
  const csv = 'region,amount\nnorth,10\nsouth,5\nnorth,7\n';
  assert.deepEqual(await guest.run('totals', [csv]), { north: 17, south: 5 });
  assert.equal(await guest.evaluate('int(pd.Series([2**40] * 4).sum())'), 4 * 2 ** 40);
});

test('the language of the runtime is Python', async (t) => {
  const guest = await sandbox(t, 'python-data', SALES);
  assert.equal(await guest.run('running', [StreamArg.from([1, 2, 3])]), 6);
  const context = await guest.contexts.create({ language: 'python' });
  assert.equal(context.language, 'python');
  await assert.rejects(guest.contexts.create({ language: 'javascript' }), /runs python, not/);
});

test('random numbers differ between sandboxes, forks and restored snapshots', async (t) => {
  const guest = await sandbox(t, 'python-data', DRAW);
  const other = await sandbox(t, 'python-data', DRAW);
  const snapshot = await guest.snapshot();
  assert.equal(snapshot.runtime, 'python-data');
  const forks = await guest.fork(2);
  const restored = await (await template('python-data')).restore(snapshot);
  for (const each of [...forks, restored]) t.after(() => each.close());
  const drawn = await Promise.all(
    [guest, other, ...forks, restored].map((each) => each.run('draw')),
  );
  assert.equal(new Set(drawn).size, drawn.length, drawn.join(' '));
});

test('a snapshot is restored by a template of the same runtime only', async (t) => {
  const guest = await sandbox(t, 'python-data', 'x = 1');
  const snapshot = await guest.snapshot();
  const plain = await template('python');
  await assert.rejects(plain.restore(snapshot), /is of the runtime python-data, but .* python/);
});

test('without its package in this version the error names the command that installs it', async (t) => {
  const dir = await realpath(await mkdtemp(path.join(tmpdir(), 'isola-test-')));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const modules = path.join(dir, 'node_modules');
  await mkdir(modules);
  const installed = (name) => path.dirname(require.resolve(`${name}/package.json`));
  await cp(installed('isola-core'), path.join(modules, 'isola-core'), { recursive: true });
  const native = 'isola-core-linux-x64-gnu';
  await symlink(installed(native), path.join(modules, native));
  const stale = path.join(modules, 'isola-core-runtime-python-data');
  await mkdir(stale);
  await writeFile(path.join(stale, 'package.json'), '{ "version": "0.0.1" }');
  await writeFile(path.join(stale, 'python-data.wasm'), 'of another version');
  const downloadUrl = await server(t, (_, response) => response.writeHead(404).end());
  const program = `
    const { buildTemplate, resolveRuntime } = require('isola-core');
    (async () => {
      const [downloadUrl] = process.argv.slice(1);
      for (const [find, options] of [
        [buildTemplate, {}],
        [resolveRuntime, {}],
        [resolveRuntime, { version: '9.9.9' }],
      ]) {
        await find('python-data', { ...options, downloadUrl }).catch(({ code, message }) => {
          console.log(JSON.stringify({ code, message }));
        });
      }
    })();
  `;
  const { XDG_CACHE_HOME, ...env } = { ...process.env, HOME: dir };
  const { stdout } = await run(process.execPath, ['-e', program, downloadUrl], { cwd: dir, env });
  const reported = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    reported.map(({ code }) => code),
    ['download_failed', 'download_failed', 'download_failed'],
  );
  const { version } = require('isola-core/package.json');
  const command = `npm install isola-core-runtime-python-data@${version}`;
  const advice = new RegExp(`404.*; install the runtime with: ${command}$`);
  assert.match(reported[0].message, advice);
  assert.match(reported[1].message, advice);
  // npm would install the version of the package.
  assert.doesNotMatch(reported[2].message, /npm install/);
});
