/** The sandbox session of the AI SDK, on the package `ai` with its own model for tests. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { IsorunConnectionError, IsorunError, Sandbox } from '@isorun/sdk';
import { createSandboxSession, type SandboxSession } from '@isorun/sdk/ai-sdk';

import { finish, PACKAGE, REPOSITORY, server, until } from './environment.js';
import { relay } from './relay.js';

// Its declarations are not valid with the strict options of these tests, so it is imported without
// them. Below, a program with the usual options is compiled against them.
const ai = (await import(String('ai'))) as {
  generateText(options: object): Promise<Generated>;
  jsonSchema(schema: object): unknown;
  stepCountIs(count: number): unknown;
  tool(options: object): unknown;
};
const { generateText, jsonSchema, stepCountIs, tool } = ai;

interface Generated {
  text: string;
  steps: { toolResults: { output: unknown }[] }[];
}

/** What a tool gets from the AI SDK, of which these tests use a part. */
interface ToolOptions {
  experimental_sandbox?: SandboxSession;
  abortSignal?: AbortSignal;
}

const BINARY = Uint8Array.from({ length: 10_240 }, (_, index) => index % 256);

let sandbox: Sandbox;
let session: SandboxSession;
let workingDirectory: string;
let count = 0;

before(async () => {
  sandbox = await Sandbox.create({ image: 'host', env: { INHERITED: 'yes' } });
});

beforeEach(async () => {
  workingDirectory = `/job/${(count += 1)}`;
  session = await createSandboxSession(sandbox, { workingDirectory });
});

after(async () => {
  await sandbox.destroy();
});

/** Reads a stream to its end. */
async function text(stream: ReadableStream<Uint8Array>): Promise<string> {
  return await new Response(stream).text();
}

/** Returns a stream of parts. */
function streamOf(...parts: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(part);
      controller.close();
    },
  });
}

/** Waits until no process has an argument. */
async function untilKilled(argument: string): Promise<void> {
  await until(async () => {
    const { stdout } = await sandbox.exec("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'");
    return !stdout.split('\n').includes(argument);
  });
}

/** Waits until a file exists in the working directory. */
async function untilExists(path: string): Promise<void> {
  await until(async () => (await session.stat({ path })) !== null);
}

test('a command returns its output and exit code', async () => {
  const { run } = session;
  assert.deepEqual(await run({ command: 'pwd; echo err >&2; exit 42' }), {
    exitCode: 42,
    stdout: `${workingDirectory}\n`,
    stderr: 'err\n',
  });
  assert.equal((await run({ command: 'kill -9 $$' })).exitCode, 137);
});

test('a command has the given directory and variables', async () => {
  const at = async (workingDirectory: string): Promise<string> =>
    (await session.run({ command: 'pwd', workingDirectory })).stdout;
  assert.equal(await at('/usr'), '/usr\n');
  await session.writeTextFile({ path: 'sub/dir/file', content: '' });
  assert.equal(await at('sub/./x/../dir'), `${workingDirectory}/sub/dir\n`);
  const value = '$(whoami) `id` \'quoted\' "double"\nline';
  const command = 'printenv VALUE INHERITED; echo | printenv VALUE';
  const { stdout } = await session.run({ command, env: { VALUE: value } });
  assert.equal(stdout, `${value}\nyes\n${value}\n`);
  // Variables of this program are not in the sandbox.
  assert.ok(!(await session.run({ command: 'env' })).stdout.includes('ISORUN_COMMAND'));
});

test('a directory that does not exist is the result', async () => {
  const done = await session.run({ command: 'echo started', workingDirectory: '/no/such' });
  assert.deepEqual([done.exitCode, done.stdout], [127, '']);
  assert.match(done.stderr, /\/no\/such/);
});

test('a command has no time limit', async () => {
  const short = await Sandbox.create({ image: 'host', timeout: 0.5 });
  try {
    const { run } = await createSandboxSession(short);
    assert.equal((await run({ command: 'sleep 1; echo done' })).stdout, 'done\n');
  } finally {
    await short.destroy();
  }
});

