// Measures the benchmark rows of Node.js in one run. It runs in a directory in which
// isola-core is installed; ISOLA_BENCH_MODULES is the directory of the engines that
// it is compared with.

import { createRequire } from 'node:module';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { buildTemplate } from 'isola-core';

const others = createRequire(path.join(process.env.ISOLA_BENCH_MODULES, 'x.js'));
const filter = process.argv[2] ?? '';
const ROUNDS = 21;

const median = (times) => times.sort((a, b) => a - b)[times.length >> 1];

async function time(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

async function medianOf(rounds, work) {
  const times = [];
  for (let round = 0; round < rounds; round += 1) times.push(await time(work));
  return median(times);
}

function shown(milliseconds) {
  if (milliseconds < 1) return `${(milliseconds * 1000).toFixed(1)} µs`;
  return milliseconds < 1000
    ? `${milliseconds.toFixed(2)} ms`
    : `${(milliseconds / 1000).toFixed(2)} s`;
}

const rows = [];
async function row(name, measure) {
  if (!name.includes(filter)) return;
  try {
    const figure = await measure();
    rows.push([name, figure]);
    console.log(`| ${name} | ${figure} |`);
  } catch (error) {
    console.log(`| ${name} | failed: ${error.message.split('\n')[0]} |`);
    process.exitCode = 1;
  }
}

// The duration of the same calls in Rust, in microseconds, one line per runtime.
const rust = new Map(
  (process.env.ISOLA_RUST_CALLS ?? '').split('\n').map((line) => line.split(' ')),
);

const SCRIPT = {
  js: 'function add(a, b) { return a + b; }',
  python: 'def add(a, b):\n return a + b\n',
};

// The engines. Each resolves to a function that creates an object with `call` and `close`.
const engines = {
  'isola, JavaScript': async () => isola('js'),
  'isola, Python': async () => isola('python'),
  'quickjs-emscripten': async () => {
    const { getQuickJS } = others('quickjs-emscripten');
    const quickjs = await getQuickJS();
    return () => {
      const vm = quickjs.newContext();
      vm.unwrapResult(vm.evalCode(SCRIPT.js)).dispose();
      const add = vm.getProp(vm.global, 'add');
      return {
        call(a, b) {
          const [x, y] = [vm.newNumber(a), vm.newNumber(b)];
          const result = vm.unwrapResult(vm.callFunction(add, vm.undefined, x, y));
          const value = vm.dump(result);
          for (const handle of [x, y, result]) handle.dispose();
          return value;
        },
        close() {
          add.dispose();
          vm.dispose();
        },
      };
    };
  },
  'isolated-vm': async () => {
    const ivm = others('isolated-vm');
    return async () => {
      const isolate = new ivm.Isolate({ memoryLimit: 128 });
      const context = await isolate.createContext();
      await (await isolate.compileScript(SCRIPT.js)).run(context);
      const add = await context.global.get('add', { reference: true });
      return { call: (a, b) => add.apply(undefined, [a, b]), close: () => isolate.dispose() };
    };
  },
  Pyodide: async () => {
    const { loadPyodide } = others('pyodide');
    return async () => {
      const pyodide = await loadPyodide();
      pyodide.runPython(SCRIPT.python);
      const add = pyodide.globals.get('add');
      return { call: (a, b) => add(a, b), close: () => add.destroy(), slow: true };
    };
  },
  'worker_threads worker (not isolated)': async () => async () => {
    const source = `${SCRIPT.js}
      const { parentPort } = require('node:worker_threads');
      parentPort.on('message', ([a, b]) => parentPort.postMessage(add(a, b)));`;
    const worker = new Worker(source, { eval: true });
    let settle;
    worker.on('message', (value) => settle(value));
    return {
      call: (a, b) =>
        new Promise((resolve) => {
          settle = resolve;
          worker.postMessage([a, b]);
        }),
      close: () => worker.terminate(),
    };
  },
};

async function isola(runtime) {
  const template = await buildTemplate(runtime);
  return async () => {
    const sandbox = await template.create();
    await sandbox.start();
    await sandbox.loadScript(SCRIPT[runtime]);
    return {
      call: (a, b) => sandbox.run('add', [a, b]),
      close: () => sandbox[Symbol.asyncDispose](),
    };
  };
}

for (const [name, prepare] of Object.entries(engines)) {
  let make;
  const prepared = async () => (make ??= await prepare());
  const slow = name === 'Pyodide';
  await row(`create, load, first result: ${name}`, async () => {
    await prepared();
    const first = async () => {
      const engine = await make();
      if ((await engine.call(1, 2)) !== 3) throw new Error('wrong result');
      await engine.close();
    };
    await first();
    return shown(await medianOf(slow ? 3 : ROUNDS, first));
  });
  await row(`one of 10,000 warm calls: ${name}`, async () => {
    const engine = await (await prepared())();
    for (let i = 0; i < 1000; i += 1) await engine.call(i, 1);
    const total = await time(async () => {
      for (let i = 0; i < 10_000; i += 1) await engine.call(i, 1);
    });
    await engine.close();
    const plain = rust.get({ 'isola, JavaScript': 'js', 'isola, Python': 'python' }[name]);
    const added =
      plain && `, ${(total / 10 - plain).toFixed(1)} µs more than the same in Rust, ${plain} µs`;
    return `${shown(total / 10_000)}${added ?? ''}`;
  });
  // A hundred instances of Pyodide take about 10 GB.
  if (slow) continue;
  await row(`100 sandboxes in parallel, one call each: ${name}`, async () => {
    await prepared();
    const all = async () => {
      const engines = await Promise.all(
        Array.from({ length: 100 }, async (_, i) => {
          const engine = await make();
          if ((await engine.call(i, 1)) !== i + 1) throw new Error('wrong result');
          return engine;
        }),
      );
      await Promise.all(engines.map((engine) => engine.close()));
    };
    return shown(await medianOf(3, all));
  });
}

await row('10,000 create and close: growth of heap and RSS', async () => {
  const template = await buildTemplate('js');
  const cycle = async (n) => {
    for (let i = 0; i < n; i += 1) {
      const sandbox = await template.create({ hostcalls: { f() {} }, http: true });
      await sandbox.start();
      await sandbox[Symbol.asyncDispose]();
    }
    globalThis.gc?.();
    await new Promise(setImmediate);
    globalThis.gc?.();
    return process.memoryUsage();
  };
  const before = await cycle(1000);
  const middle = await cycle(4500);
  const after = await cycle(4500);
  const mb = (a, b, what) => `${((b[what] - a[what]) / 1e6).toFixed(1)} MB`;
  return `heap ${mb(before, after, 'heapUsed')} (second half ${mb(middle, after, 'heapUsed')}), RSS ${mb(before, after, 'rss')} (second half ${mb(middle, after, 'rss')})`;
});
