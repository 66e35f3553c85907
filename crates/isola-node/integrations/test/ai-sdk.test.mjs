// `isola-core/ai-sdk` with the AI SDK, and its model for tests.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { convertArrayToReadableStream, MockLanguageModelV4 } from 'ai/test';
import { buildTemplate } from 'isola-core';
import { codeSession, codeTool } from 'isola-core/ai-sdk';
import { z } from 'zod';

const templates = { python: await buildTemplate('python'), js: await buildTemplate('js') };
const CALL = { toolCallId: 'call-1', messages: [], context: undefined };

const price = tool({
  description: 'Returns the price of a fruit.',
  inputSchema: z.object({ name: z.string(), count: z.number().default(1) }),
  execute: async ({ name, count }) => {
    const prices = { apple: 3, pear: 5 };
    if (!(name in prices)) throw new Error(`there is no ${name}`);
    return { total: prices[name] * count };
  },
});

const create = (runtime, options = {}) =>
  codeTool({ runtime, template: templates[runtime], ...options });
const text = async (made, output) => (await made.toModelOutput({ output })).value;

test('code returns its output and the value of its last expression', async () => {
  const python = await create('python');
  const output = await python.execute({ code: "print('hello')\nx = 20\nx + 1" }, CALL);
  assert.deepEqual(output, { result: '21', images: [], stdout: 'hello\n', stderr: '' });
  assert.deepEqual(await python.toModelOutput({ output }), { type: 'text', value: 'hello\n21' });

  const js = await create('js');
  const shown = await js.execute(
    { code: "console.log('hello'); console.error('no'); [1, 2]" },
    CALL,
  );
  assert.deepEqual([shown.stdout, shown.stderr], ['hello\n', 'no\n']);
  assert.match(shown.result, /\[ ?1, 2 ?\]/);
  assert.equal(await text(js, await js.execute({ code: 'let x' }, CALL)), '(no output)');
});

test('each call starts anew', async () => {
  const made = await create('python');
  await made.execute({ code: "x = 1\nopen('f', 'w').write('y')" }, CALL);
  const { result } = await made.execute(
    { code: "import os\n['x' in globals(), os.path.exists('f')]" },
    CALL,
  );
  assert.equal(result, '[False, False]');
});

test('tools are functions of the code, with validated input', async () => {
  const seen = [];
  const record = tool({
    inputSchema: jsonSchema({ type: 'object', properties: {} }),
    execute: async (input, options) => {
      seen.push([input, options.toolCallId, options.context]);
      return undefined;
    },
  });
  const tools = { price, record };
  const python = await create('python', { tools });
  const code = `
import asyncio
both = await asyncio.gather(tools.price(name="apple", count=2), tools.price({"name": "pear"}))
await tools.record(a=1)
[each["total"] for each in both]
`;
  const context = { user: 7 };
  assert.equal((await python.execute({ code }, { ...CALL, context })).result, '[6, 5]');
  assert.deepEqual(seen, [[{ a: 1 }, 'call-1-3', context]]);

  const js = await create('js', { tools });
  const source =
    "(await Promise.all(['apple', 'pear'].map((name) => tools.price({ name })))).map((p) => p.total)";
  assert.match((await js.execute({ code: source }, CALL)).result, /3, 5/);

  const wrong = await python.execute({ code: 'await tools.price(fruit="apple")' }, CALL);
  assert.match(wrong.error.message, /invalid input of the tool price/);
  const failed = await python.execute({ code: 'await tools.price(name="plum")' }, CALL);
  assert.deepEqual([failed.error.name, failed.error.message], ['ToolError', 'there is no plum']);
  assert.match(failed.error.traceback, /line 1/);
  const caught =
    'try:\n    await tools.price(name="plum")\nexcept RuntimeError as error:\n    text = str(error)\ntext';
  assert.equal((await python.execute({ code: caught }, CALL)).result, "'there is no plum'");
  assert.match(
    (await js.execute({ code: "tools.price({ name: 'plum' })" }, CALL)).error.message,
    /no plum/,
  );
  const forged = await js.execute({ code: "hostcall('tool', { name: 'constructor' })" }, CALL);
  assert.match(forged.error.message, /there is no tool/);
});

test('a tool that yields gives its last value', async () => {
  const count = tool({
    inputSchema: z.object({}),
    async *execute() {
      yield { n: 1 };
      yield { n: 2 };
    },
  });
  const made = await create('python', { tools: { count } });
  assert.equal((await made.execute({ code: '(await tools.count())["n"]' }, CALL)).result, '2');
});

test('tools that code cannot call are refused', async () => {
  const refused = (tools, message) => assert.rejects(create('python', { tools }), message);
  await refused({ price: { ...price, needsApproval: true } }, /"price" needs approval/);
  await refused({ price: { ...price, execute: undefined } }, /"price" has no execute/);
  await refused({ 'a-b': price }, /"a-b" has a name/);
  await assert.rejects(codeTool({ runtime: 'ruby' }), /use "python", "python-data" or "js"/);
  await assert.rejects(codeTool({ timeout: 5 }), /unknown option "timeout" of codeTool/);
  await assert.rejects(codeTool({ maxOutputChars: 0 }), /maxOutputChars is 0/);
});

