/** The steps of the tour, in this language. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

import { finish, PACKAGE, server, until } from './environment.js';

const STEP_ONE = `
import { Sandbox } from '@isorun/sdk';
const sb = await Sandbox.create({ image: 'python:3.12' }); // 1. Run code
const out = await sb.exec("python3 -c 'print(2 + 2)'");
console.log(out.stdout); // 4
await sb.destroy();
`;

const STATE_STEPS = `
import { Sandbox } from '@isorun/sdk';
const sb = await Sandbox.create({ image: 'python:3.12' });
// 2. A shell session, whose state persists
const sh = sb.shell();
await sh.run('cd /tmp && export FOO=bar');
console.log((await sh.run('echo $FOO')).stdout); // bar
await sh.close();
// 3. Fork the running sandbox into independent children
for (const child of await sb.fork(5)) {
  console.log((await child.exec("python3 -c 'print(\\"hello from a fork\\")'")).stdout);
  await child.destroy();
}
// 5. Hibernate, resume later
await sb.hibernate();
await sb.resume();
console.log((await sb.exec("python3 -c 'print(2 + 2)'")).stdout);
await sb.destroy();
`;

const STEP_FOUR = `
import { once } from 'node:events';
import { Sandbox } from '@isorun/sdk';
const sb = await Sandbox.create({ image: 'python:3.12' });
// 4. Expose a server in the sandbox at a public URL
await sb.exec('nohup setsid python3 -m http.server 8000 >/dev/null 2>&1 &');
console.log(sb.url(8000));
await once(process.stdin, 'data');
process.stdin.destroy();
await sb.destroy();
`;

/** An open shell, and a sandbox that is not destroyed. */
const FORGOTTEN = `
import { Sandbox } from '@isorun/sdk';
const sb = await Sandbox.create({ image: 'python:3.12' });
const sh = sb.shell();
console.log(sb.id, (await sh.run('echo $((6 * 7))')).stdout.trim());
`;

let directory: string;

before(() => {
  directory = mkdtempSync(join(tmpdir(), 'isorun-tour-'));
  mkdirSync(join(directory, 'node_modules', '@isorun'), { recursive: true });
  symlinkSync(PACKAGE, join(directory, 'node_modules', '@isorun', 'sdk'));
});

after(() => rmSync(directory, { recursive: true }));

function write(name: string, program: string): string {
  const path = join(directory, name);
  writeFileSync(path, program);
  return path;
}

async function printed(program: string, env = process.env): Promise<string> {
  const done = await finish(process.execPath, [write('program.mjs', program)], { env });
  assert.equal(done.code, 0, done.stderr);
  return done.stdout;
}

test('step one uses the configuration file', async () => {
  // The address and the key are read from the file that the server wrote.
  assert.equal(await printed(STEP_ONE), '4\n\n');
});

test('step one uses the environment', async () => {
  const { url, key } = server();
  const env = { ...process.env, ISORUN_API_URL: url };
  assert.equal(await printed(STEP_ONE, env), '4\n\n');
  // Everything is set in the environment, and no file is found.
  const alone = { ...env, XDG_CONFIG_HOME: '/nowhere', ISORUN_API_KEY: key };
  assert.equal(await printed(STEP_ONE, alone), '4\n\n');
});

test('the steps of the state print the documented output', async () => {
  const expected = `bar\n\n${'hello from a fork\n\n'.repeat(5)}4\n\n`;
  assert.equal(await printed(STATE_STEPS), expected);
});

test('step four exposes a server at a public URL', async () => {
  const path = write('four.mjs', STEP_FOUR);
  const program = spawn(process.execPath, [path], { stdio: ['pipe', 'pipe', 'inherit'] });
  const timer = setTimeout(() => program.kill('SIGKILL'), 100_000);
  const ended = new Promise<number | null>((resolve) => program.once('exit', resolve));
  try {
    const lines = createInterface({ input: program.stdout })[Symbol.asyncIterator]();
    const url = String((await lines.next()).value);
    assert.ok(url.startsWith(server().url));
    assert.match(url.slice(server().url.length), /^\/sb\/run[0-9a-f]{16}\/p\/8000\/$/);
    // The server in the sandbox needs a moment to start; the proxy reports that.
    let answer = await fetch(url);
    await until(async () => {
      answer = await fetch(url);
      if (answer.status !== 502) return true;
      assert.equal(((await answer.json()) as { code: string }).code, 'connection_refused');
      return false;
    });
    assert.equal(answer.status, 200);
    assert.match(await answer.text(), /Directory listing/);
    program.stdin.write('\n');
    assert.equal(await ended, 0);
    assert.equal((await fetch(url)).status, 404);
  } finally {
    clearTimeout(timer);
    program.kill();
  }
});

test('what a program forgets to close does not keep it alive', async () => {
  // The sandbox exists for five minutes more; `printed` waits for two.
  const [, id, text] = /^(run\w+) (\d+)\n$/.exec(await printed(FORGOTTEN)) ?? [];
  assert.equal(text, '42');
  const { url, key } = server();
  const headers = { authorization: `Bearer ${key}` };
  const destroyed = await fetch(`${url}/v1/runs/${id}`, { method: 'DELETE', headers });
  assert.equal(destroyed.status, 200);
});
