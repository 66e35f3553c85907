/** `Sandbox` against a real server with real sandboxes. */

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';

import {
  type CreateOptions,
  ExecBytesResult,
  ExecResult,
  IsorunConnectionError,
  IsorunError,
  IsorunTimeoutError,
  Sandbox,
} from '@isorun/sdk';

import { server, untilGone } from './environment.js';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isorun-sandbox-'));
});

afterEach(() => rmSync(directory, { recursive: true }));

/** Returns a check of an error's class, status, name and message. */
function refusal(code: number, kind: string, message = /./): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof IsorunError, String(error));
    assert.deepEqual([error.code, error.kind], [code, kind], error.message);
    assert.match(error.message, message);
    return true;
  };
}

test('a sandbox is created, used and destroyed', async () => {
  const sb = await Sandbox.create({
    image: 'host',
    vcpus: 2,
    memMib: 512,
    diskMib: 100,
    env: { NAME: 'value' },
  });
  const { info } = sb;
  assert.deepEqual(
    [info.image, info.vcpus, info.memMib, info.diskMib, info.status],
    ['host', 2, 512, 100, 'running'],
  );
  assert.ok(info.createMs > 0 && info.id === sb.id && /^run[0-9a-f]{16}$/.test(sb.id));
  const result = await sb.exec('echo $NAME; echo oops >&2; exit 3');
  assert.deepEqual(result, new ExecResult(3, 'value\n', 'oops\n'));
  assert.ok(!result.ok);
  assert.equal((await sb.exec(['printf', '%s', 'a b'])).stdout, 'a b');
  // The key is not shown where objects are printed.
  assert.ok(!inspect(sb, { showHidden: true, depth: 9 }).includes(server().key));
  const stats = await sb.destroy();
  assert.ok(stats.cpuMs > 0 && stats.memPeakBytes > 0 && stats.uptimeMs > 0);
  assert.ok(stats.diskUsedBytes >= 0 && stats.costCents === 0);
  assert.equal(await sb.destroy(), stats);
  const gone = refusal(404, 'run_destroyed', /is destroyed/);
  await assert.rejects(sb.exec('true'), gone);
  await assert.rejects(sb.execBytes('true'), gone);
  await assert.rejects(sb.runCode('1'), gone);
  await assert.rejects(sb.execStream('true').result(), gone);
  for (const use of [() => sb.contexts, () => sb.shell(), () => sb.url(80)])
    assert.throws(use, gone);
});

test('a block always destroys the sandbox', async () => {
  let kept: Sandbox | undefined;
  const failing = async (): Promise<void> => {
    await using sb = await Sandbox.create({ image: 'host' });
    kept = sb;
    throw new RangeError('of the block');
  };
  await assert.rejects(failing, (error) => error instanceof RangeError);
  assert.ok(kept !== undefined && (await kept.destroy()).uptimeMs > 0);
  // Destroyed inside the block, by itself or by the server.
  {
    await using sb = await Sandbox.create({ image: 'host' });
    await sb.destroy();
  }
  {
    await using sb = await Sandbox.create({ image: 'host', sandboxTimeout: 0.2 });
    await untilGone(sb.id);
    await assert.rejects(sb.exec('true'), refusal(404, 'run_destroyed', /idle/));
  }
});