test('the description tells the model what there is', async () => {
  const python = await create('python', { tools: { price } });
  assert.match(python.description, /Python 3\.14/);
  assert.match(
    python.description,
    /await tools\.price\(name=\.\.\., count=\.\.\.\): Returns the price/,
  );
  const js = await create('js', { tools: { price } });
  assert.match(js.description, /await tools\.price\(\{ name, count \}\)/);
  assert.equal((await create('js', { description: 'Runs.' })).description, 'Runs.');
  assert.match(python.description, /numpy and other packages with native code are not/);
  // The runtime is not needed before the first call.
  const data = await create('python-data', { tools: { price } });
  assert.match(data.description, /so are numpy, pandas and other packages for data\./);
  assert.match(data.description, /await tools\.price\(name=\.\.\./);
});

test('exceptions and limits are output that a model can act on', async () => {
  const limits = { maxMemory: 64 << 20, maxOutputSize: 200_000 };
  const cpu = { cpuTimeoutMs: 200 };
  const wall = { timeoutMs: 1_000 };
  for (const [runtime, code, message, options] of [
    ['python', 'def f():\n    return 1 / 0\nf()', /ZeroDivisionError: division by zero/],
    ['python', 'x = (', /SyntaxError/],
    ['python', 'while True: pass', /check that loops end/, cpu],
    ['python', 'while True: pass', /TimeoutError: the code took longer than 1000 ms/, wall],
    ['python', 'import time\ntime.sleep(60)', /TimeoutError/, wall],
    ['python', "x = []\nwhile True: x.append('x' * 1_000_000)", /MemoryError|memory/],
    ['python', "while True: print('x' * 1000)", /Print less/],
    ['python', 'import os\nos._exit(1)', /CrashError/],
    ['js', 'missing', /ReferenceError: missing is not defined/],
    ['js', 'while (true) {}', /check that loops end/, cpu],
    ['js', 'await new Promise((done) => setTimeout(done, 60_000))', /do not wait for long/, wall],
  ]) {
    const made = await create(runtime, { limits, ...options });
    const output = await made.execute({ code }, CALL);
    const shown = await made.toModelOutput({ output });
    assert.equal(shown.type, 'error-text', code);
    assert.match(shown.value, message, code);
    assert.ok(shown.value.length < 50_000);
  }
});

test('long output is shortened', async () => {
  const made = await create('python', { maxOutputChars: 100 });
  const { stdout } = await made.execute({ code: "print('a' * 5000)\nprint('end')" }, CALL);
  assert.ok(stdout.length < 200 && stdout.endsWith('end\n') && stdout.includes('characters'));
});

test('pictures are files for the model', async () => {
  const made = await create('python');
  const code = `
class Picture:
    def _repr_png_(self):
        return b"\\x89PNG"
Picture()
`;
  const output = await made.execute({ code }, CALL);
  assert.deepEqual(output.images, ['iVBORw==']);
  const shown = await made.toModelOutput({ output });
  assert.equal(shown.type, 'content');
  assert.deepEqual(shown.value[1].data, { type: 'data', data: 'iVBORw==' });
});

test('an aborted call stops the code', async () => {
  const made = await create('python');
  const controller = new AbortController();
  const running = made.execute(
    { code: 'while True: pass' },
    { ...CALL, abortSignal: controller.signal },
  );
  setTimeout(() => controller.abort(new Error('enough')), 200);
  const begun = Date.now();
  await assert.rejects(running, /enough/);
  assert.ok(Date.now() - begun < 10_000);
});

test('a tool is told when the code that called it has ended', async () => {
  let reason;
  const wait = tool({
    inputSchema: z.object({}),
    execute: (input, { abortSignal }) =>
      new Promise((resolve, reject) => {
        abortSignal.addEventListener('abort', () => {
          reason = abortSignal.reason;
          reject(reason);
        });
      }),
  });
  const made = await create('python', { tools: { wait }, timeoutMs: 300 });
  const { error } = await made.execute({ code: 'await tools.wait()' }, CALL);
  assert.equal(error.name, 'TimeoutError');
  assert.match(reason.message, /has ended/);
});

test('calls of a session share variables, and wait for each other', async () => {
  await using session = await codeSession({ template: templates.python, tools: { price } });
  const run = async (code, call = CALL) => session.tool.execute({ code }, call);
  await run('x = (await tools.price(name="apple"))["total"]');
  const [one, two] = await Promise.all([run('x += 1\nx'), run('x += 1\nx')]);
  assert.deepEqual([one.result, two.result], ['4', '5']);
  assert.match((await run('1 / 0')).error.message, /division/);
  assert.equal((await run('x')).result, '5');
  const crashed = await run('import os\nos._exit(1)');
  assert.match(crashed.error.message, /defined is lost/);
  assert.match((await session.tool.toModelOutput({ output: crashed })).value, /defined is lost/);
  assert.match((await run('x')).error.message, /'x' is not defined/);
  assert.equal((await run('(await tools.price(name="pear"))["total"]')).result, '5');
  const aborted = { ...CALL, abortSignal: AbortSignal.abort(new Error('enough')) };
  await assert.rejects(run('1', aborted), /enough/);
  assert.equal((await run('2')).result, '2');
  // A call that waits for its turn can be aborted, too.
  const controller = new AbortController();
  const slow = run('import time\ntime.sleep(0.5)\n3');
  const waiting = run('4', { ...CALL, abortSignal: controller.signal });
  controller.abort(new Error('no longer'));
  await assert.rejects(waiting, /no longer/);
  assert.equal((await slow).result, '3');
  const running = run('while True: pass');
  setTimeout(() => session.close(), 200);
  assert.match((await running).error.name, /ClosedError/);
  await assert.rejects(run('1'), /closed/);
});

test('code cannot reach the host', async () => {
  process.env.SECRET_OF_THE_HOST = 'xyzzy';
  const python = await create('python');
  const code = `
import os
found = []
for path in ("/etc/passwd", "/proc/self/environ"):
    try:
        found.append(open(path).read())
    except OSError:
        pass
found, dict(os.environ).get("SECRET_OF_THE_HOST")
`;
  assert.equal((await python.execute({ code }, CALL)).result, '([], None)');
  const socket = "import socket\nsocket.create_connection(('127.0.0.1', 1), 2)";
  assert.ok((await python.execute({ code: socket }, CALL)).error);
  const js = await create('js');
  assert.match(
    (await js.execute({ code: "await fetch('http://127.0.0.1:1/')" }, CALL)).error.message,
    /HTTP is disabled/,
  );
});

const usage = {
  inputTokens: { total: 1, noCache: 1, cacheRead: 0, cacheWrite: 0 },
  outputTokens: { total: 1, text: 1, reasoning: 0 },
};

/** A model that gives prepared answers: code for the tool, or a text. */
function prepared(...answers) {
  let calls = 0;
  return new MockLanguageModelV4({
    doGenerate: async () => {
      const { code, said } = answers[calls];
      calls += 1;
      const content = code
        ? {
            type: 'tool-call',
            toolCallId: `c${calls}`,
            toolName: 'run',
            input: JSON.stringify({ code }),
          }
        : { type: 'text', text: said };
      const reason = code ? 'tool-calls' : 'stop';
      return {
        content: [content],
        finishReason: { unified: reason, raw: reason },
        usage,
        warnings: [],
      };
    },
  });
}

test('a model computes with the tools of the program, and repairs its code', async () => {
  const run = await create('python', { tools: { price } });
  const model = prepared(
    { code: 'prices = [await tools.price(name=n) for n in ("apple", "plum")]' },
    {
      code: 'prices = [await tools.price(name=n) for n in ("apple", "pear")]\nsum(p["total"] for p in prices)',
    },
    { said: 'They cost 8.' },
  );
  const done = await generateText({
    model,
    tools: { run },
    stopWhen: isStepCount(5),
    prompt: 'What do they cost?',
  });
  assert.equal(done.text, 'They cost 8.');
  const prompts = model.doGenerateCalls.map(({ prompt }) => JSON.stringify(prompt));
  assert.match(prompts[1], /there is no plum/);
  assert.match(prompts[2], /"value":"8"/);
  assert.match(JSON.stringify(model.doGenerateCalls[0].tools), /Returns the price of a fruit/);
});

test('a session serves the steps of a stream', async () => {
  await using session = await codeSession({ runtime: 'js', template: templates.js });
  let calls = 0;
  const answers = ['globalThis.x = 20', 'x + 1'];
  const model = new MockLanguageModelV4({
    doStream: async () => {
      const code = answers[calls];
      calls += 1;
      const reason = code ? 'tool-calls' : 'stop';
      const parts = code
        ? [
            {
              type: 'tool-call',
              toolCallId: `c${calls}`,
              toolName: 'run',
              input: JSON.stringify({ code }),
            },
          ]
        : [
            { type: 'text-start', id: '1' },
            { type: 'text-delta', id: '1', delta: 'done' },
            { type: 'text-end', id: '1' },
          ];
      return {
        stream: convertArrayToReadableStream([
          { type: 'stream-start', warnings: [] },
          ...parts,
          { type: 'finish', finishReason: { unified: reason, raw: reason }, usage },
        ]),
      };
    },
  });
  const result = streamText({
    model,
    tools: { run: session.tool },
    stopWhen: isStepCount(5),
    prompt: 'Go.',
  });
  const outputs = [];
  for await (const part of result.fullStream) {
    if (part.type === 'tool-result') outputs.push(part.output.result);
  }
  assert.deepEqual(outputs, ['20', '21']);
  assert.equal(await result.text, 'done');
});
