/** Forks, hibernation, snapshots and shells against a real server. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { IsorunError, IsorunTimeoutError, Sandbox } from '@isorun/sdk';

import { server, until } from './environment.js';
import { relay } from './relay.js';

async function textOf(sandbox: Sandbox, path: string): Promise<string> {
  return Buffer.from(await sandbox.download(path)).toString();
}

test('a fork inherits the state and is independent', async () => {
  await using sb = await Sandbox.create({ image: 'host', memMib: 300, env: { WHO: 'me' } });
  await sb.writeText('/job/file', 'original');
  await sb.exec('nohup setsid sleep 1000 >/dev/null 2>&1 & echo $! > /job/pid');
  const children = await sb.fork(3);
  assert.equal(new Set([sb.id, ...children.map((child) => child.id)]).size, 4);
  for (const child of children) {
    assert.equal(child.info.memMib, 300);
    const alive = await child.exec('kill -0 $(cat /job/pid) && echo $WHO');
    assert.equal(alive.stdout, 'me\n');
    await child.writeText('/job/file', `of ${child.id}`);
  }
  for (const child of children) assert.equal(await textOf(child, '/job/file'), `of ${child.id}`);
  const [first] = children;
  assert.ok(first);
  const [grandchild] = await first.fork();
  assert.ok(grandchild);
  assert.equal(await textOf(sb, '/job/file'), 'original');
  await sb.destroy();
  assert.equal(await textOf(grandchild, '/job/file'), `of ${first.id}`);
  for (const child of [...children, grandchild]) assert.ok((await child.destroy()).uptimeMs > 0);
});

test('a sandbox can be hibernated repeatedly', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const { id } = sb;
  {
    await using sh = sb.shell();
    await sh.run('cd /tmp; N=0');
    for (let count = 1; count <= 3; count++) {
      assert.equal((await sh.run('N=$((N + 1)); echo $N')).stdout, `${count}\n`);
      await sb.hibernate();
      for (const use of [() => sb.exec('true'), () => sh.run('echo lost')]) {
        await assert.rejects(use, (error) => {
          assert.ok(error instanceof IsorunError, String(error));
          assert.match(error.message, /hibernated/);
          assert.deepEqual([error.code, error.kind], [409, 'run_hibernated']);
          return true;
        });
      }
      await sb.resume();
      assert.equal(sb.id, id);
      // The same shell, attached to again.
      assert.equal((await sh.run('echo $N $PWD')).stdout, `${count} /tmp\n`);
    }
  }
  await sb.hibernate();
});

test('a request resumes a hibernated sandbox', async () => {
  await using sb = await Sandbox.create({
    image: 'host',
    autoResume: true,
    onIdle: 'hibernate',
    sandboxTimeout: 0,
  });
  await sb.writeText('/job/file', 'kept');
  await sb.hibernate();
  assert.equal(await textOf(sb, '/job/file'), 'kept');
});

test('an existing sandbox is used by its id', async () => {
  await using sb = await Sandbox.create({ image: 'host', memMib: 300 });
  await sb.writeText('/job/file', 'kept');
  await using between = await relay(server().url);
  const options = { apiUrl: between.url, apiKey: server().key, timeout: 7 };
  const other = await Sandbox.connect(sb.id, options);
  assert.deepEqual([other.id, other.info, other.timeout], [sb.id, sb.info, 7]);
  assert.equal(await textOf(other, '/job/file'), 'kept');
  assert.equal(between.connections(), 1);
  await other.close();
  await until(() => between.connections() === 0);
  // Only the connections were closed.
  assert.equal((await other.exec('echo still')).stdout, 'still\n');
  assert.equal(between.connections(), 1);
  // A call that runs is not disturbed.
  const running = other.exec('while [ ! -e /tmp/go ]; do sleep 0.05; done; echo end');
  await sb.exec('while ! pgrep -x sleep; do sleep 0.05; done');
  await other.close();
  await sb.writeText('/tmp/go', '');
  assert.equal((await running).stdout, 'end\n');
  await sb.hibernate();
  const hibernated = await Sandbox.connect(sb.id);
  assert.equal(hibernated.info.status, 'hibernated');
  await hibernated.resume();
  assert.equal(await textOf(hibernated, '/job/file'), 'kept');
  await hibernated.close();
  {
    await using _ = other;
  }
  const kinds: [string, string][] = [
    [sb.id, 'run_destroyed'],
    ['run0123456789abcdef', 'run_not_found'],
    ['../snapshots', 'run_not_found'],
  ];
  for (const [id, kind] of kinds) {
    await assert.rejects(Sandbox.connect(id), (error) => {
      assert.ok(error instanceof IsorunError, String(error));
      assert.deepEqual([error.code, error.kind], [404, kind], error.message);
      return true;
    });
  }
});

test('snapshots', async () => {
  let original = '';
  let snapshot = '';
  {
    await using sb = await Sandbox.create({ image: 'host' });
    original = sb.id;
    await sb.writeText('/job/file', 'then');
    // Incompressible data.
    assert.ok((await sb.exec('head -c 2000000 /dev/urandom > /job/random')).ok);
    snapshot = await sb.checkpoint();
    await sb.writeText('/job/file', 'later');
  }
  for (const timeout of [undefined, 7]) {
    await using restored = await Sandbox.restore(snapshot, { timeout });
    assert.equal(await textOf(restored, '/job/file'), 'then');
    assert.equal(restored.info.image, 'host');
    assert.equal(restored.timeout, timeout ?? 30);
  }
  const found = (await Sandbox.snapshots()).filter(({ id }) => id === snapshot);
  assert.equal(found.length, 1);
  assert.equal(found[0]?.runId, original);
  assert.ok(found[0] && found[0].sizeBytes > 2_000_000);
  await Sandbox.deleteSnapshot(snapshot);
  await assert.rejects(
    Sandbox.restore(snapshot),
    (error) =>
      error instanceof IsorunError && error.code === 404 && /does not exist/.test(error.message),
  );
  // A text that is not an id cannot change the path of the request.
  for (const id of ['../runs', '.', `x?y=${snapshot}`]) {
    await assert.rejects(
      Sandbox.deleteSnapshot(id),
      (error) => error instanceof IsorunError && (error.code ?? 0) >= 400,
    );
  }
});

test('a shell keeps its state', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  await using sh = sb.shell();
  assert.equal(sh.session, undefined);
  await sh.run('cd /tmp && export FOO=bar; f() { echo in $1; }');
  assert.ok(sh.session);
  assert.equal((await sh.run('echo $FOO $PWD; f x')).stdout, 'bar /tmp\nin x\n');
  const result = await sh.run('echo out; echo err >&2; (exit 3)');
  assert.deepEqual([result.exitCode, result.stdout, result.stderr], [3, 'out\n', 'err\n']);
  const chunks: string[] = [];
  await sh.run('for i in 1 2; do echo $i; sleep 0.2; done', {
    onStdout: (text) => chunks.push(text),
  });
  assert.deepEqual(chunks, ['1\n', '2\n']);
  const read: string[] = [];
  const stream = sh.runStream(
    'for i in 1 2; do echo $i; sleep 0.2; done; exit_code() { return 4; }; exit_code',
  );
  for await (const { type, text } of stream) read.push(`${type} ${text}`);
  assert.deepEqual(read, ['stdout 1\n', 'stdout 2\n']);
  assert.equal((await stream.result()).exitCode, 4);
  const heredoc = await sh.run('cat <<EOF\nzeile \u00e9\u{1F600}\nEOF');
  assert.equal(heredoc.stdout, 'zeile \u00e9\u{1F600}\n');
  assert.equal((await sh.run('yes | head -c 3000000')).stdout.length, 3_000_000);
  await assert.rejects(sh.run('echo begun; sleep 1000', { timeout: 0.3 }), (error) => {
    assert.ok(error instanceof IsorunTimeoutError, String(error));
    assert.deepEqual([error.stdout, error.code], ['begun\n', 504]);
    return true;
  });
  assert.equal((await sh.run('echo $FOO')).stdout, 'bar\n');
  const onStdout = (): never => {
    throw new RangeError('enough');
  };
  await assert.rejects(
    sh.run('echo go; sleep 1000', { timeout: 0, onStdout }),
    (error) => error instanceof RangeError,
  );
  assert.equal((await sh.run('echo $FOO')).stdout, 'bar\n');
  for await (const _ of sh.runStream('echo go; sleep 1000', { timeout: 0 })) break;
  assert.equal((await sh.run('echo $FOO')).stdout, 'bar\n');
});

test('an ended shell returns its exit code and is closed', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  {
    await using sh = sb.shell();
    const result = await sh.run('echo bye; exit 42');
    assert.deepEqual([result.exitCode, result.stdout, sh.closed], [42, 'bye\n', true]);
    for (let n = 0; n < 2; n++)
      await assert.rejects(sh.run('true'), /^IsorunError: Shell is closed$/);
  }
  // Killed from outside: the next command returns the exit code.
  const sh = sb.shell();
  const pid = (await sh.run('echo $$')).stdout.trim();
  await sb.exec(`kill -9 ${pid}; while kill -0 ${pid}; do sleep 0.01; done`);
  await sleep(300);
  assert.equal((await sh.run('echo on')).exitCode, 137);
  await assert.rejects(sh.run('true'), /Shell is closed/);
});

test('a fork inherits shells', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  await using sh = await sb.shell({ cwd: '/usr' }).open();
  await sh.run('SECRET=7');
  const [child] = await sb.fork();
  assert.ok(child);
  {
    await using inherited = child.shell({ session: sh.session });
    assert.equal((await inherited.run('echo $SECRET $PWD')).stdout, '7 /usr\n');
    await inherited.run('SECRET=8');
  }
  assert.equal((await sh.run('echo $SECRET')).stdout, '7\n');
  await child.destroy();
});

test('shells, forks and snapshots at the same time', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  {
    await using sh = sb.shell();
    await sh.run('cd /tmp; export FOO=bar');
    // Calls wait for each other.
    const texts = await Promise.all(['1', '2', '3'].map((n) => sh.run(`echo ${n}$FOO; FOO=${n}`)));
    assert.deepEqual(
      texts.map(({ stdout }) => stdout),
      ['1bar\n', '21\n', '32\n'],
    );
    const children = await sb.fork(2);
    const names = await Promise.all(
      children.map(async (child) => (await child.exec('hostname')).stdout.trim()),
    );
    assert.equal(new Set(names).size, 2);
    assert.ok(!children.some((child) => names.includes(child.id)));
    await Promise.all(children.map((child) => child.destroy()));
    assert.equal((await sh.run('exit 5')).exitCode, 5);
    await assert.rejects(sh.run('true'), /Shell is closed/);
  }
  // Two shells at the same time.
  const [one, two] = [sb.shell(), sb.shell()];
  const answers = await Promise.all([one.run('X=1; echo $X'), two.run('echo x$X')]);
  assert.deepEqual(
    answers.map((answer) => answer.stdout),
    ['1\n', 'x\n'],
  );
  const snapshot = await sb.checkpoint();
  await sb.hibernate();
  await sb.resume();
  const restored = await Sandbox.restore(snapshot);
  assert.ok((await restored.exec('echo on')).ok);
  await restored.destroy();
  assert.ok((await Sandbox.snapshots()).some(({ id }) => id === snapshot));
  await Sandbox.deleteSnapshot(snapshot);
});

test('a shell that cannot be opened says why', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  await assert.rejects(sb.shell({ session: 'no-such-session' }).run('true'), (error) => {
    assert.ok(error instanceof IsorunError && error.code !== undefined, String(error));
    return true;
  });
  const sh = sb.shell();
  await sb.destroy();
  await assert.rejects(sh.run('true'), (error) => {
    assert.ok(error instanceof IsorunError, String(error));
    assert.deepEqual([error.code, error.kind], [404, 'run_destroyed']);
    return true;
  });
});
