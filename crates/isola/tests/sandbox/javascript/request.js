'use strict';
// Request, from the Fetch standard and the guest's documentation.

const cases = {};
const URL_ = 'http://example.test/';
const post = (body, init = {}) => new Request(URL_, { method: 'POST', body, ...init });

cases['the sample of the document'] = async () => {
  const req = new Request('https://example.test/data', {
    method: 'POST',
    body: { hello: 'world' },
  });
  same(
    [req.method, req.url, req.headers.get('content-type')],
    ['POST', 'https://example.test/data', 'application/json'],
  );
  same(await req.json(), { hello: 'world' });
};
cases['defaults'] = () => {
  const request = new Request('http://example.test');
  same(
    [request.method, request.url, [...request.headers], request.body, request.bodyUsed],
    ['GET', URL_, [], null, false],
  );
  same([request.signal instanceof AbortSignal, request.signal.aborted], [true, false]);
  same(request.signal === request.signal, true);
  same(
    [request.redirect, request.duplex, request.cache, request.credentials, request.mode],
    ['manual', 'half', 'default', 'same-origin', 'cors'],
  );
};
cases['of a URL, of what becomes a text'] = () => {
  same(new Request(new URL(URL_)).url, URL_);
  same(new Request({ toString: () => URL_ }).url, URL_);
  same(new Request('http://example.test/a#b').url, 'http://example.test/a#b');
};
for (const [method, expected] of [
  ['get', 'GET'],
  ['pOsT', 'POST'],
  ['head', 'HEAD'],
  ['delete', 'DELETE'],
  ['put', 'PUT'],
  ['options', 'OPTIONS'],
  ['patch', 'patch'],
  ['QUERY', 'QUERY'],
]) {
  cases[`the method ${method}`] = () => same(new Request(URL_, { method }).method, expected);
}
for (const method of ['CONNECT', 'trace', 'TRACK', '', 'a b', 'ä', 'a\n']) {
  cases[`the method ${JSON.stringify(method)} is refused`] = () =>
    throws(TypeError, () => new Request(URL_, { method }));
}
for (const url of [
  '',
  '/relative',
  'nope',
  'http://',
  'ftp://h/',
  'file:///etc/passwd',
  'http://user@h/',
  'http://:p@h/',
]) {
  cases[`the URL ${JSON.stringify(url)} is refused`] = () =>
    throws(TypeError, () => new Request(url), 'Request: ');
}
cases['without arguments'] = () => throws(TypeError, () => new Request());
cases['without new'] = () => throws(TypeError, () => Request(URL_));
for (const init of [1, 'text', true])
  cases[`options ${init} are refused`] = () => throws(TypeError, () => new Request(URL_, init));
for (const method of ['GET', 'HEAD', 'get']) {
  for (const body of ['x', '', { a: 1 }, new Uint8Array(1)]) {
    cases[`${method} cannot have the body ${JSON.stringify(body)}`] = () =>
      throws(TypeError, () => new Request(URL_, { method, body }), 'cannot have a body');
  }
  cases[`${method} may have no body`] = () =>
    same(new Request(URL_, { method, body: null }).body, null);
}
for (const [title, init] of [
  ['redirect', { redirect: 'maybe' }],
  ['signal', { signal: {} }],
  ['signal number', { signal: 1 }],
  ['mode', { mode: 'x' }],
  ['credentials', { credentials: 'x' }],
  ['cache', { cache: 'x' }],
  ['headers', { headers: [['a']] }],
]) {
  cases[`a wrong ${title} is refused`] = () => throws(TypeError, () => new Request(URL_, init));
}

