'use strict';
// Streams, from the Streams standard.

const cases = {};

const pieces = (...items) =>
  new ReadableStream({
    start(controller) {
      for (const item of items) controller.enqueue(item);
      controller.close();
    },
  });
async function all(iterable) {
  const list = [];
  for await (const item of iterable) list.push(item);
  return list;
}

cases['for await reads a stream to its end'] = async () =>
  same(await all(pieces(1, 2, 3)), [1, 2, 3]);
cases['it is locked meanwhile, and free afterwards'] = async () => {
  const stream = pieces(1);
  for await (const item of stream) same([item, stream.locked], [1, true]);
  same(stream.locked, false);
};
cases['leaving the loop cancels the stream'] = async () => {
  let reason = 'not cancelled';
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(1),
    cancel: () => {
      reason = 'cancelled';
    },
  });
  for await (const _ of stream) break;
  same([reason, stream.locked], ['cancelled', false]);
};
cases['preventCancel keeps it'] = async () => {
  let cancelled = false;
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(1),
    cancel: () => {
      cancelled = true;
    },
  });
  for await (const _ of stream.values({ preventCancel: true })) break;
  same([cancelled, stream.locked], [false, false]);
};
cases['an error of the stream leaves the loop'] = async () => {
  const stream = new ReadableStream({
    pull: (controller) => controller.error(new RangeError('broken')),
  });
  await rejects(RangeError, () => all(stream), 'broken');
  same(stream.locked, false);
};
cases['a locked stream is refused'] = async () => {
  const stream = pieces(1);
  stream.getReader();
  await rejects(TypeError, () => all(stream));
};
cases['steps that are asked for at once come in order'] = async () => {
  const iterator = pieces(1, 2)[Symbol.asyncIterator]();
  const steps = await Promise.all([iterator.next(), iterator.next(), iterator.next()]);
  same(
    steps.map((step) => [step.value, step.done]),
    [
      [1, false],
      [2, false],
      [undefined, true],
    ],
  );
};
cases['ReadableStream.from a list, a generator, an async generator'] = async () => {
  same(await all(ReadableStream.from([1, 2])), [1, 2]);
  same(
    await all(
      ReadableStream.from(
        (function* () {
          yield 'a';
        })(),
      ),
    ),
    ['a'],
  );
  same(
    await all(
      ReadableStream.from(
        (async function* () {
          yield 'b';
          yield 'c';
        })(),
      ),
    ),
    ['b', 'c'],
  );
  throws(TypeError, () => ReadableStream.from(1));
  throws(TypeError, () => ReadableStream.from({}));
};
cases['ReadableStream.from lets the generator clean up'] = async () => {
  let cleaned = false;
  const stream = ReadableStream.from(
    (async function* () {
      try {
        yield 1;
        yield 2;
      } finally {
        cleaned = true;
      }
    })(),
  );
  for await (const _ of stream) break;
  same(cleaned, true);
};
cases['tee'] = async () => {
  const [a, b] = pieces(1, 2).tee();
  same(
    [await all(a), await all(b)],
    [
      [1, 2],
      [1, 2],
    ],
  );
};
cases['pipeThrough and pipeTo'] = async () => {
  const doubled = new TransformStream({
    transform: (item, controller) => controller.enqueue(item * 2),
  });
  const seen = [];
  await pieces(1, 2)
    .pipeThrough(doubled)
    .pipeTo(
      new WritableStream({
        write: (item) => {
          seen.push(item);
        },
      }),
    );
  same(seen, [2, 4]);
};
cases['a compressed body comes back'] = async () => {
  const packed = new Response('x'.repeat(1000)).body.pipeThrough(new CompressionStream('gzip'));
  const bytes = await new Response(packed).bytes();
  same(bytes.length < 100, true);
  const unpacked = new Response(bytes).body.pipeThrough(new DecompressionStream('gzip'));
  same((await new Response(unpacked).text()).length, 1000);
};
cases['text through a decoder'] = async () => {
  const decoder = new TextDecoder();
  let text = '';
  for await (const piece of new Response('grüße').body)
    text += decoder.decode(piece, { stream: true });
  same(text + decoder.decode(), 'grüße');
};
cases['the stream of a Blob'] = async () => {
  const list = await all(new Blob(['ab', 'cd']).stream());
  same(
    list.flatMap((piece) => [...piece]),
    [97, 98, 99, 100],
  );
};
cases['cancelling a body uses it'] = async () => {
  const response = new Response('text');
  await response.body.cancel();
  same(response.bodyUsed, true);
  await rejects(TypeError, () => response.text());
};