test('output arrives while the command runs', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const heard = { stdout: '', stderr: '' };
  const command =
    'echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo caf\u00e9; echo oops >&2; exit 4';
  const expected = new ExecResult(4, 'first\ncaf\u00e9\n', 'oops\n');
  // The command continues only after its first line has arrived here.
  const stream = sb.execStream(command);
  for await (const { type, text } of stream) {
    if (heard.stdout === '') await sb.writeText('/tmp/go', '');
    heard[type] += text;
  }
  assert.deepEqual(await stream.result(), expected);
  assert.deepEqual(heard, { stdout: expected.stdout, stderr: expected.stderr });
  await sb.exec('rm /tmp/go');
  const called = { stdout: '', stderr: '' };
  const result = await sb.exec(command, {
    onStdout: async (text) => {
      if (called.stdout === '') await sb.writeText('/tmp/go', '');
      called.stdout += text;
    },
    onStderr: (text) => (called.stderr += text),
  });
  assert.deepEqual([result, called], [expected, heard]);
  // Without a loop.
  const quiet = sb.execStream('echo quiet');
  assert.equal((await quiet.result()).stdout, 'quiet\n');
  const again = quiet[Symbol.asyncIterator]();
  await assert.rejects(again.next(), /being read already/);
});

test('a command is slowed to the speed of the loop', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  let received = 0;
  // More than all buffers on the way.
  const stream = sb.execStream('yes | head -c 30000000; touch /tmp/done', { timeout: 0 });
  for await (const { text } of stream) {
    if (received === 0) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      assert.equal((await sb.exec('test -e /tmp/done')).exitCode, 1);
    }
    received += text.length;
  }
  assert.equal(received, 30_000_000);
  assert.ok((await stream.result()).ok);
});

test('a callback that throws, or a loop that is left, kills the command', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const killed = 'while pgrep -x sleep; do sleep 0.05; done';
  const stop = (): never => {
    throw new RangeError('enough');
  };
  const called = sb.exec('echo; exec sleep 1000', { onStdout: stop, timeout: 0 });
  await assert.rejects(called, (error) => error instanceof RangeError);
  assert.ok((await sb.exec(killed)).ok);
  const stream = sb.execStream('echo; exec sleep 1000', { timeout: 0 });
  for await (const _ of stream) break;
  await assert.rejects(stream.result(), { name: 'AbortError' });
  assert.ok((await sb.exec(killed)).ok);
  const thrown = async (): Promise<void> => {
    for await (const _ of sb.execStream('echo; exec sleep 1000', { timeout: 0 })) stop();
  };
  await assert.rejects(thrown, (error) => error instanceof RangeError);
  assert.ok((await sb.exec(killed)).ok);
});

test('a timeout error contains the previous output', async () => {
  await using sb = await Sandbox.create({ image: 'host', timeout: 0.5 });
  const command = 'echo begun; echo oops >&2; sleep 100';
  for (const run of [
    () => sb.exec(command),
    () => sb.exec(command, { onStdout: () => {} }),
    () => sb.execStream(command).result(),
  ]) {
    const start = performance.now();
    await assert.rejects(run, (error) => {
      assert.ok(error instanceof IsorunTimeoutError, String(error));
      assert.match(error.message, /0\.5 s/);
      assert.deepEqual([error.code, error.kind], [504, 'exec_timeout']);
      assert.deepEqual([error.stdout, error.stderr], ['begun\n', 'oops\n']);
      return true;
    });
    assert.ok(performance.now() - start < 5000);
  }
  // The timeout of a single call.
  for (const timeout of [10, -1, 0]) {
    assert.equal((await sb.exec('sleep 1; echo done', { timeout })).stdout, 'done\n');
  }
  await assert.rejects(sb.exec('true', { timeout: -2 }), (error) => {
    assert.ok(!(error instanceof IsorunTimeoutError));
    return refusal(400, 'invalid_request', /timeout/)(error);
  });
});

