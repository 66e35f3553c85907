// Stream arguments: sources of values, backpressure, ends, errors and isolation.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import * as isola from 'isola-core';
import { collect, sandbox, signal, template } from './support/fixture.mjs';

const { Arg, StreamArg } = isola;

const SCRIPTS = {
  python: `
from sandbox.asyncio import hostcall
async def total(xs, factor=1):
    total = 0
    async for x in xs:
        total += x
    return total * factor
async def items(xs):
    return [x async for x in xs]
async def two(one, other):
    return [await items(one), await items(other)]
async def squares(xs):
    async for x in xs:
        yield x * x
async def first(xs):
    async for x in xs:
        return x
async def message(xs):
    try:
        return await items(xs)
    except Exception as error:
        return str(error)
async def report(xs):
    async for x in xs:
        await hostcall('report', x)
async def hold(xs):
    async for x in xs:
        await hostcall('hold', x)
async def ask(token):
    try:
        return await hostcall('isola.stream', token)
    except Exception as error:
        return str(error)
def main():
    return 'main'
`,
  js: `
const total = async (xs, { factor = 1 } = {}) => {
  let total = 0;
  for await (const x of xs) total += x;
  return total * factor;
};
async function items(xs) {
  const items = [];
  for await (const x of xs) items.push(x);
  return items;
}
const named = ({ xs }) => items(xs);
const two = async (one, other) => [await items(one), await items(other)];
async function* squares(xs) { for await (const x of xs) yield x * x; }
async function first(xs) { for await (const x of xs) return x; }
const message = (xs) => items(xs).catch((error) => error.message);
async function report(xs) { for await (const x of xs) await hostcall('report', x); }
async function hold(xs) { for await (const x of xs) await hostcall('hold', x); }
const ask = (token) => hostcall('isola.stream', token).catch((error) => error.message);
function main() { return 'main'; }
`,
};

function* numbers(n) {
  for (let i = 0; i < n; i += 1) yield i;
}

async function* asyncNumbers(n) {
  yield* numbers(n);
}

/** Returns a promise of what a promise was rejected with. */
const rejection = (promise) => promise.then(assert.fail, (error) => error);

/** Creates a sandbox in which `hold(stream)` takes one value and then waits. */
async function holding(t, runtime) {
  const asked = signal();
  const hold = (value) => {
    asked.resolve(value);
    return new Promise(() => {});
  };
  const guest = await sandbox(t, runtime, SCRIPTS[runtime], { hostcalls: { hold } });
  return { guest, asked: asked.promise };
}

