/** The package has what the Python package has, with the names in camel case. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';

import { Execution, Result, Sandbox } from '@isorun/sdk';
import ts from 'typescript';

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
/** A stream is read by a loop here, and by callbacks in Python. */
const CALLBACKS_OF_STREAM = ['onStdout', 'onStderr'];

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

/**
 * Returns the parameters of each method of a class, and the options in an object of options, as
 * declared.
 */
function parametersOf(module: string, name: string): Map<string, Set<string>> {
  const file = join(PACKAGE, `dist/esm/${module}.d.ts`);
  const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext };
  const program = ts.createProgram([file], { ...options, strict: true, types: ['node'] });
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(file);
  const isWanted = (node: ts.Statement): node is ts.ClassDeclaration =>
    ts.isClassDeclaration(node) && node.name?.text === name;
  const declaration = source?.statements.find(isWanted);
  assert.ok(declaration, `${file} declares no ${name}`);
  const found = new Map<string, Set<string>>();
  for (const member of declaration.members) {
    if (!ts.isMethodDeclaration(member)) continue;
    const names = member.parameters.flatMap((parameter) => {
      const type = checker.getNonNullableType(checker.getTypeAtLocation(parameter));
      const isOptions = parameter.name.getText() === 'options';
      return isOptions
        ? checker.getPropertiesOfType(type).map((option) => option.name)
        : parameter.name.getText();
    });
    found.set(member.name.getText(), new Set(names));
  }
  return found;
}

test('methods have the same parameters', () => {
  let compared = 0;
  for (const [name, members] of Object.entries(python.classes)) {
    const declared = parametersOf(name.toLowerCase(), name);
    for (const [method, parameters] of Object.entries(members)) {
      // A property has none, and `create` of Python has the options of its constructor.
      if (parameters === null || (name === 'Sandbox' && method === 'create')) continue;
      const own = declared.get(camel(method));
      assert.ok(own, `${name}.${method}`);
      const isStream = method === 'exec_stream';
      const expected = parameters
        .map(camel)
        .filter((parameter) => !(isStream && CALLBACKS_OF_STREAM.includes(parameter)));
      const missing = expected.filter((parameter) => !own.has(parameter));
      assert.deepEqual(missing, [], `${name}.${method}`);
      compared += expected.length;
    }
  }
  assert.ok(compared >= 50, `${compared} parameters`);
});

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