test('aborting kills a command', async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const running = session.run({ command: 'touch started; sleep 71', abortSignal: signal });
  await untilExists('started');
  controller.abort(new RangeError('of the test'));
  await assert.rejects(running, RangeError);
  await untilKilled('71');
  await assert.rejects(session.run({ command: 'true', abortSignal: signal }), RangeError);
});

test('the output of a result is limited', async () => {
  const done = await session.run({ command: "head -c 20000000 /dev/zero | tr '\\0' x" });
  assert.equal(done.exitCode, 0);
  assert.ok(done.stdout.length > 1_000_000 && done.stdout.length < 20_000_000);
  assert.match(done.stderr, /the end of standard output is missing/);
});

test('a process is read while it runs', async () => {
  const command =
    'echo one; echo two >&2; until [ -e go ]; do sleep 0.05; done; printf "a\\377"; exit 3';
  const process = await session.spawn({ command });
  const reader = process.stdout.getReader();
  const first = await reader.read();
  assert.equal(Buffer.from(first.value ?? []).toString(), 'one\n');
  await session.writeTextFile({ path: 'go', content: '' });
  const second = await reader.read();
  assert.deepEqual([...(second.value ?? [])], [0x61, 0xff]);
  assert.equal((await reader.read()).done, true);
  assert.equal(await text(process.stderr), 'two\n');
  assert.deepEqual(await process.wait(), { exitCode: 3 });
  await process.kill();
  assert.ok(!('stdin' in process));
});

test('a process without input reads the end of it', async () => {
  const process = await session.spawn({ command: 'cat; echo end' });
  assert.equal(await text(process.stdout), 'end\n');
});

test('a process has the given directory and variables', async () => {
  const env = { VALUE: 'v' };
  const process = await session.spawn({
    command: 'pwd; echo $VALUE',
    workingDirectory: '/usr',
    env,
  });
  assert.equal(await text(process.stdout), '/usr\nv\n');
  const base = await session.spawn({ command: 'pwd' });
  assert.equal(await text(base.stdout), `${workingDirectory}\n`);
});

test('a process reads what is written, until the stream is closed', async () => {
  const process = await session.spawn({ command: 'cat; echo end', stdin: true });
  const writer = process.stdin.getWriter();
  await writer.write(BINARY);
  const reader = process.stdout.getReader();
  let received = Buffer.alloc(0);
  while (received.length < BINARY.length) {
    const { value = new Uint8Array() } = await reader.read();
    received = Buffer.concat([received, value]);
  }
  assert.ok(received.equals(BINARY));
  // More than one message.
  const large = new Uint8Array(1 << 20).fill(0x79);
  const written = writer.write(large).then(() => writer.close());
  let length = 0;
  let last = '';
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    length += read.value.byteLength;
    last = Buffer.from(read.value).toString();
  }
  await written;
  assert.equal(length, large.byteLength + 'end\n'.length);
  assert.ok(last.endsWith('end\n'));
  assert.deepEqual(await process.wait(), { exitCode: 0 });
  const ended = await session.spawn({ command: 'true', stdin: true });
  await ended.wait();
  await assert.rejects(ended.stdin.getWriter().write(BINARY), /the command has ended/);
});

test('killing a process ends it and its children', async () => {
  const command = 'sleep 72 & setsid sleep 72 & echo out; exec sleep 72';
  const process = await session.spawn({ command });
  const reader = process.stdout.getReader();
  await reader.read();
  await Promise.all([process.kill(), process.kill()]);
  assert.deepEqual(await process.wait(), { exitCode: 137 });
  assert.equal((await reader.read()).done, true);
  await process.kill();
  await untilKilled('72');
});

test('a process whose output is not read is slowed, and can be killed', async () => {
  const command = 'yes $(head -c 1000 /dev/zero | tr "\\0" z) | tee copy';
  const process = await session.spawn({ command });
  let size = -1;
  let before;
  do {
    before = size;
    await sleep(1500);
    size = (await session.stat({ path: 'copy' }))?.size ?? 0;
  } while (size !== before);
  // What waits in this program and on the way.
  assert.ok(size > 1_000_000 && size < 200_000_000, `${size}`);
  await process.kill();
  assert.deepEqual(await process.wait(), { exitCode: 137 });
});

