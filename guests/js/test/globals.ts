// Uses every global as `isola-guest.d.ts` declares it. `cargo xtask check types`
// checks the types, and a test of the host runs this in a sandbox.

const seen: string[] = [];

function is(condition: boolean, what: string): void {
  if (!condition) throw new Error(`${what} is not as declared`);
  seen.push(what);
}

export async function main(url: string): Promise<number> {
  const reply: Json = await hostcall<Json>('echo', { a: [1, null] });
  is(JSON.stringify(reply) === '{"a":[1,null]}', 'hostcall');
  is(new HostcallError('x') instanceof Error, 'HostcallError');
  is(process.env.NONE === undefined, 'process.env');

  await http(url);
  await bodies(url);
  aborting();
  urls();
  forms();
  await timers();
  logs();
  await streams();
  events();
  await others();
  is(import.meta.url === 'globals.ts', 'import.meta.url');
  return seen.length;
}

async function http(url: string): Promise<void> {
  const init: RequestInit = {
    method: 'POST',
    headers: { a: '1' },
    body: { hello: 'world' },
    signal: AbortSignal.timeout(60_000),
  };
  const response: Response = await fetch(url, init);
  is(response.status === 200 && response.ok && response.statusText === 'OK', 'Response.status');
  is(
    response.url.startsWith('http') && !response.redirected && response.type === 'basic',
    'Response.url',
  );
  const copy = response.clone();
  const json: { body: string } = await response.json();
  is(json.body === '{"hello":"world"}' && response.bodyUsed && !copy.bodyUsed, 'Response.json');
  is((await copy.text()).length > 0, 'Response.clone');
  is((await fetch(new URL(url), { redirect: 'follow' })).headers.has('content-type'), 'fetch');
  const parts: Uint8Array[] = [];
  for await (const part of (await fetch(new Request(url))).body!) parts.push(part);
  is(parts.length > 0, 'Response.body');
  const own = new Response('x', { status: 201, statusText: 'Made', headers: [['a', 'b']] });
  is(own.status === 201 && own.headers.get('a') === 'b', 'Response');
  is(
    Response.json({ a: 1 }).ok &&
      Response.redirect(url, 307).status === 307 &&
      Response.error().type === 'error',
    'Response.json()',
  );
}

async function bodies(url: string): Promise<void> {
  const request = new Request(url, {
    method: 'PUT',
    body: new Uint8Array([104, 105]),
    redirect: 'error',
  });
  is(
    request.method === 'PUT' &&
      request.url === url &&
      request.redirect === 'error' &&
      request.duplex === 'half',
    'Request',
  );
  is(
    request.cache === 'default' && request.credentials === 'same-origin' && request.mode === 'cors',
    'Request.cache',
  );
  is(!request.signal.aborted && !request.bodyUsed && request.body !== null, 'Request.signal');
  is(
    (await new Request(url, { method: 'POST', body: 'hi' }).clone().text()) === 'hi',
    'Request.clone',
  );
  const make = (): Response =>
    new Response('a=1', { headers: { 'content-type': 'application/x-www-form-urlencoded' } });
  is(
    (await make().arrayBuffer()).byteLength === 3 && (await make().bytes()).length === 3,
    'Body.bytes',
  );
  is((await make().blob()).size === 3 && (await make().formData()).get('a') === '1', 'Body.blob');
  const headers = new Headers([['a', '1']]);
  headers.append('a', '2');
  headers.set('b', '3');
  headers.delete('c');
  headers.append('set-cookie', 'x=1');
  is(
    headers.get('a') === '1, 2' && headers.has('b') && headers.getSetCookie().length === 1,
    'Headers',
  );
  let count = 0;
  headers.forEach((value, name, all) => {
    if (all === headers && value && name) count++;
  });
  for (const [name, value] of headers) if (name && value) count++;
  is(
    count === 6 && [...headers.entries(), ...headers.keys(), ...headers.values()].length === 9,
    'Headers.forEach',
  );
}

function aborting(): void {
  const controller: AbortController = new AbortController();
  const any = AbortSignal.any([controller.signal, AbortSignal.timeout(60_000)]);
  controller.signal.onabort = (event) => seen.push(event.type);
  controller.abort('why');
  is(any.aborted && any.reason === 'why' && AbortSignal.abort().aborted, 'AbortSignal');
  try {
    any.throwIfAborted();
  } catch (reason) {
    is(reason === 'why', 'AbortSignal.throwIfAborted');
  }
  const exception = new DOMException('text', 'DataError');
  is(exception.name === 'DataError' && typeof exception.code === 'number', 'DOMException');
}

function urls(): void {
  const url = new URL('/p?a=1#h', 'https://u:p@h.test:81');
  is(url.href === 'https://u:p@h.test:81/p?a=1#h' && url.origin === 'https://h.test:81', 'URL');
  is(
    [url.protocol, url.username, url.password, url.host, url.hostname, url.port].length === 6,
    'URL.host',
  );
  is([url.pathname, url.search, url.hash, url.toString(), url.toJSON()].length === 5, 'URL.hash');
  is(URL.canParse('x:y') && URL.parse('nope') === null, 'URL.parse');
  const parameters: URLSearchParams = url.searchParams;
  parameters.append('b', '2');
  parameters.set('c', '3');
  parameters.delete('c');
  parameters.sort();
  is(
    parameters.size === 2 &&
      parameters.get('a') === '1' &&
      parameters.getAll('b').length === 1 &&
      parameters.has('b'),
    'URLSearchParams',
  );
  let count = 0;
  parameters.forEach(() => count++);
  for (const _ of parameters) count++;
  is(
    count === 4 &&
      [...parameters.entries(), ...parameters.keys(), ...parameters.values()].length === 6,
    'URLSearchParams.forEach',
  );
  is(new URLSearchParams({ a: '1' }).toString() === 'a=1', 'URLSearchParams.toString');
}