for (const runtime of ['python', 'js']) {
  const started = (t, config) => sandbox(t, runtime, SCRIPTS[runtime], config);

  test(`${runtime}: values arrive from every kind of source`, async (t) => {
    const guest = await started(t);
    for (const [n, total] of [
      [0, 0],
      [1, 0],
      [5000, 12_497_500],
    ]) {
      for (const stream of [
        StreamArg.from(numbers(n)),
        StreamArg.from([...numbers(n)], { capacity: 1 }),
        StreamArg.from(Array.from(numbers(n), async (value) => value)),
        StreamArg.from(asyncNumbers(n), { capacity: 3 }),
        StreamArg.from(
          new ReadableStream({
            start(controller) {
              for (const value of numbers(n)) controller.enqueue(value);
              controller.close();
            },
          }),
        ),
      ]) {
        assert.equal(await guest.run('total', [stream]), total);
      }
    }
    const values = [null, true, -1.5, 'ü\u{1f600}\0"', [], { a: [{}] }];
    assert.deepEqual(await guest.run('items', [StreamArg.from(values)]), values);
    assert.deepEqual(await guest.run('items', [StreamArg.from('ab')]), ['a', 'b']);
    assert.equal(await guest.run('main'), 'main');
  });

  test(`${runtime}: streams are passed by position, by name and as Arg`, async (t) => {
    const guest = await started(t);
    const ones = () => StreamArg.from([1, 1]);
    assert.equal(await guest.run('total', [ones()], { factor: 5 }), 10);
    assert.equal(await guest.run('total', [new Arg(ones()), new Arg(5, 'factor')]), 10);
    assert.deepEqual(
      await guest.run('two', [StreamArg.from('ab'), StreamArg.from(asyncNumbers(2))]),
      [
        ['a', 'b'],
        [0, 1],
      ],
    );
    const byName = runtime === 'python' ? 'items' : 'named';
    for (const call of [
      guest.run.bind(guest, byName, [], { xs: ones() }),
      guest.run.bind(guest, byName, [StreamArg.from([1, 1], { name: 'xs' })]),
      guest.run.bind(guest, byName, [], { xs: StreamArg.from([1, 1], { name: 'xs' }) }),
      guest.run.bind(guest, byName, [new Arg(ones(), 'xs')]),
    ]) {
      assert.deepEqual(await call(), [1, 1]);
    }
    assert.deepEqual(await collect(guest.runStream('squares', [StreamArg.from([2, 3])])), [
      { type: 'result', data: 4 },
      { type: 'result', data: 9 },
      { type: 'end', data: null },
    ]);
    const error = await rejection(guest.run('nope', [ones()]));
    assert.equal(error.code, 'guest_exception');
    assert.match(
      error.message,
      runtime === 'python'
        ? /^NameError: name 'nope' is not defined/
        : /^ReferenceError: nope is not defined/,
    );
    assert.doesNotMatch(error.message, /isola_/);
  });

  test(`${runtime}: push and send add values to a stream until it is ended`, async (t) => {
    const guest = await started(t);
    const stream = new StreamArg({ capacity: 2 });
    await stream.send(1);
    stream.push(2);
    assert.throws(
      () => stream.push(3),
      (error) => {
        assert.ok(error instanceof isola.StreamFullError && error instanceof isola.IsolaError);
        assert.equal(error.code, 'stream_full');
        return /has not read 2 values/.test(error.message);
      },
    );
    const running = guest.run('total', [stream]);
    await stream.send(3);
    stream.end();
    stream.end();
    assert.throws(() => stream.push(4), { code: 'stream_closed', message: /has been ended/ });
    assert.equal(await running, 6);
    const error = await rejection(stream.send(5));
    assert.ok(error instanceof isola.StreamClosedError);
    assert.match(error.message, /call has ended/);
    stream.end();
  });

  test(`${runtime}: pending sends keep their order and complete before the end`, async (t) => {
    const guest = await started(t);
    const stream = new StreamArg({ capacity: 2 });
    const sent = Array.from(numbers(600), (value) => stream.send(value));
    stream.end();
    assert.deepEqual(await guest.run('items', [stream]), [...numbers(600)]);
    await Promise.all(sent);
  });

  test(`${runtime}: a slow guest applies backpressure to its source`, async (t) => {
    const capacity = 5;
    let taken = 0;
    function* endless() {
      for (;;) yield taken++;
    }
    async function* endlessAsync() {
      yield* endless();
    }
    const leads = [];
    const report = (value) => {
      leads.push(taken - value);
      if (leads.length === 500) throw new Error('enough');
    };
    const guest = await started(t, { hostcalls: { report } });
    for (const source of [endless, endlessAsync]) {
      taken = 0;
      leads.length = 0;
      await assert.rejects(guest.run('report', [StreamArg.from(source(), { capacity })]), /enough/);
      assert.equal(leads.length, 500);
      // One batch is in the guest, and one is waiting.
      assert.ok(
        Math.max(...leads) <= 2 * capacity,
        `the source is ${Math.max(...leads)} values ahead`,
      );
      taken = 0;
      assert.equal(await guest.run('first', [StreamArg.from(source(), { capacity })]), 0);
      assert.ok(taken <= 2 * capacity, `${taken} values were taken for one`);
    }
  });

  test(`${runtime}: the end of a call ends its stream and its source`, async (t) => {
    const guest = await started(t);
    const ended = { sync: signal(), async: signal(), events: signal() };
    function* endless(name) {
      try {
        for (;;) yield 1;
      } finally {
        ended[name].resolve();
      }
    }
    async function* endlessAsync(name) {
      yield* endless(name);
    }
    assert.equal(await guest.run('first', [StreamArg.from(endless('sync'))]), 1);
    await ended.sync.promise;
    assert.equal(await guest.run('first', [StreamArg.from(endlessAsync('async'))]), 1);
    await ended.async.promise;
    const events = await collect(guest.runStream('first', [StreamArg.from(endless('events'))]));
    assert.deepEqual(events, [{ type: 'end', data: 1 }]);
    await ended.events.promise;
    // A source that has ended by itself is not ended again.
    const complete = {
      ...iterator([1, 2]),
      return: () => assert.fail('return of a complete iterator'),
    };
    assert.equal(await guest.run('total', [StreamArg.from(complete)]), 3);

    const stream = new StreamArg({ capacity: 1 });
    await stream.send(1);
    const running = guest.run('first', [stream]);
    const error = await rejection(
      (async () => {
        for (;;) await stream.send(2);
      })(),
    );
    assert.equal(error.code, 'stream_closed');
    assert.equal(await running, 1);
  });

  test(`${runtime}: close and an aborted signal end the stream of a running call`, async (t) => {
    const stops = {
      close: ({ guest }) => guest.close(),
      abort: ({ controller }) => controller.abort(),
    };
    for (const [name, stop] of Object.entries(stops)) {
      for (const streamed of [false, true]) {
        const { guest, asked } = await holding(t, runtime);
        const controller = new AbortController();
        const returned = signal();
        const stuck = {
          [Symbol.asyncIterator]: () => ({
            next: () => new Promise(() => {}),
            // A generator would return only after its `next`.
            return: async () => returned.resolve(),
          }),
        };
        const stream = new StreamArg({ capacity: 1 });
        await stream.send(1);
        const args = [stream, new Arg(StreamArg.from(stuck), 'unused')];
        const script =
          runtime === 'python'
            ? 'async def held(xs, unused): await hold(xs)\n'
            : 'const held = (xs) => hold(xs);';
        await guest.loadScript(script);
        const options = { signal: controller.signal };
        const running = streamed
          ? guest.runStream('held', args, {}, options).next()
          : guest.run('held', args, {}, options);
        const ended = running.then(
          (event) => event.value.error,
          (error) => error,
        );
        assert.equal(await asked, 1);
        await stream.send(2);
        const waiting = rejection(stream.send(3));
        stop({ guest, controller });
        assert.equal((await ended).code, name === 'close' ? 'closed' : 'aborted');
        assert.equal((await waiting).code, 'stream_closed');
        await returned.promise;
        await assert.rejects(stream.send(4), { code: 'stream_closed', message: /call has ended/ });
      }
    }
  });

  test(`${runtime}: breaking out of the events of a call ends its stream`, async (t) => {
    const left = await started(t);
    const stream = new StreamArg({ capacity: 1 });
    await stream.send(3);
    const waiting = rejection(
      (async () => {
        for (;;) await stream.send(4);
      })(),
    );
    for await (const event of left.runStream('squares', [stream])) {
      assert.equal(event.data, 9);
      break;
    }
    assert.equal((await waiting).code, 'stream_closed');
    await assert.rejects(left.run('main'), { code: 'closed', message: /cancelled half-way/ });

    // Before the first `next` nothing has started, and the source is not read.
    const guest = await started(t);
    const source = numbers(3);
    const unstarted = StreamArg.from(source);
    const events = guest.runStream('squares', [unstarted]);
    assert.deepEqual(await events.return(), { done: true, value: undefined });
    assert.deepEqual(await events.next(), { done: true, value: undefined });
    assert.equal(source.next().value, 0);

    // While the guest is prepared for streams, `return` waits for that.
    const early = guest.runStream('squares', [StreamArg.from([1])]);
    const next = early.next();
    await Promise.resolve();
    await early.return();
    assert.deepEqual(await next, { done: true, value: undefined });
  });

  test(`${runtime}: an error of a source is raised in the guest with its message`, async (t) => {
    const guest = await started(t);
    function* broken() {
      yield 1;
      throw new Error('the disk is full');
    }
    async function* asyncBroken() {
      yield* broken();
    }
    for (const source of [broken, asyncBroken]) {
      assert.equal(await guest.run('message', [StreamArg.from(source())]), 'the disk is full');
      const error = await rejection(guest.run('total', [StreamArg.from(source())]));
      assert.ok(error instanceof isola.HostcallError);
      assert.match(error.message, /the disk is full/);
      // The values before the failure arrive.
      assert.equal(await guest.run('first', [StreamArg.from(source())]), 1);
    }
    const failing = { [Symbol.iterator]: () => assert.fail('no iterator') };
    assert.equal(await guest.run('message', [StreamArg.from(failing)]), 'no iterator');
    const returned = signal();
    const invalid = { ...iterator([1, NaN]), return: () => (returned.resolve(), {}) };
    assert.match(
      await guest.run('message', [StreamArg.from(invalid)]),
      /^value 1 of the stream is NaN/,
    );
    await returned.promise;
    // An error of `return` affects nothing.
    const rude = { ...iterator([1, 2, 3]), return: () => assert.fail('return') };
    assert.equal(await guest.run('first', [StreamArg.from(rude)]), 1);
    assert.equal(await guest.run('main'), 'main');
  });

  test(`${runtime}: a stream can be used only once`, async (t) => {
    const [guest, other] = [await started(t), await started(t)];
    const used = StreamArg.from([1]);
    assert.equal(await guest.run('total', [used]), 1);
    const fresh = StreamArg.from([2]);
    for (const attempt of [
      () => guest.run('total', [used]),
      () => other.run('total', [used]),
      () => guest.run('two', [fresh, used]),
      () => guest.run('two', [fresh, fresh]),
      async () => guest.runStream('total', [used]),
    ]) {
      const error = await rejection(attempt());
      assert.ok(error instanceof isola.InvalidArgumentError);
      assert.match(error.message, /^argument \d: a StreamArg can be used only once/);
    }
    // A call that was refused for its arguments has not used the others.
    assert.equal(await guest.run('total', [fresh]), 2);
    const running = StreamArg.from([3]);
    const events = guest.runStream('total', [running]);
    await assert.rejects(other.run('total', [running]), /used only once/);
    assert.deepEqual(await collect(events), [{ type: 'end', data: 3 }]);
  });

  test(`${runtime}: a refused call closes its stream and does not read the source`, async (t) => {
    const { guest, asked } = await holding(t, runtime);
    const held = guest.run('hold', [StreamArg.from([1])]);
    await asked;
    const source = numbers(3);
    const byHand = new StreamArg({ capacity: 1 });
    await byHand.send(1);
    const waiting = rejection(byHand.send(2));
    await assert.rejects(guest.run('two', [StreamArg.from(source), byHand]), { code: 'busy' });
    assert.equal((await waiting).code, 'stream_closed');
    assert.equal(source.next().value, 0);
    await assert.rejects(guest.runStream('total', [StreamArg.from(source)]).next(), {
      code: 'busy',
    });
    guest.close();
    await assert.rejects(held, { code: 'closed' });
    await assert.rejects(guest.run('total', [StreamArg.from(source)]), { code: 'closed' });
    await assert.rejects(guest.runStream('total', [StreamArg.from(source)]).next(), {
      code: 'closed',
    });
    const aborted = { signal: AbortSignal.abort() };
    const unused = await started(t);
    await assert.rejects(unused.run('total', [StreamArg.from(source)], {}, aborted), {
      code: 'aborted',
    });
    await assert.rejects(unused.runStream('total', [StreamArg.from(source)], {}, aborted).next(), {
      code: 'aborted',
    });
    assert.equal(source.next().value, 1);
    assert.equal(await unused.run('main'), 'main');
    const pending = await (await template(runtime)).create();
    t.after(() => pending.close());
    await assert.rejects(pending.run('total', [StreamArg.from([1])]), { code: 'not_running' });
  });

  test(`${runtime}: limits apply to calls with streams`, async (t) => {
    const guest = await started(t);
    const never = new StreamArg();
    await assert.rejects(guest.run('total', [never], {}, { timeoutMs: 300 }), {
      code: 'wall_time_limit',
    });
    await assert.rejects(never.send(1), { code: 'stream_closed' });
    // Each value fits, but all of them do not fit into one batch.
    const small = await started(t, { limits: { maxValueSize: 4000 } });
    const values = Array.from(numbers(500), () => 1);
    const texts = values.map(() => 'ü'.repeat(500));
    assert.equal(await small.run('total', [StreamArg.from(values)]), 500);
    await small.loadScript(
      runtime === 'python'
        ? 'async def length(xs): return sum([len(x) async for x in xs])\n'
        : 'async function length(xs) { let sum = 0; for await (const x of xs) sum += x.length; return sum; }',
    );
    assert.equal(await small.run('length', [StreamArg.from(texts)]), 500 * 500);
    const large = StreamArg.from(['x'.repeat(4000)]);
    assert.match(await small.run('message', [large]), /larger than 4000 bytes/);
  });

  test(`${runtime}: forks and restored sandboxes can read only their own streams`, async (t) => {
    const capacity = 1;
    const parent = await started(t);
    assert.equal(await parent.run('total', [StreamArg.from([1])]), 1);
    const [child] = await parent.fork();
    t.after(() => child.close());
    assert.equal(await child.run('total', [StreamArg.from([2])]), 2);
    const snapshot = await parent.snapshot();
    const directory = await mkdtemp(path.join(tmpdir(), 'isola-test-'));
    t.after(() => rm(directory, { recursive: true, force: true }));
    const file = path.join(directory, 'a.snapshot');
    await snapshot.save(file);
    for (const from of [snapshot, file]) {
      const restored = await (await template(runtime)).restore(from);
      t.after(() => restored.close());
      assert.equal(await restored.run('total', [StreamArg.from([3])]), 3);
    }
    // A guest reads a stream by a token, which no other guest has.
    const secret = new StreamArg({ capacity });
    await secret.send(4);
    const running = parent.run('total', [secret]);
    for (const token of [0, 1, '', null, {}, 'secret', '__proto__']) {
      assert.match(await child.run('ask', [token]), /the stream is closed/);
    }
    secret.end();
    assert.equal(await running, 4);
  });

  test(`${runtime}: concurrent calls with streams return their own results`, async (t) => {
    const guests = await Promise.all(Array.from({ length: 5 }, () => started(t)));
    const totals = guests.map((guest, index) =>
      guest.run('total', [StreamArg.from(asyncNumbers(1000 + index))]),
    );
    assert.deepEqual(
      await Promise.all(totals),
      guests.map((_, index) => ((1000 + index) * (999 + index)) / 2),
    );
  });
}