test('files', async () => {
  const every = Buffer.alloc(5_120_000, Buffer.from(Array.from({ length: 256 }, (_, n) => n)));
  const local = join(directory, 'local.bin');
  writeFileSync(local, every);
  await using sb = await Sandbox.create({ image: 'host' });
  await sb.uploadFile(local, '/remote/path/file.bin');
  await sb.uploadFile(pathToFileURL(local), '/remote/path/again.bin');
  assert.ok(Buffer.from(await sb.download('/remote/path/file.bin')).equals(every));
  for (const mode of ['755', '640', '711']) {
    chmodSync(local, Number.parseInt(mode, 8));
    await sb.uploadFile(local, '/remote/program');
    assert.equal((await sb.exec('stat -c %a /remote/program')).stdout, `${mode}\n`);
  }
  await sb.writeText('/remote/path/hello.txt', 'hi \u20ac\n');
  assert.equal((await sb.exec('cat /remote/path/hello.txt')).stdout, 'hi \u20ac\n');
  assert.deepEqual(await sb.ls('/remote/path/'), ['again.bin', 'file.bin', 'hello.txt']);
  await sb.writeText('/tmp/empty', '');
  assert.equal((await sb.download('/tmp/empty')).byteLength, 0);
  const short = await sb.download('/remote/path/hello.txt');
  assert.deepEqual([short.constructor, short.buffer.byteLength], [Uint8Array, 7]);
  const odd = 'caf\udce9 & \udcff';
  await sb.writeText(`/tmp/odd/${odd}`, 'not UTF-8');
  await sb.writeText('/tmp/odd/caf\u00e9', 'UTF-8');
  assert.deepEqual(await sb.ls('/tmp/odd'), ['caf\u00e9', odd]);
  assert.equal(Buffer.from(await sb.download(`/tmp/odd/${odd}`)).toString(), 'not UTF-8');
  await assert.rejects(sb.download('/nothing'), refusal(404, 'file_not_found'));
  await assert.rejects(sb.ls('/nothing'), refusal(404, 'file_not_found'));
  const above = sb.writeText('/tmp/../etc/passwd', '');
  await assert.rejects(above, refusal(400, 'invalid_request', /`\.\.`/));
  await assert.rejects(sb.uploadFile(join(directory, 'nothing'), '/tmp/nothing'), {
    code: 'ENOENT',
  });
  await assert.rejects(sb.writeText('/tmp/half', '\ud83d'), /half of a UTF-16 pair/);
  assert.deepEqual((await sb.ls('/tmp')).sort(), ['empty', 'odd']);
});

test('a command gets its environment, directory and input', async () => {
  await using sb = await Sandbox.create({ image: 'host', env: { A: 'of the sandbox' } });
  const script = `printf '%s,%s,' "$A" "$PWD"; cat`;
  const options = { env: { A: 'mine' }, cwd: '/tmp', stdin: 'caf\u00e9\n' };
  const result = await sb.exec(['sh', '-c', script], options);
  assert.equal(result.stdout, 'mine,/tmp,caf\u00e9\n');
  // Only of that command.
  assert.equal((await sb.exec('echo $A; cat')).stdout, 'of the sandbox\n');
  const called: string[] = [];
  await sb.exec(script, { ...options, onStdout: (text) => called.push(text) });
  assert.equal(called.join(''), result.stdout);
  const streamed = sb.execStream('echo $A; pwd; cat', { env: { A: 'b' }, cwd: '/usr', stdin: 'c' });
  assert.equal((await streamed.result()).stdout, 'b\n/usr\nc');
  for (const use of [
    () => sb.exec('true', { cwd: '/missing' }),
    () => sb.execBytes('true', { cwd: '/missing' }),
    () => sb.execStream('true', { cwd: '/missing' }).result(),
  ]) {
    await assert.rejects(use, (error) => {
      assert.ok(error instanceof IsorunError, String(error));
      assert.equal(error.kind, 'command_not_found');
      return true;
    });
  }
  const invalid = refusal(400, 'invalid_request');
  await assert.rejects(sb.exec('true', { cwd: 'tmp' }), invalid);
  await assert.rejects(sb.exec('true', { env: { 'A=B': '' } }), invalid);
  await assert.rejects(sb.exec('cat', { stdin: 'half \ud83d' }), invalid);
  const large = 'x'.repeat(1_000_000);
  assert.equal((await sb.exec('wc -c', { stdin: large })).stdout.trim(), '1000000');
  await assert.rejects(sb.exec('wc -c', { stdin: large + large }), refusal(413, 'too_large'));
});