test('output that is not wanted does not slow a process', async () => {
  const process = await session.spawn({ command: 'head -c 50000000 /dev/zero >&2; echo end' });
  await process.stderr.cancel();
  assert.equal(await text(process.stdout), 'end\n');
  assert.deepEqual(await process.wait(), { exitCode: 0 });
});

test('aborting kills a process, with the reason', async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const process = await session.spawn({ command: 'echo out; sleep 73', abortSignal: signal });
  const reader = process.stdout.getReader();
  await reader.read();
  const next = reader.read();
  controller.abort(new RangeError('of the test'));
  await assert.rejects(next, RangeError);
  await assert.rejects(process.wait(), RangeError);
  await process.kill();
  await untilKilled('73');
  await assert.rejects(session.spawn({ command: 'true', abortSignal: signal }), RangeError);
});

test('a process that cannot be started', async () => {
  const process = await session.spawn({ command: 'true', workingDirectory: '/no/such' });
  await assert.rejects(process.wait(), (error) => {
    assert.ok(error instanceof IsorunError && error.kind === 'command_not_found');
    return true;
  });
  await assert.rejects(process.stdout.getReader().read(), IsorunError);
});

test('files keep their bytes', async () => {
  await session.writeBinaryFile({ path: "deep/er/it's a $file", content: BINARY });
  const path = `${workingDirectory}/deep/er/it's a $file`;
  assert.deepEqual(await session.readBinaryFile({ path }), BINARY);
  const content = streamOf(BINARY, new Uint8Array(), BINARY);
  await session.writeFile({ path: 'streamed', content });
  const stream = await session.readFile({ path: 'streamed' });
  assert.ok(stream !== null);
  const both = Buffer.from(await new Response(stream).arrayBuffer());
  assert.ok(both.equals(Buffer.concat([BINARY, BINARY])));
  await session.writeFile({ path: 'empty', content: streamOf() });
  const empty = await session.readFile({ path: 'empty' });
  assert.equal(empty && (await text(empty)), '');
  assert.deepEqual(await session.readBinaryFile({ path: 'empty' }), new Uint8Array());
});

test('texts have an encoding and lines', async () => {
  await session.writeTextFile({ path: 't', content: 'ä\nb\nc\n' });
  assert.deepEqual(
    await session.readBinaryFile({ path: 't' }),
    Uint8Array.from(Buffer.from('ä\nb\nc\n')),
  );
  const lines = (startLine?: number, endLine?: number): Promise<string | null> =>
    session.readTextFile({ path: 't', startLine, endLine });
  assert.equal(await lines(), 'ä\nb\nc\n');
  assert.equal(await lines(2), 'b\nc\n');
  assert.equal(await lines(1, 2), 'ä\nb');
  assert.equal(await lines(2, 2), 'b');
  assert.equal(await lines(3, 99), 'c\n');
  await assert.rejects(lines(0), /startLine is 0/);
  await session.writeTextFile({ path: 'crlf', content: 'a\r\nb\r\nc' });
  assert.equal(await session.readTextFile({ path: 'crlf', startLine: 2 }), 'b\r\nc');
  await session.writeTextFile({ path: 'l', content: 'ä€', encoding: 'utf16le' });
  assert.equal(await session.readTextFile({ path: 'l', encoding: 'utf16le' }), 'ä€');
  await session.writeBinaryFile({ path: 'j', content: Uint8Array.of(0x83, 0x65) });
  assert.equal(await session.readTextFile({ path: 'j', encoding: 'shift_jis' }), 'テ');
  for (const attempt of [
    () => session.writeTextFile({ path: 'x', content: '', encoding: 'no-such' }),
    () => session.readTextFile({ path: 't', encoding: 'no-such' }),
  ]) {
    await assert.rejects(attempt(), /no-such is not/);
  }
});

test('an edited file keeps its permissions', async () => {
  await session.writeTextFile({ path: 'run.sh', content: '#!/bin/sh\necho one\n' });
  await session.run({ command: 'chmod 755 run.sh' });
  await session.writeTextFile({ path: 'run.sh', content: '#!/bin/sh\necho two\n' });
  assert.equal((await session.run({ command: './run.sh' })).stdout, 'two\n');
});