/** Returns an iterable of values whose iterator has no `return`. */
function iterator(values) {
  const next = values[Symbol.iterator]();
  return {
    next: () => next.next(),
    [Symbol.iterator]() {
      return this;
    },
  };
}

test('python: a stream can be read with a synchronous for loop', async (t) => {
  const guest = await sandbox(t, 'python', 'def total(xs): return sum(xs)\n');
  assert.equal(await guest.run('total', [StreamArg.from(asyncNumbers(1000))]), 499500);
  assert.equal(await guest.run('total', [], { xs: StreamArg.from([1, 2]) }), 3);
});

test('js: exports of a module take streams, whatever their names are', async (t) => {
  const guest = await sandbox(t, 'js', SCRIPTS.js);
  const names = ['read', 'request', 'stream', 'batch', 'target', 'args', 'call'];
  await guest.loadScript(names.map((name) => `export const ${name} = () => '${name}';`).join('\n'));
  assert.equal(await guest.run('total', [StreamArg.from([1])]), 1);
  for (const name of names) assert.equal(await guest.run(name), name);
  assert.equal(await guest.run('read', [StreamArg.from([1])]), 'read');
  await guest.loadScript(`
    export async function sum(xs) { let sum = 0; for await (const x of xs) sum += x; return sum; }
    export const number = 3;
  `);
  assert.equal(await guest.run('sum', [StreamArg.from(numbers(100))]), 4950);
  await assert.rejects(guest.run('number', [StreamArg.from([1])]), /number is not a function/);
  await assert.rejects(
    guest.run('absent', [StreamArg.from([1])]),
    /absent is not defined: .* exports/,
  );
});

