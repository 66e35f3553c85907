/**
 * Requests to servers that fail in ways in which the real one does not, and through what stands
 * before it: TLS and proxies.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import {
  type AddressInfo,
  connect,
  createServer as createTcpServer,
  type Server,
  type Socket,
} from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createServer as createTlsServer } from 'node:tls';
import { pathToFileURL } from 'node:url';

import {
  ExecResult,
  IsorunConnectionError,
  IsorunError,
  IsorunTimeoutError,
  Sandbox,
} from '@isorun/sdk';

import { ExecEvents, Operation } from '../dist/esm/protocol.js';
import { Transport } from '../dist/esm/transport.js';
import { finish, PACKAGE, server } from './environment.js';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** A server of a test, and what it has counted. */
interface Fake {
  transport: Transport;
  requests: IncomingMessage[];
  connections: number;
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

async function withFake(handler: Handler, use: (fake: Fake) => Promise<void>): Promise<void> {
  const requests: IncomingMessage[] = [];
  const http = createServer((request, response) => {
    requests.push(request);
    handler(request, response);
  });
  const url = `http://127.0.0.1:${await listen(http)}`;
  const transport = new Transport({ url, key: 'secret-key' });
  const fake = { transport, requests, connections: 0 };
  http.on('connection', () => (fake.connections += 1));
  try {
    await use(fake);
  } finally {
    transport.close();
    http.close();
    http.closeAllConnections();
  }
}

function operation(readTimeout?: number): Operation<string> {
  return new Operation('POST', '/x', (content) => content.toString(), { a: 1 }, readTimeout);
}

test('a server that does not answer in time is a timeout', async () => {
  for (const handler of [
    () => {},
    (_: IncomingMessage, response: ServerResponse) => void response.writeHead(200).write('begun'),
  ]) {
    await withFake(handler, async ({ transport, requests }) => {
      await assert.rejects(transport.send(operation(0.2), undefined), (error) => {
        assert.ok(error instanceof IsorunTimeoutError, String(error));
        assert.match(error.message, /127\.0\.0\.1:\d+ did not answer in time/);
        return error.code === undefined;
      });
      assert.equal(requests.length, 1);
    });
  }
});

test('the time of the caller does not count', async () => {
  const text = 'data: {"type":"stdout","data":"x"}\n\ndata: {"type":"exit","exit_code":0}\n\n';
  const handler: Handler = (_, response) => response.end(text);
  await withFake(handler, async ({ transport }) => {
    const unused = (): ExecResult => assert.fail('the response is a stream');
    const run = new Operation<ExecResult>('POST', '/x', unused, {}, 0.2);
    let heard = 0;
    const result = await transport.stream(run, new ExecEvents(), undefined, async () => {
      await sleep(500);
      heard += 1;
    });
    assert.equal(heard, 1);
    assert.deepEqual(result, new ExecResult(0, 'x', ''));
  });
});

test('a broken connection is an error, and no request is sent twice', async () => {
  for (const handler of [
    (request: IncomingMessage) => void request.socket.destroy(),
    (request: IncomingMessage, response: ServerResponse) => {
      response.writeHead(200, { 'content-length': '100' }).write('begun');
      setTimeout(() => request.socket.destroy(), 50);
    },
  ]) {
    await withFake(handler, async ({ transport, requests }) => {
      await assert.rejects(transport.send(operation(), undefined), (error) => {
        assert.ok(error instanceof IsorunConnectionError, String(error));
        assert.match(error.message, /the connection to http.* failed/);
        assert.ok(!error.message.includes('secret-key'));
        return true;
      });
      await sleep(100);
      assert.equal(requests.length, 1);
    });
  }
});

test('connections are used again, unless they were idle for long', async () => {
  await withFake(
    (_, response) => response.end('ok'),
    async (fake) => {
      for (let n = 0; n < 3; n++) {
        assert.equal(await fake.transport.send(operation(), undefined), 'ok');
      }
      assert.equal(fake.connections, 1);
      await sleep(5_200);
      assert.equal(await fake.transport.send(operation(), undefined), 'ok');
      assert.equal(fake.connections, 2);
      const [request] = fake.requests;
      assert.equal(request?.headers.authorization, 'Bearer secret-key');
      assert.match(request?.headers['user-agent'] ?? '', /^isorun-typescript\/\d/);
      assert.equal(request?.headers['content-type'], 'application/json');
    },
  );
});

test('a server that accepts connections and is silent is not reached', async () => {
  const sockets: Socket[] = [];
  const silent = createTcpServer((socket) => sockets.push(socket));
  const port = await listen(silent);
  try {
    // No TLS handshake takes place.
    const apiUrl = `https://127.0.0.1:${port}`;
    await assert.rejects(Sandbox.create({ image: 'host', apiUrl, apiKey: 'k' }), (error) => {
      assert.ok(error instanceof IsorunConnectionError, String(error));
      assert.match(error.message, /cannot connect .* no answer within 10 s/);
      return true;
    });
  } finally {
    for (const socket of sockets) socket.destroy();
    silent.close();
  }
});

test('a server behind TLS is used, if its certificate is trusted', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'isorun-tls-'));
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
  const created = await finish('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
    ...['-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=localhost'],
    ...['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'],
  ]);
  assert.equal(created.code, 0, created.stderr);
  const backend = new URL(server().url);
  const options = { key: readFileSync(key), cert: readFileSync(cert) };
  const proxy = createTlsServer(options, (socket) => {
    const inner = connect(Number(backend.port), backend.hostname);
    socket.on('error', () => inner.destroy());
    inner.on('error', () => socket.destroy());
    socket.pipe(inner).pipe(socket);
  });
  proxy.on('tlsClientError', () => {});
  const apiUrl = `https://localhost:${await listen(proxy)}`;
  const program = `
    import { Sandbox } from ${JSON.stringify(pathToFileURL(join(PACKAGE, 'dist/esm/index.js')))};
    try {
      const sb = await Sandbox.create({ image: 'host', apiUrl: ${JSON.stringify(apiUrl)} });
      const sh = sb.shell();
      console.log((await sb.exec('echo one')).stdout + (await sh.run('echo two')).stdout);
      await sh.close();
      await sb.destroy();
    } catch (error) {
      console.log(error.name, error.message);
    }`;
  const args = ['--input-type=module', '--eval', program];
  const environment = { ...process.env, ISORUN_API_KEY: server().key };
  try {
    const env = { ...environment, NODE_EXTRA_CA_CERTS: cert };
    const trusted = await finish(process.execPath, args, { env });
    assert.equal(trusted.stdout, 'one\ntwo\n\n', trusted.stderr);
    const untrusted = await finish(process.execPath, args, { env: environment });
    assert.match(
      untrusted.stdout,
      /^IsorunConnectionError cannot connect .*self-signed certificate/,
    );
    assert.ok(!untrusted.stdout.includes('Start one'), untrusted.stdout);
  } finally {
    proxy.close();
    rmSync(directory, { recursive: true });
  }
});

