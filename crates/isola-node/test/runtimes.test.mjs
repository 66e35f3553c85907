// Downloads of runtimes from a real server, and their failures. The archive
// holds a small file instead of a component, since only the download is tested;
// the last test runs a real one.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import * as isola from 'isola-core';
import { server } from './support/fixture.mjs';

const VERSION = '9.9.9';
const ASSET = `/v${VERSION}/isola-js.tar.gz`;

async function tempDir(t) {
  const created = await mkdtemp(path.join(tmpdir(), 'isola-test-'));
  t.after(() => rm(created, { recursive: true, force: true }));
  return created;
}

/** Returns a gzipped tar archive of entries `[name, content, type]`. */
function archive(entries) {
  const blocks = [];
  for (const [name, content, type = '0'] of entries) {
    const bytes = Buffer.from(content);
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write('0000644\0', 100);
    header.write('0000000\0', 108);
    header.write('0000000\0', 116);
    header.write(`${(type === '0' ? bytes.length : 0).toString(8).padStart(11, '0')}\0`, 124);
    header.write('00000000000\0', 136);
    header.write('        ', 148);
    header.write(type, 156);
    if (type !== '0') header.write(content, 157);
    header.write('ustar\0' + '00', 257);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    blocks.push(header);
    if (type === '0') blocks.push(bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512));
  }
  blocks.push(Buffer.alloc(1024));
  return gzipSync(Buffer.concat(blocks));
}

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** Starts a server of one release. `serve` may handle a request for the archive. */
async function releases(t, bytes, { digest = sha256(bytes), serve } = {}) {
  const log = [];
  const url = await server(t, (request, response) => {
    const { range } = request.headers;
    log.push(range === undefined ? request.url : `${request.url} ${range}`);
    if (request.url === `${ASSET}.sha256`) return response.end(`${digest}  isola-js.tar.gz\n`);
    if (request.url !== ASSET) return response.writeHead(404).end();
    if (serve?.(request, response, log) === true) return;
    const from = range === undefined ? 0 : Number(/bytes=(\d+)-/.exec(range)[1]);
    if (range !== undefined) {
      response.writeHead(206, {
        'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
      });
    } else response.writeHead(200, { 'content-length': bytes.length });
    response.end(bytes.subarray(from));
  });
  return { url, log };
}

/** Returns the names of the files below a directory, except lock files, which are empty. */
async function remainingFiles(runtimesDir) {
  const entries = await readdir(runtimesDir, { recursive: true, withFileTypes: true }).catch(
    () => [],
  );
  return entries
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.lock'))
    .map((entry) => entry.name);
}

// The downloaded file is not a component: an error about that shows that it was loaded.
const NOT_A_COMPONENT = /js\.wasm is not|is not a runtime|cannot be compiled|component/;
const content = Buffer.alloc(300_000, 'not a component ');
const good = archive([['js.wasm', content]]);

const build = (runtimesDir, downloadUrl, more) =>
  isola.buildTemplate('js', {
    version: VERSION,
    runtimesDir,
    downloadUrl,
    cacheDir: runtimesDir + '-cache',
    ...more,
  });

async function installed(runtimesDir) {
  assert.deepEqual(await remainingFiles(runtimesDir), ['js.wasm']);
  assert.deepEqual(await readFile(path.join(runtimesDir, VERSION, 'js', 'js.wasm')), content);
}

async function refused(attempt, code, message) {
  await assert.rejects(attempt, (error) => {
    assert.ok(error instanceof isola.DownloadError, error.stack);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

test('a release is downloaded once, with progress, and reused', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  const { url, log } = await releases(t, good);
  const seen = [];
  const onProgress = (progress) => seen.push(progress);
  await assert.rejects(build(runtimesDir, url, { onProgress }), NOT_A_COMPONENT);
  await installed(runtimesDir);
  const arrived = seen.filter(({ phase }) => phase === 'download');
  assert.deepEqual(arrived.at(-1), {
    phase: 'download',
    received: good.length,
    total: good.length,
  });
  assert.deepEqual(log, [`${ASSET}.sha256`, ASSET]);
  await assert.rejects(build(runtimesDir, url), NOT_A_COMPONENT);
  assert.equal(log.length, 2);
});

test('an interrupted download is resumed with a range request', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  let cuts = 0;
  const { url, log } = await releases(t, good, {
    serve(request, response) {
      if ((cuts += 1) > 1) return false;
      response.writeHead(200, { 'content-length': good.length });
      response.write(good.subarray(0, 200), () => response.destroy());
      return true;
    },
  });
  await assert.rejects(build(runtimesDir, url), NOT_A_COMPONENT);
  await installed(runtimesDir);
  assert.deepEqual(log, [`${ASSET}.sha256`, ASSET, `${ASSET} bytes=200-`]);
});

test('a later attempt resumes the partial download of a failed one', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  let broken = true;
  const { url, log } = await releases(t, good, {
    serve(request, response) {
      if (!broken) return false;
      if (request.headers.range !== undefined) response.writeHead(503).end();
      else {
        response.writeHead(200, { 'content-length': good.length });
        response.write(good.subarray(0, 100), () => response.destroy());
      }
      return true;
    },
  });
  await refused(build(runtimesDir, url), 'download_failed', /503/);
  assert.deepEqual(await remainingFiles(runtimesDir), [`${sha256(good)}.part`]);
  broken = false;
  await assert.rejects(build(runtimesDir, url), NOT_A_COMPONENT);
  await installed(runtimesDir);
  assert.equal(log.at(-1), `${ASSET} bytes=100-`);
});

