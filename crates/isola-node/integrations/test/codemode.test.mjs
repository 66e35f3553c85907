// `isola-core/codemode` with `@cloudflare/codemode`: its executor interface, its tool for
// browsers, which runs on Node.js as well, and its MCP server with a real MCP client.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { test } from 'node:test';
import { createBrowserCodeTool } from '@cloudflare/codemode/browser';
import { codeMcpServer } from '@cloudflare/codemode/mcp';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { buildTemplate } from 'isola-core';
import { IsolaExecutor } from 'isola-core/codemode';
import { z } from 'zod';

const template = await buildTemplate('js');
const executor = new IsolaExecutor({ template });

const providers = (fns, more = {}) => [{ name: 'codemode', fns, ...more }];
const run = (code, fns = {}, options) => executor.execute(code, providers(fns), options);

test('code is a function, an expression or statements', async () => {
  for (const [code, result] of [
    ['async () => 1 + 1', 2],
    ['async () => { const x = 20; return x + 1; }', 21],
    ['async () => { return [1, { a: null, b: "é" }]; };', [1, { a: null, b: 'é' }]],
    ['1 + 1', 2],
    ['await Promise.resolve(3)', 3],
    ['const x = 4; x * 2', 8],
    ['const x = await Promise.resolve(4);\nreturn x * 2', 8],
    ['function main() { return 5; }', 5],
    ['export default async function () { return 6; }', 6],
    ['```js\nasync () => 7\n```', 7],
    ['', undefined],
    ['async () => {}', undefined],
    ['async () => { await new Promise((done) => setTimeout(done, 10)); return 8; }', 8],
  ]) {
    assert.deepEqual(await run(code), { result, logs: [] }, code);
  }
});

test('tools are called with their arguments, several at once', async () => {
  let running = 0;
  let most = 0;
  const fns = {
    async twice({ n }) {
      most = Math.max(most, (running += 1));
      await new Promise((done) => setTimeout(done, 30));
      running -= 1;
      return n * 2;
    },
    'add-all.numbers': async (...numbers) => numbers.reduce((sum, n) => sum + n, 0),
    nothing: async () => undefined,
    delete: async () => 'deleted',
  };
  const code = `async () => {
    const doubled = await Promise.all([1, 2, 3, 4].map((n) => codemode.twice({ n })));
    return [doubled, await codemode.add_all_numbers(1, 2, 3), await codemode.nothing(), await codemode.delete_()];
  }`;
  assert.deepEqual((await run(code, fns)).result, [[2, 4, 6, 8], 6, null, 'deleted']);
  assert.equal(most, 4);
  assert.equal((await run('typeof (await codemode.nothing())', fns)).result, 'undefined');
  // The older form without namespaces.
  assert.equal((await executor.execute('codemode.twice({ n: 4 })', fns)).result, 8);
});

test('errors of tools can be caught, and show no stack of the host', async () => {
  const fns = {
    fail: async () => {
      throw new RangeError('no such thing');
    },
  };
  const caught = 'async () => { try { await codemode.fail(); } catch (e) { return e.message; } }';
  assert.equal((await run(caught, fns)).result, 'no such thing');
  const { result, error } = await run('await codemode.fail()', fns);
  assert.deepEqual([result, error], [undefined, 'no such thing']);
  assert.match((await run('codemode.other()', fns)).error, /Tool "other" not found/);
  for (const name of ['constructor', '__proto__', 'toString']) {
    assert.match((await run(`codemode['${name}']()`, fns)).error, /not found|not a function/);
  }
});

test('binary values pass in both directions', async () => {
  const seen = [];
  const fns = {
    echo: async (value) => {
      seen.push(value);
      return { bytes: Buffer.from([1, 2, 255]), part: value.part };
    },
  };
  const code = `async () => {
    const { bytes, part } = await codemode.echo({ part: new Uint8Array([7, 8]), all: new Uint8Array([9]).buffer });
    return [bytes instanceof Uint8Array, [...bytes], [...part], new Uint8Array([3, 4])];
  }`;
  const { result, error } = await run(code, fns);
  assert.equal(error, undefined);
  assert.deepEqual(result, [true, [1, 2, 255], [7, 8], new Uint8Array([3, 4])]);
  assert.ok(seen[0].part instanceof Uint8Array && seen[0].all instanceof ArrayBuffer);
});