test('what does not exist is null, and a wrong type is an error', async () => {
  await session.run({ command: 'mkdir d; touch f; ln -s none broken' });
  for (const path of ['none', 'none/deeper', 'broken']) {
    assert.equal(await session.readFile({ path }), null);
    assert.equal(await session.readBinaryFile({ path }), null);
    assert.equal(await session.readTextFile({ path }), null);
    assert.equal(await session.stat({ path }), null);
    assert.equal(await session.listDirectory({ path }), null);
  }
  assert.equal(await session.deleteFile({ path: 'none' }), false);
  for (const attempt of [
    () => session.readFile({ path: 'd' }),
    () => session.readBinaryFile({ path: 'd' }),
    () => session.writeTextFile({ path: 'd', content: '' }),
    () => session.writeBinaryFile({ path: 'f/x', content: BINARY }),
    () => session.listDirectory({ path: 'f' }),
    () => session.deleteFile({ path: 'd' }),
    () => session.stat({ path: 'a\0b' }),
  ]) {
    await assert.rejects(attempt(), IsorunError);
  }
});

test('files and directories are inspected, listed and deleted', async () => {
  await session.writeBinaryFile({ path: 'b.bin', content: BINARY });
  await session.run({
    command:
      'mkdir "a dir" .hidden; touch -- "-n" "*" "..x" "$(printf "new\\nline")"; mkfifo pipe; ' +
      'ln -s b.bin link; ln -s "a dir" dirlink; ln -s none broken',
  });
  assert.deepEqual(await session.stat({ path: 'link' }), { type: 'file', size: BINARY.length });
  assert.equal((await session.stat({ path: 'dirlink' }))?.type, 'directory');
  assert.equal((await session.stat({ path: 'pipe' }))?.type, 'other');
  assert.equal((await session.stat({ path: '-n' }))?.size, 0);
  const listed = (await session.listDirectory({ path: '' })) ?? [];
  const types = Object.fromEntries(listed.map(({ name, type }) => [name, type]));
  assert.equal(listed.length, 11);
  assert.deepEqual(types, {
    'b.bin': 'file',
    'a dir': 'directory',
    '.hidden': 'directory',
    '-n': 'file',
    '*': 'file',
    '..x': 'file',
    'new\nline': 'file',
    pipe: 'other',
    link: 'symlink',
    dirlink: 'symlink',
    broken: 'symlink',
  });
  assert.deepEqual(await session.listDirectory({ path: 'a dir' }), []);
  for (const path of ['-n', '*', 'link', 'dirlink', 'broken', 'pipe']) {
    assert.equal(await session.deleteFile({ path }), true, path);
    assert.equal(await session.deleteFile({ path }), false, path);
  }
  assert.equal((await session.stat({ path: 'b.bin' }))?.size, BINARY.length);
  assert.equal((await session.stat({ path: 'a dir' }))?.type, 'directory');
});

test('an image with little more than a shell', async () => {
  const small = await Sandbox.create({ image: 'python:3.12' });
  try {
    const at = await createSandboxSession(small, { workingDirectory: '/job' });
    assert.equal((await at.run({ command: 'pwd; stat /' })).exitCode, 127);
    await at.writeTextFile({ path: 'd/f', content: 'abc' });
    assert.equal((await at.stat({ path: 'd' }))?.type, 'directory');
    assert.deepEqual(await at.listDirectory({ path: 'd' }), [{ name: 'f', type: 'file' }]);
    const base = await createSandboxSession(small);
    const { stdout } = await base.run({ command: 'pwd' });
    await base.writeTextFile({ path: 'relative', content: 'x' });
    const path = `${stdout.trim().replace(/\/$/, '')}/relative`;
    assert.equal(await base.readTextFile({ path }), 'x');
  } finally {
    await small.destroy();
  }
});

