/** The choice of the server's address and of the API key. */

import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { DEFAULT_URL, find } from '../dist/esm/config.js';

const LOCAL = { api_url: 'http://127.0.0.1:4444', api_key: 'local-key' };

let directory: string;
let path: string;
let environ: Record<string, string>;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isorun-config-'));
  mkdirSync(join(directory, 'isorun'));
  path = join(directory, 'isorun', 'client.json');
  writeFileSync(path, JSON.stringify(LOCAL));
  environ = { XDG_CONFIG_HOME: directory };
});

afterEach(() => rmSync(directory, { recursive: true }));

test('arguments override the environment, and the environment overrides the file', () => {
  const own = { url: 'http://127.0.0.1:4444', key: 'local-key' };
  assert.deepEqual(find(undefined, undefined, environ), own);
  const named = {
    ...environ,
    ISORUN_API_URL: 'https://a.example/',
    ISORUN_API_KEY: 'env-key',
  };
  const ofEnvironment = { url: 'https://a.example', key: 'env-key' };
  assert.deepEqual(find(undefined, undefined, named), ofEnvironment);
  const ofArguments = { url: 'https://b.example', key: 'arg-key' };
  assert.deepEqual(find('https://b.example', 'arg-key', named), ofArguments);
  assert.deepEqual(find(undefined, 'arg-key', environ), { url: own.url, key: 'arg-key' });
  const nothing = { XDG_CONFIG_HOME: join(directory, 'nowhere') };
  assert.deepEqual(find(undefined, undefined, nothing), { url: DEFAULT_URL, key: undefined });
});

test('the local key is used only for loopback URLs', () => {
  for (const url of [
    'http://localhost:9999',
    'http://127.9.9.9',
    'http://[::1]:1',
    LOCAL.api_url,
  ]) {
    assert.equal(find(url, undefined, environ).key, 'local-key', url);
  }
  for (const url of ['https://example.com', 'http://127.0.0.1.example.com', 'http://localhost.x']) {
    assert.equal(find(url, undefined, environ).key, undefined, url);
  }
  const elsewhere = { ...environ, ISORUN_API_URL: 'http://10.0.0.1:7676' };
  assert.equal(find(undefined, undefined, elsewhere).key, undefined);
});

test('invalid values are refused with a reason', () => {
  for (const url of ['localhost:7676', 'http:example.com', 'ftp://example.com', 'http://', 'x']) {
    assert.throws(() => find(url, undefined, environ), /not an http or https URL/, url);
  }
  for (const key of ['\u20ac', 'key\n', 'two keys']) {
    assert.throws(() => find(undefined, key, environ), /non-ASCII characters/);
  }
  for (const damaged of ['', '[]', '{}', '{"api_url": 1, "api_key": 2}', '{"api_key": "hidden"']) {
    writeFileSync(path, damaged);
    assert.throws(
      () => find(undefined, undefined, environ),
      (error: Error) => /is damaged/.test(error.message) && !error.message.includes('hidden'),
      damaged,
    );
  }
});

test('a file that others can write is refused', () => {
  const mode = (): number => statSync(path).mode & 0o777;
  for (const readable of [0o644, 0o640, 0o604, 0o600]) {
    chmodSync(path, readable);
    assert.equal(find(undefined, undefined, environ).key, 'local-key');
    assert.equal(mode(), 0o600, readable.toString(8));
  }
  for (const writable of [0o620, 0o666, 0o602]) {
    chmodSync(path, writable);
    assert.throws(() => find(undefined, undefined, environ), /chmod 600/);
    assert.equal(mode(), writable);
  }
});