test('bytes are exact', async () => {
  const every = Uint8Array.from({ length: 256 }, (_, n) => n);
  await using sb = await Sandbox.create({ image: 'host' });
  await sb.writeBytes('/job/every', every, { mode: 0o750 });
  assert.deepEqual(await sb.download('/job/every'), every);
  const result = await sb.execBytes('cat every; cat every >&2; exit 3', { cwd: '/job' });
  assert.deepEqual(result, new ExecBytesResult(3, every, every));
  assert.equal(result.ok, false);
  const echoed = await sb.execBytes('printf $A; cat', { env: { A: 'a' }, stdin: 'caf\u00e9' });
  assert.equal(Buffer.from(echoed.stdout).toString(), 'acaf\u00e9');
  assert.deepEqual(await sb.download('/job/every', { maxBytes: 256 }), every);
  await assert.rejects(sb.download('/job/every', { maxBytes: 255 }), (error) => {
    assert.ok(error instanceof IsorunError, String(error));
    assert.match(error.message, /more than 255 bytes/);
    assert.deepEqual([error.code, error.kind], [undefined, 'too_large']);
    return true;
  });
  // A longer file is not read to its end, which would take minutes.
  assert.ok((await sb.exec('truncate -s 100G /job/sparse')).ok);
  const start = performance.now();
  const sparse = sb.download('/job/sparse', { maxBytes: 5_000_000 });
  await assert.rejects(sparse, { kind: 'too_large' });
  assert.ok(performance.now() - start < 10_000);
  const nothing = sb.download('/nothing', { maxBytes: 1 });
  await assert.rejects(nothing, refusal(404, 'file_not_found'));
  // Permissions are kept, and the target of a link is replaced.
  assert.ok((await sb.exec('ln -s every /job/link')).ok);
  await sb.writeBytes('/job/link', Buffer.from('new'));
  const kept = await sb.exec('cat every; stat -c %a every', { cwd: '/job' });
  assert.equal(kept.stdout, 'new750\n');
  // More than is sent with the head of a request.
  const large = new Uint8Array(3_000_000).fill(7);
  await sb.writeBytes('/job/large', large);
  assert.ok(Buffer.from(large).equals(await sb.download('/job/large')));
  const late = sb.execBytes('echo begun; sleep 1000', { timeout: 0.3 });
  await assert.rejects(late, (error) => {
    assert.ok(error instanceof IsorunTimeoutError, String(error));
    assert.equal(error.stdout, 'begun\n');
    return true;
  });
});

test('an upload that is refused early says why', async () => {
  const local = join(directory, 'large.bin');
  writeFileSync(local, Buffer.alloc(30_000_000));
  await using sb = await Sandbox.create({ image: 'host', diskMib: 10 });
  for (let n = 0; n < 20; n++) {
    await assert.rejects(sb.uploadFile(local, '/tmp/../large'), refusal(400, 'invalid_request'));
    await assert.rejects(sb.uploadFile(local, '/tmp/large'), refusal(507, 'sandbox_full'));
  }
  assert.deepEqual(await sb.ls('/tmp'), []);
  assert.ok((await sb.exec('true')).ok);
});

test('many calls share a sandbox', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const numbers = Array.from({ length: 100 }, (_, n) => n);
  const results = await Promise.all(numbers.map((n) => sb.exec(`sleep 0.1; echo ${n}`)));
  assert.deepEqual(
    results.map((result) => result.stdout),
    numbers.map((n) => `${n}\n`),
  );
});