test('logs are in order, also those of code that failed', async () => {
  const code = `async () => {
    console.log('a\\nb', { x: 1 });
    console.warn('careful');
    console.error('wrong');
    throw new TypeError('at last');
  }`;
  const { error, logs } = await run(code);
  assert.equal(error, 'TypeError: at last');
  assert.deepEqual(logs, ['a\nb { x: 1 }', '[warn] careful', '[error] wrong']);
  assert.match((await run('async () => {')).error, /SyntaxError/);
  assert.equal((await run('throw "text"')).error, 'text');
  assert.match((await run('async () => 10n')).error, /BigInt|bigint/i);
});

test('providers have namespaces, preludes and connectors', async () => {
  const binding = {
    async callTool(method, args) {
      if (method === 'paused') return { __codemode_control__: 'pause' };
      if (method === 'wrong') return { __codemode_control__: 'error', message: 'not today' };
      return { method, args };
    },
  };
  const both = [
    {
      name: 'codemode',
      fns: {},
      prelude: 'codemode.step = async (name, fn) => [name, await fn()];',
    },
    { name: 'db', fns: { query: async (sql) => `rows of ${sql}` } },
  ];
  const options = { connectors: [{ name: 'git', binding }] };
  const code = `async () => [
    await codemode.step('one', () => db.query('t')),
    await git.list({ n: 1 }),
    await git.wrong().catch((error) => error.message),
  ]`;
  assert.deepEqual((await executor.execute(code, both, options)).result, [
    ['one', 'rows of t'],
    { method: 'list', args: { n: 1 } },
    'not today',
  ]);
  const paused = await executor.execute('git.paused()', both, options);
  assert.equal(paused.error, '__CODEMODE_PAUSE__');
});

test('names that do not work are refused', async () => {
  const named = (...names) => names.map((name) => ({ name, fns: {} }));
  for (const [list, message] of [
    [named('not-a-name'), /"not-a-name" is not a valid JavaScript identifier/],
    [named('a', 'a'), /Duplicate provider name "a"/],
    [named('Promise'), /Provider name "Promise" is reserved/],
    [named('hostcall'), /reserved/],
    [providers({ 'a-b': async () => 1, a_b: async () => 2 }), /both sanitize to "a_b"/],
  ]) {
    assert.match((await executor.execute('1', list)).error, message);
  }
  assert.match((await executor.execute(5, [])).error, /code is not a string/);
  assert.throws(() => new IsolaExecutor({ timeout: 5 }), /unknown option "timeout"/);
  assert.throws(() => new IsolaExecutor({ timeoutMs: 0 }), /timeoutMs is 0/);
  assert.throws(() => new IsolaExecutor({ template: {} }), /buildTemplate/);
});

test('limits end code with advice, and later executions work', async () => {
  const limited = new IsolaExecutor({
    template,
    limits: { maxMemory: 64 << 20, maxOutputSize: 100_000 },
  });
  const fails = async (code, options) => {
    const executor = options ? new IsolaExecutor({ template, ...options }) : limited;
    return (await executor.execute(code, [])).error;
  };
  const loop = 'async () => { while (true) {} }';
  assert.match(await fails(loop, { cpuTimeoutMs: 200 }), /check that loops end/);
  assert.match(await fails(loop, { timeoutMs: 300 }), /timed out/);
  const wait = 'new Promise((done) => setTimeout(done, 60_000))';
  assert.match(await fails(wait, { timeoutMs: 300 }), /timed out/);
  const memory = 'async () => { const x = []; while (true) x.push("x".repeat(1e6) + x.length); }';
  assert.match(await fails(memory), /memory/);
  const flood = await limited.execute(
    'async () => { while (true) console.log("x".repeat(1000)); }',
    [],
  );
  assert.match(flood.error, /Print less/);
  assert.ok(flood.logs.length > 0 && flood.logs.length < 200);
  assert.equal((await limited.execute('1', [])).result, 1);
});

test('a signal stops an execution and its tools', async () => {
  const controller = new AbortController();
  const fns = {
    abort: async () => {
      controller.abort(new Error('enough'));
      return 1;
    },
  };
  const code = 'async () => { await codemode.abort(); while (true) {} }';
  const begun = Date.now();
  const { error } = await run(code, fns, { signal: controller.signal });
  assert.match(error, /abort|enough/i);
  assert.ok(Date.now() - begun < 10_000);
});

