/** The packed package, installed into an empty directory. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { finish, PACKAGE } from './environment.js';

const PROGRAM = `
async function main() {
  const sb = await Sandbox.create({ image: 'host' });
  try {
    const sh = sb.shell();
    console.log((await sb.exec('echo one')).stdout.trim(), (await sh.run('echo two')).stdout.trim());
    await sh.close();
    await sb.download('/nothing').catch((error) => {
      console.log(error instanceof IsorunError, error.kind);
    });
  } finally {
    await sb.destroy();
  }
}
main();
`;
const EXPECTED = 'one two\ntrue file_not_found\n';

const TYPED = `
import { IsorunError, Sandbox, type CreateOptions, type ExecResult } from '@isorun/sdk';

export async function use(signal: AbortSignal): Promise<number> {
  const options: CreateOptions = { image: 'host', vcpus: undefined, allow: ['a.example'], signal };
  await using sb = await Sandbox.create(options);
  await using sh = sb.shell({ cwd: '/tmp' });
  const result: ExecResult = await sb.exec(['true'], { onStdout: (text) => text.length, signal });
  const stream = sb.execStream('true');
  for await (const { type, text } of stream) {
    const kind: 'stdout' | 'stderr' = type;
    void [kind, text];
  }
  for await (const event of sb.runCodeStream('1')) {
    if (event.type === 'result') void event.result.png?.length;
    else if (event.type === 'error') void event.error.traceback;
    else void event.text;
  }
  const bytes: Uint8Array = await sb.download('/tmp/x');
  const copies: Sandbox[] = await sb.fork(2);
  void [(await sh.run('true')).ok, sh.session?.length, bytes, copies, (await stream.result()).ok];
  // @ts-expect-error: a profile and lists exclude each other.
  await Sandbox.create({ image: 'host', networkProfile: 'internet', deny: [] });
  // @ts-expect-error: there is no such option.
  await Sandbox.create({ image: 'host', memory: 1 });
  // @ts-expect-error: an image is required.
  await Sandbox.create({});
  // @ts-expect-error: use Sandbox.create.
  new Sandbox('host');
  // @ts-expect-error: the properties cannot be changed.
  sb.id = 'other';
  // @ts-expect-error: a command is a string or a list.
  await sb.exec(1);
  try {
    return result.exitCode;
  } catch (error) {
    if (error instanceof IsorunError) return error.code ?? 0;
    throw error;
  }
}
`;

let directory: string;
let app: string;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isorun-package-'));
  app = join(directory, 'app');
  mkdirSync(app);
  const archives: string[] = [];
  // `ws` comes from where the build has installed it: no registry is reachable from a test.
  for (const source of [PACKAGE, join(PACKAGE, 'node_modules', 'ws')]) {
    const packed = join(directory, `packed${archives.length}`);
    mkdirSync(packed);
    await npm(['pack', '--ignore-scripts', '--pack-destination', packed], source);
    archives.push(...readdirSync(packed).map((name) => join(packed, name)));
  }
  writeFileSync(join(app, 'package.json'), '{ "name": "app", "private": true }\n');
  await npm(['install', '--offline', '--no-audit', '--no-fund', ...archives], app);
});

after(() => rmSync(directory, { recursive: true, force: true }));

async function npm(args: string[], cwd: string): Promise<void> {
  const done = await finish(process.env['ISORUN_NPM'] ?? 'npm', args, { cwd });
  assert.equal(done.code, 0, done.stderr);
}

async function run(name: string, program: string): Promise<string> {
  writeFileSync(join(app, name), program);
  const done = await finish(process.execPath, [name], { cwd: app });
  assert.equal(done.code, 0, done.stderr);
  return done.stdout;
}

async function compile(name: string, options: object): Promise<void> {
  const project = join(app, name);
  mkdirSync(project);
  for (const extension of ['ts', 'mts', 'cts'])
    writeFileSync(join(project, `use.${extension}`), TYPED);
  const compilerOptions = {
    strict: true,
    noEmit: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    ...options,
  };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions }));
  const compiler = join(PACKAGE, 'node_modules', 'typescript', 'bin', 'tsc');
  const done = await finish(process.execPath, [compiler, '--project', project]);
  assert.equal(done.code, 0, done.stdout);
}

test('it contains what is published, and nothing else', () => {
  const root = join(app, 'node_modules', '@isorun', 'sdk');
  assert.deepEqual(readdirSync(root).sort(), ['LICENSE', 'README.md', 'dist', 'package.json']);
  const files = readdirSync(join(root, 'dist', 'esm'));
  const modules = files.filter((name) => name.endsWith('.js')).sort();
  assert.ok(modules.includes('index.js') && modules.length > 10);
  assert.deepEqual(
    files.sort(),
    modules.flatMap((name) => [name.replace(/js$/, 'd.ts'), name]).sort(),
  );
  const ofCommonJs = readdirSync(join(root, 'dist', 'cjs')).filter(
    (name) => name !== 'package.json',
  );
  assert.deepEqual(ofCommonJs.sort(), files.sort());
});

test('it works as an ES module and as CommonJS', async () => {
  const esm = `import { IsorunError, Sandbox } from '@isorun/sdk';\n${PROGRAM}`;
  assert.equal(await run('program.mjs', esm), EXPECTED);
  const cjs = `const { IsorunError, Sandbox } = require('@isorun/sdk');\n${PROGRAM}`;
  assert.equal(await run('program.cjs', cjs), EXPECTED);
});

test('both forms have the same names, and accept the errors of each other', async () => {
  const printed = await run(
    'both.mjs',
    `import { createRequire } from 'node:module';
    import assert from 'node:assert/strict';
    import * as esm from '@isorun/sdk';
    const cjs = createRequire(import.meta.url)('@isorun/sdk');
    assert.deepEqual(Object.keys(cjs).sort(), Object.keys(esm).sort());
    assert.notEqual(cjs.IsorunError, esm.IsorunError);
    for (const [one, other] of [[esm, cjs], [cjs, esm]]) {
      const error = new one.IsorunTimeoutError('late');
      assert.ok(error instanceof other.IsorunTimeoutError && error instanceof other.IsorunError);
      assert.ok(!(error instanceof other.IsorunConnectionError));
    }
    console.log(Object.keys(esm).sort().join(' '));`,
  );
  assert.equal(
    printed,
    'ExecBytesResult ExecResult Execution IsorunConnectionError IsorunError IsorunTimeoutError ' +
      'Result Sandbox\n',
  );
});

test('a program without shells does not load the WebSocket client', async () => {
  const printed = await run(
    'loaded.cjs',
    `const { Sandbox } = require('@isorun/sdk');
    const loaded = () => Object.keys(require.cache).some((path) => /[\\\\/]ws[\\\\/]/.test(path));
    (async () => {
      const sb = await Sandbox.create({ image: 'host' });
      await sb.exec('true');
      const before = loaded();
      await sb.shell().run('true');
      await sb.destroy();
      console.log(before, loaded());
    })();`,
  );
  assert.equal(printed, 'false true\n');
});

test('its types are found by the ways in which programs are built', async () => {
  const typeRoots = [join(PACKAGE, 'node_modules', '@types')];
  await compile('node16', { module: 'node16', target: 'es2022', types: ['node'], typeRoots });
  await compile('bundler', {
    module: 'esnext',
    moduleResolution: 'bundler',
    target: 'es2022',
    // A program for browsers and workers has no types of Node.js.
    lib: ['es2022', 'dom'],
    types: [],
  });
});