const BODIES = {
  string: ['grüße', 'grüße', 'text/plain;charset=UTF-8'],
  'empty string': ['', '', 'text/plain;charset=UTF-8'],
  ArrayBuffer: [new Uint8Array([104, 105]).buffer, 'hi', null],
  Uint8Array: [new Uint8Array([104, 105]), 'hi', null],
  'part of an array': [new Uint8Array([0, 104, 105, 0]).subarray(1, 3), 'hi', null],
  Uint16Array: [new Uint16Array([0x6968]), 'hi', null],
  DataView: [new DataView(new Uint8Array([0, 104, 105]).buffer, 1), 'hi', null],
  URLSearchParams: [
    new URLSearchParams({ a: '1', b: 'two' }),
    'a=1&b=two',
    'application/x-www-form-urlencoded;charset=UTF-8',
  ],
  object: [{ hello: ['world', 1, null] }, '{"hello":["world",1,null]}', 'application/json'],
  'object without a prototype': [
    Object.assign(Object.create(null), { a: 1 }),
    '{"a":1}',
    'application/json',
  ],
  array: [[1, 2], '[1,2]', 'application/json'],
  'instance of a class': [
    new (class Point {
      x = 1;
    })(),
    '{"x":1}',
    'application/json',
  ],
  Blob: [new Blob(['bl', 'ob'], { type: 'text/x' }), 'blob', 'text/x'],
  'Blob without a type': [new Blob(['blob']), 'blob', null],
  number: [5, '5', 'text/plain;charset=UTF-8'],
  'what has a toString': [new URL('http://a/'), 'http://a/', 'text/plain;charset=UTF-8'],
};
for (const [kind, [body, sent, type]] of Object.entries(BODIES)) {
  cases[`a body: ${kind}`] = async () => {
    const request = post(body);
    same(request.headers.get('content-type'), type);
    same([await request.text(), request.bodyUsed], [sent, true]);
    const typed = post(body, { headers: { 'Content-Type': 'own/type' } });
    same(typed.headers.get('content-type'), 'own/type');
  };
}
cases['a body: FormData'] = async () => {
  const form = new FormData();
  form.append('a', '1');
  form.append('file', new Blob(['content'], { type: 'x/y' }), 'name.txt');
  const request = post(form);
  const type = request.headers.get('content-type');
  same(type.startsWith('multipart/form-data; boundary='), true);
  const read = await request.formData();
  same(
    [read.get('a'), read.get('file').name, await read.get('file').text()],
    ['1', 'name.txt', 'content'],
  );
};
cases['a body: ReadableStream'] = async () => {
  const request = post(ReadableStream.from([new Uint8Array([104]), new Uint8Array([105])]), {
    duplex: 'half',
  });
  same(await request.text(), 'hi');
  throws(TypeError, () => post(new ReadableStream()), 'duplex');
  throws(TypeError, () => post(new ReadableStream(), { duplex: 'full' }), 'duplex');
  const locked = new ReadableStream();
  locked.getReader();
  throws(TypeError, () => post(locked, { duplex: 'half' }), 'locked');
};
cases['a body that JSON cannot be is refused'] = () => {
  throws(TypeError, () => post({ price: NaN }), '$.price');
  throws(TypeError, () => post({ f() {} }), '$.f');
  const loop = {};
  loop.loop = loop;
  throws(TypeError, () => post(loop), '$.loop');
};
cases['a body is a copy'] = async () => {
  const bytes = new Uint8Array([104, 105]);
  const request = post(bytes);
  bytes[0] = 0;
  same(await request.text(), 'hi');
};
cases['text, json, arrayBuffer, bytes, blob, each once'] = async () => {
  for (const read of ['text', 'json', 'arrayBuffer', 'bytes', 'blob']) {
    const request = post('{"a":1}', { headers: { 'content-type': 'application/x' } });
    same(request.bodyUsed, false);
    const value = await request[read]();
    same(request.bodyUsed, true);
    if (read === 'json') same(value, { a: 1 });
    if (read === 'arrayBuffer') same(value.byteLength, 7);
    if (read === 'bytes') same(value instanceof Uint8Array && value.length, 7);
    if (read === 'blob') same([value.size, value.type], [7, 'application/x']);
    for (const again of ['text', 'json', 'arrayBuffer', 'bytes', 'blob'])
      await rejects(TypeError, () => request[again](), 'read already');
    throws(TypeError, () => request.clone(), 'read already');
    throws(TypeError, () => new Request(request), 'read already');
    await rejects(TypeError, () => fetch(request), 'read already');
  }
};
cases['json that is none'] = async () => {
  await rejects(SyntaxError, () => post('nope').json());
  await rejects(SyntaxError, () => new Request(URL_).json());
};
cases['no body reads as an empty one'] = async () => {
  const request = new Request(URL_);
  same([await request.text(), request.bodyUsed, await request.text()], ['', false, '']);
  same((await request.arrayBuffer()).byteLength, 0);
};
cases['of another request'] = async () => {
  const first = post('body', { headers: { a: '1' }, signal: new AbortController().signal });
  const second = new Request(first, { headers: { b: '2' }, method: 'put' });
  same(
    [second.method, second.url, second.headers.get('a'), second.headers.get('b')],
    ['PUT', URL_, null, '2'],
  );
  same([first.bodyUsed, second.bodyUsed, await second.text()], [true, false, 'body']);
  same(second.signal === first.signal, true);
  const third = new Request(post('old'), { body: 'new' });
  same(await third.text(), 'new');
  throws(TypeError, () => new Request(post('x'), { method: 'GET' }), 'cannot have a body');
};
cases['clone'] = async () => {
  const request = post({ a: 1 }, { headers: { x: '1' }, redirect: 'error' });
  const copy = request.clone();
  copy.headers.set('x', '2');
  same(
    [request.headers.get('x'), copy.method, copy.url, copy.redirect],
    ['1', 'POST', URL_, 'error'],
  );
  same(
    [await copy.json(), request.bodyUsed, await request.json(), copy.bodyUsed],
    [{ a: 1 }, false, { a: 1 }, true],
  );
  throws(TypeError, () => request.clone());
  const streamed = post(ReadableStream.from([new Uint8Array([104, 105])]), { duplex: 'half' });
  const other = streamed.clone();
  same([await streamed.text(), await other.text()], ['hi', 'hi']);
};
cases['a clone does not see what is done to the bytes'] = async () => {
  const request = post('ab');
  const copy = request.clone();
  (await request.bytes())[0] = 0;
  same(await copy.text(), 'ab');
};
cases['body is a stream, always the same'] = async () => {
  const request = post('hi');
  same(request.body === request.body, true);
  const reader = request.body.getReader();
  same(request.bodyUsed, false);
  same([...(await reader.read()).value], [104, 105]);
  same([request.bodyUsed, (await reader.read()).done], [true, true]);
  await rejects(TypeError, () => request.text());
};
cases['members want a Request'] = async () => {
  const { get } = Object.getOwnPropertyDescriptor(Request.prototype, 'url');
  throws(TypeError, () => get.call({}));
  await rejects(TypeError, () => Request.prototype.text.call({}));
  throws(TypeError, () => Request.prototype.clone.call({}));
  same(Object.prototype.toString.call(new Request(URL_)), '[object Request]');
};
