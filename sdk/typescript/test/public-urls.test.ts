/**
 * URLs of ports. The tests of the Python package attack them in a browser; these read what a
 * browser would get.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';

import { IsorunError, Sandbox } from '@isorun/sdk';

import { required, server, until } from './environment.js';

const HOSTILE = `
import http.server

HEADERS = {
    "Service-Worker-Allowed": "/",
    "Clear-Site-Data": '"*"',
    "Strict-Transport-Security": "max-age=1000; includeSubDomains",
}
COOKIES = ["parent=1; Domain=sandboxes.test; Path=/", "wide=1; Path=/", "plain=1"]

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        said = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = f"{self.command} {self.path} {said.decode()}".encode()
        self.send_response(200)
        for name, value in HEADERS.items(): self.send_header(name, value)
        for cookie in COOKIES: self.send_header("Set-Cookie", cookie)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *_): pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
`;

/** Starts the server in the sandbox. */
async function start(sandbox: Sandbox): Promise<void> {
  await sandbox.writeText('/srv/hostile.py', HOSTILE);
  await sandbox.exec('nohup setsid python3 /srv/hostile.py >/srv/log 2>&1 &');
}

test('a server on the loopback address has a URL without a key', async () => {
  await using one = await Sandbox.create({ image: 'host' });
  await using two = await Sandbox.create({ image: 'host' });
  await start(one);
  const url = one.url(8000);
  assert.equal(url, `${server().url}/sb/${one.id}/p/8000/`);
  await until(async () => (await fetch(url)).status === 200);
  const response = await fetch(`${url}path?query=1`, { method: 'POST', body: 'said' });
  assert.equal(await response.text(), 'POST /path?query=1 said');
  const { headers } = response;
  for (const name of ['service-worker-allowed', 'clear-site-data', 'strict-transport-security']) {
    assert.equal(headers.get(name), null, name);
  }
  assert.match(headers.get('content-security-policy') ?? '', /\bsandbox\b/);
  const cookies = headers.getSetCookie();
  assert.ok(cookies.length > 0);
  for (const cookie of cookies) {
    assert.ok(cookie.includes(`Path=/sb/${one.id}/p/8000/`), cookie);
    assert.doesNotMatch(cookie, /domain=/i);
  }
  // No server listens there.
  const refused = await fetch(two.url(8000));
  assert.equal(refused.status, 502);
  assert.equal(((await refused.json()) as { code: string }).code, 'connection_refused');
  for (const port of [0, 1, 65536, 80.5, Number.NaN]) {
    assert.throws(() => one.url(port), /is not a valid port: give a number from 2 to 65535/);
  }
});

/** Runs a function with another server, which has these options. */
async function withServer(
  args: readonly string[],
  use: (options: { apiUrl: string; apiKey: string }) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'isorun-urls-'));
  const config = join(directory, 'config');
  const env = { ...process.env, ISORUN_DATA_DIR: join(directory, 'data'), XDG_CONFIG_HOME: config };
  const all = ['serve', '--listen', '127.0.0.1:0', '--no-pull', '--log', 'warn', ...args];
  const stdio = ['ignore', 'pipe', 'inherit'] as const;
  const child = spawn(required('ISORUN_COMMAND'), all, { env, stdio: [...stdio] });
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  assert.ok(child.stdout);
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.includes('ISORUN_API_KEY=')) break;
    }
    const text = readFileSync(join(config, 'isorun', 'client.json'), 'utf8');
    const written = JSON.parse(text) as { api_url: string; api_key: string };
    await use({ apiUrl: written.api_url, apiKey: written.api_key });
  } finally {
    child.stdout.destroy();
    child.kill();
    assert.equal(await ended, 0);
    rmSync(directory, { recursive: true });
  }
}

test('a server with a domain gives each sandbox a name', async () => {
  await withServer(['--domain', 'http://sandboxes.test'], async (options) => {
    await using sb = await Sandbox.create({ image: 'host', ...options });
    await start(sb);
    const url = new URL(sb.url(8000));
    assert.equal(url.hostname, `${sb.id}.sandboxes.test`);
    assert.equal(url.pathname, '/sb/p/8000/');
    const { port } = new URL(options.apiUrl);
    const get = (): Promise<{ status: number | undefined; cookies: string[] }> =>
      new Promise((resolve, reject) => {
        // `fetch` does not allow this header.
        const headers = { host: `${url.hostname}:${port}` };
        const sent = request(`${options.apiUrl}${url.pathname}`, { headers }, (response) => {
          response.resume();
          const cookies = response.headers['set-cookie'] ?? [];
          resolve({ status: response.statusCode, cookies });
        });
        sent.once('error', reject).end();
      });
    await until(async () => (await get()).status === 200);
    const { cookies } = await get();
    assert.ok(cookies.length > 0);
    for (const cookie of cookies) assert.doesNotMatch(cookie, /domain=/i);
    // A fork has a name of its own.
    const [fork] = await sb.fork();
    assert.ok(fork);
    assert.equal(new URL(fork.url(8000)).hostname, `${fork.id}.sandboxes.test`);
    await fork.destroy();
  });
});

test('a server without such URLs gives none', async () => {
  await withServer(['--no-anonymous-urls'], async (options) => {
    await using sb = await Sandbox.create({ image: 'host', ...options });
    assert.throws(
      () => sb.url(8000),
      (error) => error instanceof IsorunError && /has no public URLs/.test(error.message),
    );
  });
});
