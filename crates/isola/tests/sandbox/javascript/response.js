'use strict';
// Response, from the Fetch standard and the guest's documentation.

const cases = {};

cases['defaults'] = () => {
  const response = new Response();
  same(
    [
      response.status,
      response.statusText,
      response.ok,
      [...response.headers],
      response.url,
      response.body,
      response.bodyUsed,
    ],
    [200, '', true, [], '', null, false],
  );
  same([response.type, response.redirected], ['default', false]);
};
cases['options'] = () => {
  const response = new Response('x', {
    status: 404,
    statusText: 'Nothing here',
    headers: { a: '1' },
  });
  same(
    [response.status, response.statusText, response.ok, response.headers.get('a')],
    [404, 'Nothing here', false, '1'],
  );
};
for (const [status, ok] of [
  [200, true],
  [204, true],
  [299, true],
  [300, false],
  [404, false],
  [599, false],
]) {
  cases[`${status} is ${ok ? '' : 'not '}ok`] = () => same(new Response(null, { status }).ok, ok);
}
for (const status of [0, 99, 199, 600, -1, 200.5, NaN, 'text', Infinity]) {
  cases[`the status ${status} is refused`] = () =>
    throws(RangeError, () => new Response(null, { status }), 'status');
}
for (const status of [204, 205, 304]) {
  cases[`${status} has no body`] = () => {
    throws(TypeError, () => new Response('', { status }), 'cannot have a body');
    same(new Response(null, { status }).body, null);
  };
}
for (const statusText of ['a\nb', '\u{1f600}', '\0']) {
  cases[`the status text ${JSON.stringify(statusText)} is refused`] = () =>
    throws(TypeError, () => new Response(null, { statusText }));
}
for (const init of [1, 'x'])
  cases[`options ${init} are refused`] = () => throws(TypeError, () => new Response(null, init));
