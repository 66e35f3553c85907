/**
 * Runs the tests with one server, which it starts and stops.
 *
 *     node out/suite.js [ARGUMENTS OF node --test]
 *
 * `ISORUN_COMMAND` is the command `isorun`, `ISORUN_PYTHON` a Python with the packages of the
 * tests of the Python package, and `ISORUN_NOTEBOOK_PACKAGES` the packages of a notebook.
 * `ISORUN_TEST_FILES` has the names of some files of tests, such as `cancel transport`; all of
 * them run by default.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { REPOSITORY, required } from './environment.js';

const directory = mkdtempSync(join(tmpdir(), 'isorun-typescript-'));
const command = required('ISORUN_COMMAND');
const environment = {
  ...process.env,
  ISORUN_DATA_DIR: join(directory, 'data'),
  XDG_CONFIG_HOME: join(directory, 'config'),
};
// The tests must find the server as its user does.
delete environment['ISORUN_API_URL' as keyof typeof environment];
delete environment['ISORUN_API_KEY' as keyof typeof environment];

let server: ChildProcess | undefined;
let tests: ChildProcess | undefined;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    tests?.kill();
    server?.kill();
    process.exitCode = 1;
  });
}

try {
  importImage('python_image', 'python:3.12');
  importImage('notebook_image', 'notebook:1');
  server = await serve();
  process.exitCode = await runTests();
} finally {
  const code = await stop();
  rmSync(directory, { recursive: true, force: true });
  assert.equal(code, 0, 'the server did not stop in an orderly way');
}

/** Creates the files of an image, and imports them. */
function importImage(files: string, name: string): void {
  const root = join(directory, files);
  mkdirSync(root);
  const script = join(REPOSITORY, 'sdk/typescript/test/image.py');
  run(required('ISORUN_PYTHON'), [script, files, root]);
  run(command, ['image', 'import', '--quiet', '--rootfs', root, name]);
  rmSync(root, { recursive: true });
}

function run(program: string, args: string[]): void {
  const env = { ...environment, PYTHONDONTWRITEBYTECODE: '1' };
  const done = spawnSync(program, args, { env, stdio: 'inherit', timeout: 300_000 });
  if (done.error !== undefined) throw done.error;
  assert.equal(done.status, 0, `${program} ${args.join(' ')} failed`);
}

async function serve(): Promise<ChildProcess> {
  const args = ['serve', '--listen', '127.0.0.1:0', '--no-pull', '--log', 'warn'];
  const started = spawn(command, args, {
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  server = started;
  for await (const line of createInterface({ input: started.stdout })) {
    // The server has started when it has printed the API key.
    if (line.includes('ISORUN_API_KEY=')) return started;
  }
  throw new Error('the server did not start');
}

async function runTests(): Promise<number> {
  const here = fileURLToPath(new URL('.', import.meta.url));
  // Each file by its name: later versions of Node.js treat a directory differently.
  const all = readdirSync(here).filter((name) => name.endsWith('.test.js'));
  const chosen = process.env['ISORUN_TEST_FILES']?.split(' ').map((name) => `${name}.test.js`);
  const files = chosen ?? all;
  assert.ok(files.length > 0, 'there are no tests');
  for (const name of files) assert.ok(all.includes(name), `there is no file ${name}`);
  const options = [
    '--test',
    '--test-timeout=120000',
    '--test-concurrency=2',
    '--test-reporter=spec',
  ];
  const args = [...options, ...process.argv.slice(2), ...files.map((name) => join(here, name))];
  const running = spawn(process.execPath, args, { env: environment, stdio: 'inherit' });
  tests = running;
  return await new Promise((resolve, reject) => {
    running.once('error', reject);
    running.once('close', (code) => resolve(code ?? 1));
  });
}

async function stop(): Promise<number | null> {
  const running = server;
  if (running === undefined || running.exitCode !== null) return running?.exitCode ?? 0;
  const ended = new Promise<number | null>((resolve) => running.once('exit', resolve));
  running.stdout?.destroy();
  running.kill();
  const timer = setTimeout(() => running.kill('SIGKILL'), 60_000);
  const code = await ended;
  clearTimeout(timer);
  return code;
}