test('large integers are exact in a stream with the option bigints', async (t) => {
  const guest = await sandbox(t, 'python', SCRIPTS.python, { bigints: true });
  const values = [2n ** 70n, { a: -(2n ** 80n) }];
  assert.deepEqual(await guest.run('items', [StreamArg.from(values)]), values);
});

test('values are encoded when they are added', async (t) => {
  const guest = await sandbox(t, 'js', SCRIPTS.js);
  const stream = new StreamArg();
  const value = { n: 1 };
  stream.push(value);
  value.n = 2;
  void stream.send(value);
  value.n = 3;
  stream.end();
  assert.deepEqual(await guest.run('items', [stream]), [{ n: 1 }, { n: 2 }]);
});

test('invalid streams are refused', async (t) => {
  for (const [attempt, message] of [
    [() => StreamArg.from(5), /must be an iterable, not 5/],
    [() => StreamArg.from(null), /must be an iterable, not null/],
    [() => StreamArg.from({}), /must be an iterable, not an object/],
    [() => new StreamArg(5), /options must be an object, not 5/],
    [() => new StreamArg({ size: 1 }), /no option "size": the options are capacity, name/],
    [() => new StreamArg({ capacity: 0 }), /capacity must be an integer of at least 1, not 0/],
    [() => new StreamArg({ capacity: 1.5 }), /capacity must be an integer of at least 1, not 1\.5/],
    [() => new StreamArg({ name: 1 }), /the name of an argument must be a string, not 1/],
    [() => new StreamArg().push(undefined), /the value is undefined/],
    [() => new StreamArg().send([NaN]), /the value\[0\] is NaN/],
    [() => StreamArg.from([1]).send(2), /takes its values from an iterable/],
    [() => StreamArg.from([1]).push(2), /takes its values from an iterable/],
    [() => StreamArg.from([1]).end(), /takes its values from an iterable/],
  ]) {
    await assert.rejects(
      async () => attempt(),
      (error) => {
        assert.ok(error instanceof isola.InvalidArgumentError, error.stack);
        assert.match(error.message, message);
        return true;
      },
    );
  }
  const stream = StreamArg.from([], { name: 'n', capacity: 3 });
  assert.deepEqual([stream.name, stream.capacity], ['n', 3]);
  assert.deepEqual([new StreamArg().name, new StreamArg().capacity], [null, 1024]);

  const guest = await sandbox(t, 'js', SCRIPTS.js);
  for (const [args, kwargs, message] of [
    [[[new StreamArg()]], {}, /a StreamArg is an argument of its own/],
    [[{ a: new StreamArg() }], {}, /a StreamArg is an argument of its own/],
    [
      [asyncNumbers(1)],
      {},
      /argument 0 is a .*, which is not a JSON value: .* pass StreamArg\.from/,
    ],
    [[numbers(1)], {}, /argument 0 is a .*, which is not a JSON value: .* pass StreamArg\.from/],
    [new StreamArg(), {}, /arguments of a call must be an array/],
    [[], new StreamArg(), /named arguments must be an object/],
    [[], { a: new StreamArg({ name: 'b' }) }, /argument "a" is a StreamArg with another name, "b"/],
    [[new StreamArg({ name: 'a' })], { a: 1 }, /the argument "a" is given twice/],
    [[new StreamArg({ name: 'a' }), NaN], {}, /argument 1 is NaN/],
  ]) {
    await assert.rejects(guest.run('main', args, kwargs), (error) => {
      assert.ok(error instanceof isola.InvalidArgumentError, error.stack);
      assert.match(error.message, message);
      return true;
    });
  }
  const config = { hostcalls: { 'isola.stream': () => 1 } };
  await assert.rejects(
    (await template('js')).create(config),
    /"isola\.stream" is reserved for StreamArg/,
  );
  assert.equal(await guest.run('main'), 'main');
});