const BODIES = {
  string: ['grüße', 'grüße', 'text/plain;charset=UTF-8'],
  ArrayBuffer: [new Uint8Array([104, 105]).buffer, 'hi', null],
  Uint8Array: [new Uint8Array([104, 105]), 'hi', null],
  URLSearchParams: [
    new URLSearchParams({ a: '1' }),
    'a=1',
    'application/x-www-form-urlencoded;charset=UTF-8',
  ],
  object: [{ a: [1] }, '{"a":[1]}', 'application/json'],
  Blob: [new Blob(['blob'], { type: 'text/x' }), 'blob', 'text/x'],
  ReadableStream: [ReadableStream.from([new Uint8Array([104]), new Uint8Array([105])]), 'hi', null],
};
for (const [kind, [body, sent, type]] of Object.entries(BODIES)) {
  cases[`a body: ${kind}`] = async () => {
    const response = new Response(body);
    same(response.headers.get('content-type'), type);
    same([await response.text(), response.bodyUsed], [sent, true]);
  };
}
cases['each reader once'] = async () => {
  for (const read of ['text', 'json', 'arrayBuffer', 'bytes', 'blob']) {
    const response = new Response('{"a":1}');
    const value = await response[read]();
    if (read === 'text') same(value, '{"a":1}');
    if (read === 'json') same(value, { a: 1 });
    if (read === 'arrayBuffer') same(value instanceof ArrayBuffer && value.byteLength, 7);
    if (read === 'bytes') same(value.length, 7);
    if (read === 'blob') same(await value.text(), '{"a":1}');
    same(response.bodyUsed, true);
    for (const again of ['text', 'json', 'arrayBuffer', 'formData'])
      await rejects(TypeError, () => response[again](), 'read already');
    throws(TypeError, () => response.clone(), 'read already');
  }
};
cases['forms'] = async () => {
  const type = 'application/x-www-form-urlencoded';
  const form = await new Response('a=1&b=two+words', {
    headers: { 'content-type': type },
  }).formData();
  same(
    [...form],
    [
      ['a', '1'],
      ['b', 'two words'],
    ],
  );
  await rejects(TypeError, () => new Response('a=1').formData(), 'not a form');
  await rejects(
    TypeError,
    () => new Response(new Uint8Array(1)).formData(),
    'content-type is missing',
  );
  const parts = new FormData();
  parts.append('a "quoted"', 'line\r\nbreak');
  parts.append('bytes', new File([new Uint8Array([0, 13, 10, 255])], 'n.bin', { type: 'x/y' }));
  parts.append('empty', '');
  const read = await new Response(parts).formData();
  same([...read.keys()], ['a "quoted"', 'bytes', 'empty']);
  same(
    [read.get('a "quoted"'), read.get('empty'), read.get('bytes').name, read.get('bytes').type],
    ['line\r\nbreak', '', 'n.bin', 'x/y'],
  );
  same([...(await read.get('bytes').bytes())], [0, 13, 10, 255]);
  await rejects(TypeError, () =>
    new Response('broken', {
      headers: { 'content-type': 'multipart/form-data; boundary=x' },
    }).formData(),
  );
};
cases['text is UTF-8, without its mark'] = async () => {
  same(await new Response(new Uint8Array([0xef, 0xbb, 0xbf, 0xc3, 0xbc, 0xff])).text(), 'ü\ufffd');
  same(await new Response(new Uint8Array([0xef, 0xbb, 0xbf, 0x31])).json(), 1);
};
cases['json that is none'] = async () => {
  await rejects(SyntaxError, () => new Response('{').json());
  await rejects(SyntaxError, () => new Response().json());
};
cases['clone'] = async () => {
  const response = new Response('text', { status: 201, statusText: 'Made', headers: { a: '1' } });
  const copy = response.clone();
  copy.headers.set('a', '2');
  same([copy.status, copy.statusText, response.headers.get('a')], [201, 'Made', '1']);
  same([await copy.text(), response.bodyUsed, await response.text()], ['text', false, 'text']);
  throws(TypeError, () => response.clone(), 'read already');
  same(new Response().clone().body, null);
};
cases['clone of what is being read'] = () => {
  const response = new Response('text');
  response.body.getReader();
  throws(TypeError, () => response.clone());
};
cases['clone of a stream'] = async () => {
  const response = new Response(
    ReadableStream.from([new Uint8Array([104]), new Uint8Array([105])]),
  );
  const copy = response.clone();
  same([await response.text(), await copy.text(), copy.bodyUsed], ['hi', 'hi', true]);
};
cases['a stream of other things is no body'] = async () => {
  await rejects(TypeError, () => new Response(ReadableStream.from(['text'])).text(), 'Uint8Array');
};
cases['a stream that fails fails its reader'] = async () => {
  const broken = new ReadableStream({
    start: (controller) => controller.error(new RangeError('broken')),
  });
  await rejects(RangeError, () => new Response(broken).text(), 'broken');
};
cases['Response.json'] = async () => {
  const response = Response.json({ a: 1 }, { status: 201 });
  same(
    [response.status, response.headers.get('content-type'), await response.json()],
    [201, 'application/json', { a: 1 }],
  );
  same(Response.json(1, { headers: { 'content-type': 'x/y' } }).headers.get('content-type'), 'x/y');
  throws(TypeError, () => Response.json(() => 1));
};
cases['Response.redirect'] = () => {
  const response = Response.redirect('http://a.test', 301);
  same([response.status, response.headers.get('location')], [301, 'http://a.test/']);
  throws(RangeError, () => Response.redirect('http://a.test', 200));
  throws(TypeError, () => Response.redirect('nope'));
};
cases['Response.error'] = () =>
  same([Response.error().type, Response.error().status], ['error', 0]);
cases['members want a Response'] = async () => {
  const { get } = Object.getOwnPropertyDescriptor(Response.prototype, 'ok');
  throws(TypeError, () => get.call({}));
  await rejects(TypeError, () => Response.prototype.json.call({}));
  throws(TypeError, () => Response());
};