test('a download is restarted if the server ignores range requests', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  let first = true;
  const { url } = await releases(t, good, {
    serve(request, response) {
      response.writeHead(200, { 'content-length': good.length });
      if (first) response.write(good.subarray(0, 150), () => response.destroy());
      else response.end(good);
      first = false;
      return true;
    },
  });
  await assert.rejects(build(runtimesDir, url), NOT_A_COMPONENT);
  await installed(runtimesDir);
});

test('an archive with a wrong digest is refused and leaves no files', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  const { url } = await releases(t, good, { digest: '0'.repeat(64) });
  await refused(
    build(runtimesDir, url),
    'download_refused',
    /SHA-256 digest is [0-9a-f]{64}, and not 0{64}/,
  );
  assert.deepEqual(await remainingFiles(runtimesDir), []);
});

test('a pinned digest is used instead of the digest of the server', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  const { url, log } = await releases(t, good);
  await refused(
    build(runtimesDir, url, { runtimeSha256: '1'.repeat(64) }),
    'download_refused',
    /and not 1{64}/,
  );
  assert.deepEqual(log, [ASSET]);
  await assert.rejects(
    build(runtimesDir, url, { runtimeSha256: sha256(good).toUpperCase() }),
    NOT_A_COMPONENT,
  );
  await assert.rejects(
    build(`${runtimesDir}-2`, url, { runtimeSha256: 'abc' }),
    /"abc" is not a SHA-256 digest/,
  );
});

for (const [name, entries, message] of [
  [
    'has a path that begins with ..',
    [
      ['../escaped', 'x'],
      ['js.wasm', 'x'],
    ],
    /points outside of the target directory/,
  ],
  ['has an absolute path', [['/tmp/escaped', 'x']], /points outside of the target directory/],
  [
    'has .. in the middle of a path',
    [['a/../../escaped', 'x']],
    /points outside of the target directory/,
  ],
  [
    'has a symbolic link',
    [
      ['link', '/tmp', '2'],
      ['link/escaped', 'x'],
    ],
    /neither a regular file nor a directory/,
  ],
  ['has a hard link', [['link', 'js.wasm', '1']], /neither a regular file nor a directory/],
  [
    'contains a file twice',
    [
      ['js.wasm', 'x'],
      ['js.wasm', 'y'],
    ],
    /js\.wasm/,
  ],
  ['does not contain the runtime', [['other.wasm', 'x']], /there is no js\.wasm in it/],
]) {
  test(`an archive that ${name} is refused and leaves no files`, async (t) => {
    const around = await tempDir(t);
    const runtimesDir = path.join(around, 'runtimes');
    const { url } = await releases(t, archive(entries));
    await refused(build(runtimesDir, url), 'download_refused', message);
    assert.deepEqual(await remainingFiles(around), []);
  });
}

test('a download that is not an archive is refused', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  const { url } = await releases(t, Buffer.from('hello'));
  await refused(build(runtimesDir, url), 'download_refused', /damaged/);
  assert.deepEqual(await remainingFiles(runtimesDir), []);
});

test('the error for a missing release contains its URL', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  const { url } = await releases(t, good);
  await refused(
    build(runtimesDir, url, { version: '8.8.8' }),
    'download_failed',
    /v8\.8\.8\/isola-js\.tar\.gz.*404/,
  );
  const none = await releases(t, good, { digest: 'none' });
  await refused(build(runtimesDir, none.url), 'download_refused', /holds no SHA-256 digest/);
});

