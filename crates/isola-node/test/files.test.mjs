// The files of a sandbox: operations of the host, errors, limits, copies, arguments.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as isola from 'isola-core';
import { sandbox, template } from './support/fixture.mjs';

test('host and guest share files', async (t) => {
  const guest = await sandbox(
    t,
    'python',
    `
import os
def main():
    with open('data/in.bin', 'rb') as file:
        content = file.read()
    with open('out.txt', 'w') as file:
        file.write(open('data/in.txt', encoding='utf-8').read().upper())
    os.chmod('out.txt', 0o640)
    os.utime('out.txt', (5, 1.5))
    os.symlink('out.txt', 'link')
    os.utime('data', (1e15, 1e15))
    return [len(content), os.getcwd()]
`,
  );
  const { files } = guest;
  assert.equal(files, guest.files);
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  await files.write('data/in.bin', bytes);
  await files.write('data/in.txt', 'héllo');
  assert.deepEqual(await guest.run('main'), [256, '/root']);
  assert.deepEqual(await files.read('data/in.bin'), Buffer.from(bytes));
  assert.equal(await files.readText('../root/link'), 'HÉLLO');
  const entries = await files.list();
  assert.deepEqual(
    entries.map(({ name, kind }) => [name, kind]),
    [
      ['data', 'directory'],
      ['link', 'link'],
      ['out.txt', 'file'],
    ],
  );
  const stat = { kind: 'file', size: 6, mode: 0o640, modified: new Date(1500) };
  assert.deepEqual(entries[2], { name: 'out.txt', ...stat });
  assert.deepEqual(await files.stat('link'), stat);
  // A time of the guest that a date cannot have is the nearest one.
  assert.equal(entries[0].modified.getTime(), 8.64e15);
  assert.equal((await files.stat('/dev/null')).kind, 'device');
  await files.makeDir('a/b/c');
  await files.rename('out.txt', 'a/b/c/out.txt');
  assert.equal(await files.exists('a/b/c/out.txt'), true);
  assert.equal(await files.exists('out.txt'), false);
  await files.remove('a');
  assert.equal(await files.exists('a'), false);
});

test('failures of operations on files are a FileError with a reason', async (t) => {
  const guest = await sandbox(t, 'python', '', { maxStorage: 1024 * 1024 });
  const { files } = guest;
  await files.write('file', 'x');
  for (const [operation, reason, path] of [
    [() => files.read('none'), 'ENOENT', 'none'],
    [() => files.readText('none'), 'ENOENT', 'none'],
    [() => files.read('.'), 'EISDIR', '.'],
    [() => files.list('file'), 'ENOTDIR', 'file'],
    [() => files.stat('none'), 'ENOENT', 'none'],
    [() => files.makeDir('file'), 'EEXIST', 'file'],
    [() => files.remove('none'), 'ENOENT', 'none'],
    [() => files.rename('none', 'x'), 'ENOENT', 'none'],
    [() => files.write('file', Buffer.alloc(2 * 1024 * 1024)), 'ENOSPC', 'file'],
  ]) {
    const error = await operation().then(assert.fail, (thrown) => thrown);
    assert.ok(error instanceof isola.FileError, reason);
    assert.deepEqual([error.code, error.reason, error.path], ['file', reason, path]);
    assert.equal(error.name, 'FileError');
    assert.ok(error.message.startsWith(`"${path}": `), error.message);
  }
  // What did not fit has changed nothing.
  assert.equal(await files.readText('file'), 'x');
  for (const [operation, message] of [
    [() => files.read(1), /path must be a string, not 1/],
    [() => files.write('x', 5), /content must be a string or a Uint8Array, not 5/],
    [() => files.rename('x'), /to must be a string, not undefined/],
  ]) {
    await assert.rejects(operation, (error) => {
      assert.ok(error instanceof isola.InvalidArgumentError);
      return message.test(error.message);
    });
  }
  assert.throws(() => new isola.Files(), /use sandbox.files/);
});

test('maxStorage limits the files, and 0 turns them off', async (t) => {
  const fill = "def fill(): open('big', 'wb').write(bytes(2 * 1024 * 1024))\n";
  for (const options of [{ maxStorage: 1 << 20 }, { limits: { maxStorage: 1 << 20 } }]) {
    const guest = await sandbox(t, 'python', fill, options);
    await assert.rejects(guest.run('fill'), { code: 'guest_exception', message: /No space left/ });
  }
  const built = await isola.buildTemplate('js', { maxStorage: 0 });
  const none = await built.create();
  t.after(() => none.close());
  await assert.rejects(none.files.write('x', ''), { code: 'file', reason: 'EROFS' });
  const some = await built.create({ maxStorage: 1 << 20 });
  t.after(() => some.close());
  await some.files.write('x', '');
});

test('copies have files of their own, and close removes them', async (t) => {
  const guest = await sandbox(t, 'js', 'const read = () => files.read("x", "utf8");');
  await guest.files.write('x', 'before');
  const [child] = await guest.fork();
  t.after(() => child.close());
  await guest.files.write('x', 'after');
  assert.equal(await child.run('read'), 'before');
  assert.equal(await child.files.readText('x'), 'before');
  assert.equal(await guest.run('read'), 'after');
  await assert.rejects(guest.evaluate('for (;;);', { cpuTimeoutMs: 50 }), {
    code: 'cpu_time_limit',
  });
  // After a limit the files are left.
  assert.equal(await guest.files.readText('x'), 'after');
  await guest[Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]();
  assert.equal(await guest.files.exists('x'), false);
});

test('a program has the arguments of its sandbox', async (t) => {
  const guest = await sandbox(t, 'python', 'import sys', { arguments: ['a', 'b c'] });
  assert.deepEqual((await guest.evaluate('sys.argv')).slice(1), ['a', 'b c']);
  const script = await sandbox(t, 'js', '', { arguments: ['a'] });
  assert.deepEqual(await script.evaluate('scriptArgs'), ['a']);
  const built = await template('js');
  for (const [given, message] of [
    ['a', /arguments must be an array of strings, not "a"/],
    [[1], /arguments\[0\] must be a string, not 1/],
    [['\0'], /contains a NUL/],
  ]) {
    await assert.rejects(built.create({ arguments: given }), { code: 'invalid_argument', message });
  }
});
