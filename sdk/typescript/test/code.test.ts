/** `runCode` and contexts, with the cells of a notebook, against real sandboxes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type CodeEvent, IsorunError, Result, Sandbox } from '@isorun/sdk';

import { decodePng } from './picture.js';

/** An image with ipykernel, matplotlib and pandas. */
const NOTEBOOK = { image: 'notebook:1', memMib: 2048, timeout: 120 };

for (const kind of ['ipykernel', 'runner']) {
  test(`cells of a notebook, with ${kind}`, async () => {
    await using sb = await Sandbox.create(NOTEBOOK);
    if (kind === 'runner') {
      const remove = 'import ipykernel, shutil; shutil.rmtree(ipykernel.__path__[0])';
      assert.ok((await sb.exec(['python3', '-c', remove])).ok);
    }
    await sb.runCode(
      'import matplotlib.pyplot as plt\nimport pandas as pd\nimport asyncio, os, time',
    );
    const table = await sb.runCode("df = pd.DataFrame({'n': [1, 2, 3], 'square': [1, 4, 9]})\ndf");
    assert.equal(table.error, undefined);
    assert.match(table.text ?? '', /square/);
    assert.equal(table.results.length, 1);
    assert.match(table.results[0]?.html ?? '', /<table/);
    const frame = table.results[0]?.json as { columns: unknown; data: unknown };
    assert.deepEqual(frame.columns, ['n', 'square']);
    assert.deepEqual(frame.data, [
      [1, 1],
      [2, 4],
      [3, 9],
    ]);

    const plot = await sb.runCode(
      "plt.figure(figsize=(4, 3), dpi=50)\nplt.plot(df['n'], df['square'], color='#ff0000', linewidth=4)\n" +
        "plt.title('Squares')\nprint('drawn')",
    );
    assert.equal(plot.error, undefined);
    assert.deepEqual(plot.logs.stdout, ['drawn\n']);
    const pictures = plot.results.filter((result) => result.png !== undefined);
    assert.equal(pictures.length, 1);
    const { width, height, colours } = decodePng(pictures[0]?.png ?? '');
    assert.ok(width >= 150 && width <= 250 && height >= 110 && height <= 200, `${width} ${height}`);
    assert.ok(colours.has('ff0000') && colours.has('ffffff'));
    const chart = pictures[0]?.chart as {
      type: string;
      title: string;
      series: { points: unknown }[];
    };
    assert.deepEqual([chart.type, chart.title], ['line', 'Squares']);
    assert.deepEqual(chart.series[0]?.points, [
      [1, 1],
      [2, 4],
      [3, 9],
    ]);

    const shown = await sb.runCode(
      "plt.bar(['a', 'b'], [1, 2]); plt.show(); print('after'); 'end'",
    );
    assert.deepEqual(
      shown.results.map((result) => result.png !== undefined),
      [true, false],
    );
    assert.equal(shown.text, "'end'");
    assert.deepEqual(shown.logs.stdout, ['after\n']);

    const failed = await sb.runCode("def f():\n    return df['missing']\nf()");
    assert.equal(failed.error?.name, 'KeyError');
    assert.match(failed.error?.value ?? '', /missing/);
    assert.match(failed.error?.traceback ?? '', /Traceback/);
    assert.equal((await sb.runCode('await asyncio.sleep(0.01)\nlen(df)')).text, '3');

    const long = await sb.runCode("for n in range(20_000): print(n)\nos.system('echo child')");
    const lines = long.logs.stdout.join('').trimEnd().split('\n');
    assert.deepEqual(
      [lines[0], lines.at(-2), lines.at(-1), lines.length],
      ['0', '19999', 'child', 20_001],
    );

    for (const code of ['while True: pass', 'time.sleep(60)', 'await asyncio.sleep(60)']) {
      const stopped = await sb.runCode(code, { timeout: 0.5 });
      assert.equal(stopped.error?.name, 'TimeoutError', code);
      assert.equal((await sb.runCode('len(df)')).text, '3', code);
    }

    const huge = await sb.runCode('plt.figure(figsize=(400, 400), dpi=100); plt.plot([1, 2])');
    assert.ok(huge.results.every((result) => result.png === undefined));
    assert.match(JSON.stringify(huge.results.map(({ metadata }) => metadata)), /megapixels/);

    await sb.hibernate();
    await sb.resume();
    const sum = await sb.runCode("df['square'].sum()");
    assert.ok(['14', 'np.int64(14)'].includes(sum.text ?? ''), sum.text);
    const [copy] = await sb.fork();
    assert.ok(copy);
    {
      await using other = copy;
      await other.runCode('df = None');
      const again = await other.runCode('plt.plot([3, 1]); None');
      assert.ok(again.results.some((result) => result.png !== undefined));
    }
    assert.equal((await sb.runCode('len(df)')).text, '3');
    const kernels = (await sb.contexts.list()).map((context) => context.kernel);
    assert.deepEqual(kernels, [kind === 'ipykernel' ? 'python3' : 'python']);
  });
}

test('magic commands run in a kernel', async () => {
  await using sb = await Sandbox.create(NOTEBOOK);
  assert.equal((await sb.runCode('files = !echo one two\nfiles[0]')).text, "'one two'");
  assert.equal((await sb.exec('ls -A /tmp')).stdout, '');
  const killed = await sb.runCode('import os; os._exit(3)');
  assert.equal(killed.error?.name, 'ContextDied');
  assert.match(killed.error?.value ?? '', /code 3/);
  const ordered: string[] = [];
  await sb.runCode("for n in range(3):\n    print('out', n)\n    display(n)", {
    onStdout: (text) => ordered.push(text.trim()),
    onResult: (result) => ordered.push(String(result.text)),
  });
  assert.deepEqual(ordered, ['out 0', '0', 'out 1', '1', 'out 2', '2']);
});