test('resolveRuntime downloads a release once, and buildTemplate uses it', async (t) => {
  const runtimesDir = path.join(await tempDir(t), 'runtimes');
  const { url, log } = await releases(t, good);
  const seen = [];
  const options = { version: `v${VERSION}`, runtimesDir, downloadUrl: url };
  const found = await isola.resolveRuntime('js', {
    ...options,
    onProgress: (progress) => seen.push(progress),
  });
  const runtimePath = path.join(runtimesDir, VERSION, 'js', 'js.wasm');
  assert.deepEqual(found, { runtime: 'js', version: VERSION, runtimePath });
  await installed(runtimesDir);
  assert.deepEqual(seen.at(-1), { phase: 'download', received: good.length, total: good.length });
  assert.deepEqual(log, [`${ASSET}.sha256`, ASSET]);
  assert.deepEqual(await isola.resolveRuntime('js', options), found);
  await assert.rejects(build(runtimesDir, url), NOT_A_COMPONENT);
  assert.equal(log.length, 2);

  await refused(
    isola.resolveRuntime('js', { ...options, version: '8.8.8' }),
    'download_failed',
    /404/,
  );
  const pinned = { ...options, runtimesDir: `${runtimesDir}-2`, runtimeSha256: '1'.repeat(64) };
  await refused(isola.resolveRuntime('js', pinned), 'download_refused', /and not 1{64}/);
});

test('resolveRuntime finds installed and given runtimes and refuses invalid options', async (t) => {
  const require = createRequire(import.meta.url);
  const { version } = require('isola-core/package.json');
  for (const runtime of ['python', 'js']) {
    const shipped = path.dirname(require.resolve(`isola-core-runtime-${runtime}/package.json`));
    const runtimePath = path.join(shipped, `${runtime}.wasm`);
    assert.deepEqual(await isola.resolveRuntime(runtime), { runtime, version, runtimePath });
    assert.deepEqual(
      await isola.resolveRuntime(runtime, { runtimePath: shipped, runtimeLibDir: shipped }),
      {
        runtime,
        version,
        runtimePath,
        runtimeLibDir: shipped,
      },
    );
  }
  const { runtime, ...found } = await isola.resolveRuntime('js');
  assert.equal((await isola.buildTemplate(runtime, found)) instanceof isola.SandboxTemplate, true);
  const empty = await tempDir(t);
  for (const [attempt, message] of [
    [() => isola.resolveRuntime('ruby'), /no runtime "ruby": use "python", "python-data" or "js"/],
    [() => isola.resolveRuntime('js', null), /options must be an object/],
    [
      () => isola.resolveRuntime('js', { cacheDir: null }),
      /resolveRuntime has no option "cacheDir"/,
    ],
    [() => isola.resolveRuntime('js', { version: 1 }), /version must be a string/],
    [() => isola.resolveRuntime('js', { version: '../x' }), /not the version of a release/],
    [() => isola.resolveRuntime('js', { onProgress: 1 }), /onProgress must be a function/],
    [() => isola.resolveRuntime('js', { runtimePath: empty }), /js\.wasm.*was not found/],
    [
      () => isola.resolveRuntime('js', { runtimeLibDir: path.join(empty, 'none') }),
      /library directory/,
    ],
  ]) {
    await assert.rejects(attempt(), (error) => {
      assert.ok(error instanceof isola.InvalidArgumentError, error.stack);
      assert.match(error.message, message);
      return true;
    });
  }
});

test(
  'concurrent processes download a release once, and its runtime works',
  { timeout: 300_000 },
  async (t) => {
    const home = await tempDir(t);
    const real = await readFile(path.join(process.env.ISOLA_ARCHIVES, 'isola-js.tar.gz'));
    const line = await readFile(
      path.join(process.env.ISOLA_ARCHIVES, 'isola-js.tar.gz.sha256'),
      'utf8',
    );
    const { url, log } = await releases(t, real, { digest: line.split(' ')[0] });
    const program = `
    const { buildTemplate } = require('isola-core');
    (async () => {
      const [version, downloadUrl] = process.argv.slice(1);
      const template = await buildTemplate('js', { version, downloadUrl });
      const sandbox = await template.create();
      await sandbox.start();
      await sandbox.loadScript('function main() { return 42; }');
      console.log(await sandbox.run('main'));
    })();
  `;
    const { XDG_CACHE_HOME, ...env } = { ...process.env, HOME: home };
    const runs = [1, 2].map(async () => {
      const child = spawn(process.execPath, ['-e', program, VERSION, url], {
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let printed = '';
      child.stdout.on('data', (text) => (printed += text));
      const [code] = await once(child, 'close');
      return [code, printed];
    });
    assert.deepEqual(await Promise.all(runs), [
      [0, '42\n'],
      [0, '42\n'],
    ]);
    assert.equal(log.filter((line) => line === ASSET).length, 1);
    // No directories were given, so those of the user's cache are used.
    const cache = path.join(home, '.cache/isola');
    assert.deepEqual(await readdir(path.join(cache, 'runtimes', VERSION)), ['js']);
    assert.ok(
      (await readdir(path.join(cache, 'compiled'))).some((name) => name.endsWith('.cwasm')),
    );
  },
);