test('a tool that is not awaited is not called after the end', async () => {
  let calls = 0;
  const fns = {
    count: async () => {
      calls += 1;
    },
  };
  const code = 'async () => { setTimeout(() => codemode.count(), 50); return 1; }';
  assert.equal((await run(code, fns)).result, 1);
  await new Promise((done) => setTimeout(done, 150));
  assert.equal(calls, 0);
});

test('code cannot reach the host', async (t) => {
  process.env.SECRET_OF_THE_HOST = 'xyzzy';
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request.url);
    response.end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const url = `http://127.0.0.1:${server.address().port}/`;
  assert.match((await run(`fetch('${url}')`)).error, /HTTP is disabled/);
  assert.deepEqual(requests, []);
  assert.equal((await run('JSON.stringify(globalThis.process?.env ?? {})')).result, '{}');
  for (const name of ['require', 'Deno', 'Bun']) {
    assert.equal((await run(`typeof ${name}`)).result, 'undefined');
  }
  assert.match((await run("import('node:fs')")).error, /./);
  for (const payload of [
    'null',
    '{}',
    '{ namespace: "codemode", tool: "x" }',
    '{ namespace: 5 }',
  ]) {
    const forged = `hostcall('codemode', ${payload})`;
    assert.match((await run(forged)).error, /has no namespace, tool and args/);
  }
  // Executions share nothing.
  await run('globalThis.leak = 1');
  assert.equal((await run('typeof leak')).result, 'undefined');
});

test('executions run side by side', async () => {
  const results = await Promise.all(
    Array.from({ length: 12 }, (_, n) => {
      const fns = { add: async (m) => n * 100 + m };
      return run('Promise.all([0, 1, 2].map((m) => codemode.add(m)))', fns);
    }),
  );
  assert.deepEqual(
    results.map(({ result }) => result),
    Array.from({ length: 12 }, (_, n) => [0, 1, 2].map((m) => n * 100 + m)),
  );
});

test('the code tool of codemode uses it', async () => {
  const prices = { apple: 3, pear: 5 };
  const tool = createBrowserCodeTool({
    executor: new IsolaExecutor(),
    tools: {
      price: {
        description: 'Returns the price of a fruit.',
        inputSchema: { type: 'object', properties: { name: { type: 'string' } } },
        execute: async ({ name }) => prices[name],
      },
    },
  });
  assert.match(tool.description, /price/);
  const code = `async () => {
    const apple = await codemode.price({ name: 'apple' });
    console.log('apple', apple);
    return apple + (await codemode.price({ name: 'pear' }));
  }`;
  assert.deepEqual(await tool.execute({ code }), { result: 8, logs: ['apple 3'] });
  await assert.rejects(tool.execute({ code: 'async () => missing' }), /missing is not defined/);
});

test('an MCP client runs code on the tools of a server', async (t) => {
  const shop = new McpServer({ name: 'shop', version: '1.0.0' });
  shop.registerTool(
    'get-price',
    { description: 'Returns the price of a fruit.', inputSchema: { name: z.string() } },
    async ({ name }) => {
      if (name !== 'apple') throw new Error(`there is no ${name}`);
      return { content: [{ type: 'text', text: '3' }] };
    },
  );
  const server = await codeMcpServer({ server: shop, executor });
  const client = new Client({ name: 'test', version: '1.0.0' });
  const [near, far] = InMemoryTransport.createLinkedPair();
  await Promise.all([server.connect(far), client.connect(near)]);
  t.after(() => client.close());
  const { tools } = await client.listTools();
  assert.deepEqual(
    tools.map(({ name }) => name),
    ['code'],
  );
  assert.match(tools[0].description, /get_price/);
  const call = async (code) => client.callTool({ name: 'code', arguments: { code } });
  const done = await call("async () => 2 * (await codemode.get_price({ name: 'apple' }))");
  assert.deepEqual(done.content, [{ type: 'text', text: '6' }]);
  const failed = await call("async () => codemode.get_price({ name: 'plum' })");
  assert.equal(failed.isError, true);
  assert.match(failed.content[0].text, /there is no plum/);
});