test('results, callbacks and streams', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const code = "print('a')\ndisplay({'text/html': '<i>b</i>'}, raw=True)\nundefined";
  const html = new Result({ 'text/html': '<i>b</i>' });
  const heard: CodeEvent[] = [];
  const execution = await sb.runCode(code, {
    onStdout: (text) => heard.push({ type: 'stdout', text }),
    onStderr: (text) => heard.push({ type: 'stderr', text }),
    onResult: (result) => heard.push({ type: 'result', result }),
    onError: (error) => heard.push({ type: 'error', error }),
  });
  assert.equal(execution.error?.name, 'NameError');
  const expected = [
    { type: 'stdout', text: 'a\n' },
    { type: 'result', result: html },
    { type: 'error', error: execution.error },
  ];
  assert.deepEqual(heard, expected);
  assert.deepEqual(execution.results, [html]);
  assert.deepEqual(execution.logs, { stdout: ['a\n'], stderr: [] });
  assert.deepEqual([execution.executionCount, execution.text], [1, undefined]);
  assert.deepEqual([html.html, html.text, html.formats()], ['<i>b</i>', undefined, ['text/html']]);
  assert.deepEqual(JSON.parse(JSON.stringify(execution)), {
    results: [{ data: { 'text/html': '<i>b</i>' }, metadata: {}, is_main_result: false }],
    logs: { stdout: ['a\n'], stderr: [] },
    error: execution.error,
    execution_count: 1,
  });
  assert.deepEqual((await sb.runCode(code)).results, [html]);
  const stream = sb.runCodeStream(`${code}`);
  const read: CodeEvent[] = [];
  for await (const event of stream) read.push(event);
  assert.deepEqual(
    read.map(({ type }) => type),
    ['stdout', 'result', 'error'],
  );
  assert.equal((await stream.result()).executionCount, 3);
  const main = await sb.runCode('40 + 2');
  assert.deepEqual([main.text, main.results[0]?.isMainResult], ['42', true]);
  const onStdout = (): never => {
    throw new RangeError('enough');
  };
  const cell = sb.runCode('print(1)\nimport time; time.sleep(60)', { onStdout });
  await assert.rejects(cell, (error) => error instanceof RangeError);
});

test('contexts are created, restarted and removed', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const script = await sb.contexts.create({ language: 'javascript' });
  assert.deepEqual(script, {
    id: script.id,
    language: 'javascript',
    cwd: '',
    status: 'idle',
    executionCount: 0,
    kernel: 'node',
  });
  await sb.runCode('let n = 3', { context: script });
  assert.equal((await sb.runCode('n * 2', { context: script.id })).text, '6');
  assert.equal((await sb.contexts.restart(script)).executionCount, 0);
  const missing = await sb.runCode('n', { context: script });
  assert.equal(missing.error?.name, 'ReferenceError');
  await sb.contexts.interrupt(script);
  await sb.contexts.remove(script);
  assert.deepEqual(await sb.contexts.list(), []);
  await assert.rejects(sb.runCode('1', { context: script }), (error) => {
    assert.ok(error instanceof IsorunError, String(error));
    assert.match(error.message, /create one/);
    assert.deepEqual([error.code, error.kind], [404, 'context_not_found']);
    return true;
  });
  for (const id of ['..', '../..', '%2e', 'a/b']) {
    const removed = sb.contexts.remove(id);
    await assert.rejects(
      removed,
      (error) => error instanceof IsorunError && error.code === 404,
      id,
    );
  }
  await assert.rejects(sb.runCode('1', { language: 'julia' }), (error) => {
    assert.ok(error instanceof IsorunError, String(error));
    assert.match(error.message, /Jupyter kernel/);
    assert.equal(error.kind, 'language_not_available');
    return true;
  });
});

test('contexts run at the same time', async () => {
  await using sb = await Sandbox.create({ image: 'host' });
  const contexts = await Promise.all([0, 1, 2].map(() => sb.contexts.create({ cwd: '/usr' })));
  const executions = await Promise.all(
    contexts.map((context, n) =>
      sb.runCode(`import os, time; time.sleep(0.3); n = ${n}; (n, os.getcwd())`, { context }),
    ),
  );
  assert.deepEqual(
    executions.map(({ text }) => text),
    ["(0, '/usr')", "(1, '/usr')", "(2, '/usr')"],
  );
  const [context] = contexts;
  assert.ok(context);
  const heard: string[] = [];
  const onStdout = async (text: string): Promise<void> => {
    await Promise.resolve();
    heard.push(text);
  };
  await sb.runCode("print('x')", { context, onStdout });
  assert.deepEqual(heard, ['x\n']);
  let isOver = false;
  const cell = sb.runCode('time.sleep(60)', { context, timeout: 0 });
  void cell.finally(() => (isOver = true));
  let isBusy = false;
  while (!isBusy) {
    assert.ok(!isOver);
    isBusy = (await sb.contexts.list()).some(
      ({ id, status }) => id === context.id && status === 'busy',
    );
  }
  await sb.contexts.interrupt(context);
  assert.equal((await cell).error?.name, 'KeyboardInterrupt');
  assert.equal((await sb.runCode('n', { context })).text, '0');
});