function forms(): void {
  const form = new FormData();
  form.append('a', '1');
  form.append('f', new File(['text'], 'name.txt', { type: 't/x', lastModified: 5 }));
  form.set('b', new Blob(['x']), 'b.txt');
  form.delete('b');
  const file = form.get('f') as File;
  is(
    file.name === 'name.txt' &&
      file.lastModified === 5 &&
      file.type === 't/x' &&
      file.slice(1, 2).size === 1,
    'File',
  );
  is(
    form.has('a') &&
      form.getAll('a').length === 1 &&
      [...form, ...form.entries(), ...form.keys(), ...form.values()].length === 8,
    'FormData',
  );
  form.forEach((value, name) => is(name !== '' && value !== null, `FormData ${name}`));
}

async function timers(): Promise<void> {
  is(
    (await new Promise<number>((resolve) =>
      setTimeout((a: number, b: number) => resolve(a + b), 1, 1, 2),
    )) === 3,
    'setTimeout',
  );
  clearTimeout(setTimeout(() => {}, 1));
  await new Promise<void>((resolve) => {
    const id = setInterval(() => {
      clearInterval(id);
      queueMicrotask(resolve);
    }, 1);
  });
  is(true, 'setInterval');
}

function logs(): void {
  console.log('a', 1);
  console.info({});
  console.debug();
  console.warn([]);
  console.error(new Error('shown'));
  console.trace('here');
  console.dir({}, { depth: 1 });
  console.dirxml(1);
  console.table([{ a: 1 }], ['a']);
  console.assert(true);
  console.group('g');
  console.groupCollapsed();
  console.groupEnd();
  console.groupEnd();
  console.count('c');
  console.countReset('c');
  console.time('t');
  console.timeLog('t', 1);
  console.timeEnd('t');
  is(true, 'console');
}

async function streams(): Promise<void> {
  const stream = new ReadableStream<number>({
    start(controller) {
      controller.enqueue(1);
      if (controller.desiredSize !== null) controller.close();
    },
  });
  const [one, two] = stream.tee();
  is(stream.locked, 'ReadableStream.tee');
  const reader = one.getReader();
  const step = await reader.read();
  is(!step.done && step.value === 1 && (await reader.read()).done, 'ReadableStream.getReader');
  reader.releaseLock();
  const doubled = new TransformStream<number, number>({
    transform: (n, controller) => controller.enqueue(2 * n),
  });
  let sum = 0;
  await two.pipeThrough(doubled).pipeTo(
    new WritableStream<number>({
      write: (n) => {
        sum += n;
      },
    }),
  );
  is(sum === 2, 'TransformStream');
  for await (const n of ReadableStream.from([5])) sum += n;
  for await (const n of ReadableStream.from([5]).values({ preventCancel: true })) sum += n;
  is(sum === 12, 'ReadableStream.from');
  await new ReadableStream().cancel();
  const packed = new Blob(['text']).stream().pipeThrough(new CompressionStream('gzip'));
  is(
    (await new Response(packed.pipeThrough(new DecompressionStream('gzip'))).text()) === 'text',
    'CompressionStream',
  );
}

function events(): void {
  const target = new EventTarget();
  let detail = 0;
  const listener = (event: CustomEvent<number>): void => {
    detail += event.detail;
    event.preventDefault();
  };
  target.addEventListener('x', listener, { once: true, signal: new AbortController().signal });
  const event = new CustomEvent('x', { detail: 7, cancelable: true });
  is(
    !target.dispatchEvent(event) &&
      detail === 7 &&
      event.defaultPrevented &&
      event.target === target,
    'EventTarget',
  );
  target.removeEventListener('x', listener);
  is(
    new Event('y').type === 'y' &&
      new Event('y').currentTarget === null &&
      event.timeStamp >= 0 &&
      event.cancelable,
    'Event',
  );
}

async function others(): Promise<void> {
  const bytes = new TextEncoder().encode('ü');
  is(new TextDecoder('utf-8', { fatal: true }).decode(bytes) === 'ü', 'TextDecoder');
  is(new TextEncoder().encodeInto('a', new Uint8Array(1)).written === 1, 'TextEncoder.encodeInto');
  const { port1, port2 } = new MessageChannel();
  const received = new Promise((resolve) => (port2.onmessage = ({ data }) => resolve(data)));
  port1.postMessage([1]);
  is(JSON.stringify(await received) === '[1]', 'MessageChannel');
  is(new MessageEvent('message', { data: 1 }).data === 1, 'MessageEvent');
  is(port1 instanceof MessagePort, 'MessagePort');
  let decoded = '';
  const encodedText = new ReadableStream<string>({
    start(controller) {
      controller.enqueue('\ud83d');
      controller.enqueue('\ude00');
      controller.close();
    },
  }).pipeThrough(new TextEncoderStream());
  for await (const part of encodedText.pipeThrough(new TextDecoderStream())) decoded += part;
  is(decoded === '\u{1f600}', 'TextDecoderStream, TextEncoderStream');
  is(typeof Intl.addLocaleData === 'function', 'Intl.addLocaleData');
  is(structuredClone({ a: [1] }).a[0] === 1 && atob(btoa('a')) === 'a', 'structuredClone');
  is(
    performance.now() > 0 &&
      crypto.randomUUID().length === 36 &&
      crypto.getRandomValues(new Uint8Array(4)).length === 4,
    'crypto',
  );
  is((await crypto.subtle.digest('SHA-256', bytes)).byteLength === 32, 'crypto.subtle.digest');
}