test('a file without end is not read', async () => {
  const options = { workingDirectory, maxFileBytes: 100_000 };
  const small = await createSandboxSession(sandbox, options);
  await small.run({ command: 'truncate -s 4G huge; truncate -s 100000 limit' });
  await assert.rejects(small.readBinaryFile({ path: 'huge' }), (error) => {
    assert.ok(error instanceof IsorunError, String(error));
    assert.equal(error.kind, 'too_large');
    return /huge has more than 100000 bytes.*maxFileBytes/.test(error.message);
  });
  await assert.rejects(small.readTextFile({ path: 'huge' }), /more than 100000 bytes/);
  assert.equal((await small.readBinaryFile({ path: 'limit' }))?.byteLength, 100_000);
  // A stream is read as far as its reader wants.
  const stream = await small.readFile({ path: 'huge' });
  const reader = stream?.getReader();
  assert.ok(((await reader?.read())?.value?.byteLength ?? 0) > 0);
  await reader?.cancel();
});

test('aborting ends operations on files', async () => {
  await session.run({ command: 'truncate -s 4G huge' });
  const controller = new AbortController();
  const { signal } = controller;
  const stream = await session.readFile({ path: 'huge', abortSignal: signal });
  const content = new ReadableStream<Uint8Array>({
    pull: async (to) => {
      await sleep(20);
      to.enqueue(BINARY);
    },
  });
  const writing = session.writeFile({ path: 'endless', content, abortSignal: signal });
  const refused = assert.rejects(writing, RangeError);
  await sleep(200);
  controller.abort(new RangeError('of the test'));
  await refused;
  assert.equal(await session.stat({ path: 'endless' }), null);
  const reader = stream?.getReader();
  await assert.rejects(async () => {
    while (!(await reader?.read())?.done);
  }, RangeError);
  const options = { path: 'huge', abortSignal: signal };
  await assert.rejects(session.stat(options), RangeError);
  await assert.rejects(session.listDirectory(options), RangeError);
  await assert.rejects(session.deleteFile(options), RangeError);
  await assert.rejects(session.writeTextFile({ ...options, content: '' }), RangeError);
});

test('content that fails leaves the file as it was', async () => {
  await session.writeTextFile({ path: 'f', content: 'before' });
  let pulls = 0;
  const content = new ReadableStream<Uint8Array>({
    pull: (to) => {
      pulls += 1;
      if (pulls > 2) throw new RangeError('of the test');
      to.enqueue(BINARY);
    },
  });
  await assert.rejects(session.writeFile({ path: 'f', content }), RangeError);
  assert.equal(await session.readTextFile({ path: 'f' }), 'before');
});