test('the proxy of the environment is used for other machines only', async () => {
  const seen: string[] = [];
  const proxy = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    response.writeHead(418).end('{"error":"of the proxy","code":"teapot"}');
  });
  const saved = process.env['HTTP_PROXY'];
  process.env['HTTP_PROXY'] = `http://127.0.0.1:${await listen(proxy)}`;
  try {
    {
      await using sb = await Sandbox.create({ image: 'host' });
      assert.ok((await sb.exec('true')).ok);
    }
    assert.deepEqual(seen, []);
    const options = { apiUrl: 'http://sandboxes.invalid:7676', apiKey: 'k' };
    const failed = await Sandbox.snapshots(options).catch((error: unknown) => error);
    assert.ok(failed instanceof IsorunError, String(failed));
    // Older versions of Node.js connect directly, to a name that does not exist.
    const hasProxies = process.allowedNodeEnvironmentFlags.has('--use-env-proxy');
    const expected = hasProxies ? ['GET http://sandboxes.invalid:7676/v1/snapshots'] : [];
    assert.deepEqual(seen, expected);
    assert.equal(failed.code, hasProxies ? 418 : undefined);
  } finally {
    if (saved === undefined) delete process.env['HTTP_PROXY'];
    else process.env['HTTP_PROXY'] = saved;
    proxy.close();
    proxy.closeAllConnections();
  }
});
