/** The package has what the Python package has, with the names in camel case. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';

import { Execution, Result, Sandbox } from '@isorun/sdk';

import { VERSION } from '../dist/esm/version.js';
import { finish, PACKAGE, REPOSITORY, required } from './environment.js';

/** Names of methods and properties, and the parameters of methods. */
type Members = Record<string, string[] | null>;

interface Surface {
  classes: { Sandbox: Members; Shell: Members; Contexts: Members };
  options: string[];
  results: { Result: Members; Execution: Members };
  fields: Record<string, string[]>;
  version: string;
}

/** What this language has instead. */
const RENAMED: Record<string, string> = { toJson: 'toJSON' };
/** Streams that a loop reads, where Python has only callbacks. */
const STREAMS = ['runCodeStream', 'runStream'];

let python: Surface;

before(async () => {
  const env = {
    ...process.env,
    PYTHONPATH: join(REPOSITORY, 'sdk/python/src'),
    PYTHONDONTWRITEBYTECODE: '1',
  };
  const script = join(REPOSITORY, 'sdk/typescript/test/surface.py');
  const done = await finish(required('ISORUN_PYTHON'), [script], { env });
  assert.equal(done.code, 0, done.stderr);
  python = JSON.parse(done.stdout) as Surface;
});

function camel(name: string): string {
  const renamed = name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  return RENAMED[renamed] ?? renamed;
}

function names(members: Members): string[] {
  return Object.keys(members).map(camel).sort();
}

/** Returns the public members of an object's class. */
function membersOf(prototype: object): string[] {
  const own = Object.getOwnPropertyNames(prototype);
  return own.filter((name) => name !== 'constructor' && !STREAMS.includes(name)).sort();
}

test('classes have the same methods', async () => {
  const statics = Object.getOwnPropertyNames(Sandbox).filter(
    (name) => !['length', 'name', 'prototype'].includes(name),
  );
  const ofSandbox = [...membersOf(Sandbox.prototype), ...statics].sort();
  assert.deepEqual(ofSandbox, names(python.classes.Sandbox));
  await using sb = await Sandbox.create({ image: 'host' });
  const prototypeOf = (value: object): object => Object.getPrototypeOf(value) as object;
  assert.deepEqual(membersOf(prototypeOf(sb.shell())), names(python.classes.Shell));
  assert.deepEqual(membersOf(prototypeOf(sb.contexts)), names(python.classes.Contexts));
  for (const [kind, members] of [
    [Result, python.results.Result],
    [Execution, python.results.Execution],
  ] as const) {
    const own = membersOf(kind.prototype).filter((name) => name !== 'toJSON');
    assert.deepEqual(
      own,
      names(members).filter((name) => name !== 'toJSON'),
    );
  }
});

test('results have the same fields', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const snapshot = await sb.checkpoint();
  const [found] = (await Sandbox.snapshots()).filter(({ id }) => id === snapshot);
  await Sandbox.deleteSnapshot(snapshot);
  const failed = await sb.runCode('display(1)\n1/0');
  const values = {
    SandboxInfo: sb.info,
    ExecResult: await sb.exec('true'),
    ExecBytesResult: await sb.execBytes('true'),
    SnapshotInfo: found,
    Context: (await sb.contexts.list())[0],
    Execution: failed,
    ExecutionError: failed.error,
    Logs: failed.logs,
    Result: failed.results[0],
    DestroyStats: await sb.destroy(),
  };
  assert.deepEqual(Object.keys(values).sort(), Object.keys(python.fields).sort());
  for (const [name, value] of Object.entries(values)) {
    assert.ok(value, name);
    assert.deepEqual(Object.keys(value).sort(), python.fields[name]?.map(camel).sort(), name);
  }
});

test('options have the same names', () => {
  const source = readFileSync(join(PACKAGE, 'dist/esm/options.d.ts'), 'utf8');
  for (const option of python.options) {
    assert.match(source, new RegExp(`^ +${camel(option)}\\??:`, 'm'), option);
  }
});

test('versions are the same', () => {
  const manifest = readFileSync(join(PACKAGE, 'package.json'), 'utf8');
  const { version } = JSON.parse(manifest) as { version: string };
  assert.deepEqual([VERSION, version], [python.version, python.version]);
});