test('invalid parameters are refused with a reason', async () => {
  const rows: [CreateOptions, number, string][] = [
    [{ image: 'no-such/image' }, 404, 'no-such/image'],
    [{ image: 'host', vcpus: 0 }, 400, 'vcpus'],
    [{ image: 'host', memMib: 1e9 }, 400, 'mem_mib'],
    [{ image: 'host', credentials: { MINE: 'sk' } }, 400, 'credentials'],
    [{ image: 'host', allow: ['example.com:80'] }, 400, 'network.allow'],
    [{ image: 'host', networkProfile: 'open' }, 400, 'network_profile'],
  ];
  for (const [options, code, text] of rows) {
    await assert.rejects(Sandbox.create(options), (error) => {
      assert.ok(error instanceof IsorunError, String(error));
      assert.equal(error.code, code, error.message);
      assert.ok(error.message.includes(text), error.message);
      return true;
    });
  }
});

test('the egress policy and the credentials are those of the options', async () => {
  const policy = async (run: string): Promise<Record<string, unknown>> => {
    const { url, key } = server();
    const headers = { authorization: `Bearer ${key}` };
    const response = await fetch(`${url}/v1/runs/${run}/network`, { headers });
    return (await response.json()) as Record<string, unknown>;
  };
  const secret = 'sk-secret-of-the-test';
  await using listed = await Sandbox.create({
    image: 'host',
    allow: ['a.example', '*.b.example'],
    credentials: { OPENAI_API_KEY: secret },
  });
  assert.deepEqual((await policy(listed.id))['allow'], ['a.example', '*.b.example']);
  const environment = (await listed.exec('env')).stdout;
  assert.match(environment, /^OPENAI_API_KEY=sk-isorun-proxy-managed$/m);
  assert.ok(!environment.includes(secret));
  await using profiled = await Sandbox.create({ image: 'host', networkProfile: 'locked-down' });
  assert.equal((await policy(profiled.id))['profile'], 'locked-down');
  await using denied = await Sandbox.create({ image: 'host', deny: ['203.0.113.0/24'] });
  assert.deepEqual((await policy(denied.id))['deny'], ['203.0.113.0/24']);
});

test('calls that wait for a sandbox are told that it was destroyed', async () => {
  const sb = await Sandbox.create({ image: 'host' });
  const sh = sb.shell();
  await sh.run('true');
  const gone = refusal(404, 'run_destroyed');
  const waiting = Promise.all([
    assert.rejects(sb.exec('sleep 1000', { timeout: 0 }), gone),
    assert.rejects(sb.execStream('echo on; sleep 1000', { timeout: 0 }).result(), gone),
    assert.rejects(sh.run('sleep 1000', { timeout: 0 }), gone),
  ]);
  assert.ok((await sb.exec('while [ "$(pgrep -xc sleep)" != 3 ]; do sleep 0.05; done')).ok);
  await sb.destroy();
  await waiting;
});

test('setTimeout', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  await sb.setTimeout(-1);
  await sb.setTimeout(0.1);
  await untilGone(sb.id);
  await assert.rejects(sb.exec('true'), refusal(404, 'run_destroyed', /idle/));
});

test('an unreachable server is a connection error', async () => {
  const options = { image: 'host', apiUrl: 'http://127.0.0.1:1', apiKey: server().key };
  await assert.rejects(Sandbox.create(options), (error) => {
    assert.ok(error instanceof IsorunConnectionError, String(error));
    assert.match(error.message, /127\.0\.0\.1:1.*isorun serve/);
    assert.deepEqual([error.code, error.kind], [undefined, undefined]);
    return !error.message.includes(server().key);
  });
});

test('a wrong API key is refused', async () => {
  const { key } = server();
  for (const apiKey of ['nonsense', key.slice(0, -1) + (key.endsWith('0') ? '1' : '0')]) {
    const options = { image: 'host', apiKey };
    await assert.rejects(Sandbox.create(options), refusal(401, 'unauthorized', /API key/));
    await assert.rejects(Sandbox.snapshots({ apiKey }), refusal(401, 'unauthorized', /API key/));
  }
});