test('the server goes away', async () => {
  const { url, key } = server();
  await using before = await relay(url);
  const there = await Sandbox.create({ image: 'host', apiUrl: before.url, apiKey: key });
  const at = await createSandboxSession(there);
  const process = await at.spawn({ command: 'touch /started; sleep 60', stdin: true });
  const running = at.run({ command: 'sleep 60' });
  const broken = Promise.all([
    assert.rejects(running, IsorunConnectionError),
    assert.rejects(process.wait(), IsorunConnectionError),
  ]);
  await until(async () => (await at.stat({ path: '/started' })) !== null);
  await before.stop();
  await broken;
  for (const attempt of [
    () => at.run({ command: 'true' }),
    () => at.spawn({ command: 'true' }),
    () => at.readBinaryFile({ path: '/etc/hostname' }),
    () => at.writeTextFile({ path: '/x', content: '' }),
    () => at.stat({ path: '/x' }),
  ]) {
    await assert.rejects(attempt(), (error) => {
      assert.ok(error instanceof IsorunConnectionError && !error.message.includes(key));
      return true;
    });
  }
  // The server itself still has the sandbox, which ends when it is idle.
  const destroyed = await fetch(`${url}/v1/runs/${there.id}`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${key}` },
  });
  assert.equal(destroyed.status, 200);
});

test('the sandbox is destroyed while it is used', async () => {
  const there = await Sandbox.create({ image: 'host' });
  const at = await createSandboxSession(there);
  const process = await at.spawn({ command: 'sleep 60' });
  const running = at.run({ command: 'touch /started; sleep 60' });
  const refused = Promise.all([
    assert.rejects(running, /destroyed/),
    assert.rejects(process.wait(), /destroyed/),
  ]);
  await until(async () => (await at.stat({ path: '/started' })) !== null);
  await there.destroy();
  await refused;
  await assert.rejects(at.run({ command: 'true' }), /destroyed/);
  await assert.rejects(at.readBinaryFile({ path: '/x' }), /destroyed/);
  await assert.rejects(at.spawn({ command: 'true' }), /destroyed/);
});

// A model that calls tools in order, and answers with the last result. It is that of the AI SDK
// for tests.
const SCRIPTED = `
import { MockLanguageModelV4 } from 'ai/test';

export function scripted(...calls) {
  const usage = {
    inputTokens: { total: 1, noCache: 1, cacheRead: 0, cacheWrite: 0 },
    outputTokens: { total: 1, text: 1, reasoning: 0 },
  };
  const doGenerate = async ({ prompt }) => {
    const call = calls.shift();
    const content = call
      ? { type: 'tool-call', toolCallId: 'call-' + calls.length, ...call }
      : { type: 'text', text: JSON.stringify(prompt.at(-1).content) };
    const unified = call ? 'tool-calls' : 'stop';
    return { content: [content], finishReason: { unified, raw: undefined }, usage, warnings: [] };
  };
  return new MockLanguageModelV4({ doGenerate });
}
`;

/** The model, as far as these tests look at it. */
interface ScriptedModel {
  doGenerateCalls: { tools?: { description?: string }[] }[];
}

let directory: string;
let scripted: (...calls: { toolName: string; input: string }[]) => ScriptedModel;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isorun-ai-sdk-'));
  mkdirSync(join(directory, 'node_modules', '@isorun'), { recursive: true });
  symlinkSync(PACKAGE, join(directory, 'node_modules', '@isorun', 'sdk'));
  for (const name of ['ai', '@types']) {
    symlinkSync(join(PACKAGE, 'node_modules', name), join(directory, 'node_modules', name));
  }
  writeFileSync(join(directory, 'scripted.mjs'), SCRIPTED);
  ({ scripted } = (await import(join(directory, 'scripted.mjs'))) as { scripted: typeof scripted });
});

after(() => rmSync(directory, { recursive: true, force: true }));

/** Compiles a program as a user of both packages does. Returns its path. */
async function compiled(name: string, code: string): Promise<string> {
  writeFileSync(join(directory, `${name}.mts`), code);
  const compiler = join(PACKAGE, 'node_modules', 'typescript', 'bin', 'tsc');
  const options = ['--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext'];
  const args = [compiler, ...options, '--lib', 'es2022,dom,esnext.disposable', `${name}.mts`];
  const done = await finish(process.execPath, args, { cwd: directory });
  assert.equal(done.code, 0, done.stdout);
  return join(directory, `${name}.mjs`);
}

test('a session has the type that the AI SDK expects', async () => {
  const program = `
    import type { Experimental_SandboxSession } from 'ai';
    import { createSandboxSession, type SandboxSession } from '@isorun/sdk/ai-sdk';
    export const create: (
      ...args: Parameters<typeof createSandboxSession>
    ) => Promise<Experimental_SandboxSession> = createSandboxSession;
    // Nothing is missing in the declarations of this package.
    type Missing = Exclude<keyof Experimental_SandboxSession, keyof SandboxSession>;
    export const isComplete: [Missing] extends [never] ? true : false = true;
  `;
  await compiled('types', program);
  await assert.rejects(
    compiled(
      'wrong',
      `import type { Experimental_SandboxSession } from 'ai';
      import { createSandboxSession } from '@isorun/sdk/ai-sdk';
      export const create: () => Promise<Omit<Experimental_SandboxSession, 'run'> & { run: 1 }> =
        createSandboxSession as never as typeof createSandboxSession;`,
    ),
    /is not assignable/,
  );
});

test('programs in CommonJS have it, too', async () => {
  const require = createRequire(join(directory, 'program.cjs'));
  const sdk = require('@isorun/sdk') as { Sandbox: typeof Sandbox };
  const adapter = require('@isorun/sdk/ai-sdk') as {
    createSandboxSession: typeof createSandboxSession;
  };
  const other = await sdk.Sandbox.create({ image: 'host' });
  try {
    const at = await adapter.createSandboxSession(other);
    assert.equal((await at.run({ command: 'echo out' })).stdout, 'out\n');
    // A sandbox of the other form of the package is not usable, and the error says so.
    await assert.rejects(createSandboxSession(other), /another copy of the package/);
  } finally {
    await other.destroy();
  }
});

const shell = tool({
  description: ({ experimental_sandbox }: ToolOptions) =>
    `Runs a command. ${experimental_sandbox?.description}`,
  inputSchema: jsonSchema({ type: 'object', properties: { command: { type: 'string' } } }),
  execute: async (
    { command }: { command: string },
    { experimental_sandbox, abortSignal }: ToolOptions,
  ) => {
    assert.ok(experimental_sandbox);
    return await experimental_sandbox.run({ command, abortSignal });
  },
});

const write = tool({
  description: 'Writes a file.',
  inputSchema: jsonSchema({
    type: 'object',
    properties: { path: { type: 'string' }, content: { type: 'string' } },
  }),
  execute: async (
    { path, content }: { path: string; content: string },
    { experimental_sandbox }: ToolOptions,
  ) => {
    await experimental_sandbox?.writeTextFile({ path, content });
    return 'written';
  },
});

/** Returns a call of the tool `shell`. */
function command(text: string): { toolName: string; input: string } {
  return { toolName: 'shell', input: JSON.stringify({ command: text }) };
}

test('an agent works in the sandbox', async () => {
  const program = { path: 'sum.py', content: 'print(sum(range(11)))\n' };
  const model = scripted(
    { toolName: 'write', input: JSON.stringify(program) },
    command('python3 none.py'),
    command('python3 sum.py && ls'),
  );
  const result = await generateText({
    model,
    tools: { shell, write },
    experimental_sandbox: session,
    stopWhen: stepCountIs(9),
    prompt: 'Sum the numbers up to ten.',
  });
  const outputs = result.steps.flatMap((step) => step.toolResults.map(({ output }) => output));
  assert.equal(outputs[0], 'written');
  assert.equal((outputs[1] as { exitCode: number }).exitCode, 2);
  assert.deepEqual(outputs[2], { exitCode: 0, stdout: '55\nsum.py\n', stderr: '' });
  assert.match(result.text, /55/);
  const described = model.doGenerateCalls[0]?.tools?.[0]?.description;
  assert.ok(described?.includes(`Commands run in ${workingDirectory} `));
});

test('an agent is aborted while it runs a command', async () => {
  const controller = new AbortController();
  const generating = generateText({
    model: scripted(command('touch started; sleep 74')),
    tools: { shell },
    experimental_sandbox: session,
    stopWhen: stepCountIs(9),
    abortSignal: controller.signal,
    prompt: 'Wait.',
  });
  const ended = Promise.allSettled([generating]);
  await untilExists('started');
  controller.abort();
  await ended;
  await untilKilled('74');
});

test('the sample of the page prints what the program of the model did', async () => {
  const page = readFileSync(join(REPOSITORY, 'docs/integrations/ai-sdk.md'), 'utf8');
  const samples = [...page.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code ?? '');
  assert.equal(samples.length, 1);
  const [sample = ''] = samples;
  // As printed, it compiles. It names a model of a provider; the test has no network.
  await compiled('sample', sample);
  assert.match(sample, /^const model = '.*';$/m);
  const program = `python3 -c 'print([n for n in range(2, 30) if all(n % d for d in range(2, n))])'`;
  const call = JSON.stringify(command(program));
  const lines = [
    "import { scripted } from './scripted.mjs';",
    `const model: any = scripted(${call});`,
  ];
  const code = sample.replace(/^const model = '.*';$/m, lines.join('\n'));
  writeFileSync(
    join(directory, 'scripted.d.mts'),
    'export function scripted(...calls: object[]): any;',
  );
  const done = await finish(process.execPath, [await compiled('run', code)]);
  assert.equal(done.code, 0, done.stderr);
  assert.match(done.stdout, /23, 29\]/);
});
