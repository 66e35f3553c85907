'use strict';
// Blob and File of the File API, FormData of the XMLHttpRequest standard, and their
// copies by structuredClone.

const cases = {};
const MIB = 1 << 20;
const read = async (blob) => [...(await blob.bytes())];

cases['parts are joined'] = async () => {
  const bytes = new Uint8Array([1, 2, 3, 4]);
  const parts = [
    'ü',
    bytes.subarray(1, 3),
    bytes.buffer,
    new DataView(bytes.buffer, 3),
    new Blob(['b']),
    5,
    null,
  ];
  const blob = new Blob(parts);
  same(await read(blob), [195, 188, 2, 3, 1, 2, 3, 4, 4, 98, 53, 110, 117, 108, 108]);
  bytes.fill(9);
  same((await read(blob)).slice(2, 4), [2, 3], 'it keeps its own bytes: ');
};
cases['anything that is iterated is a list'] = async () => {
  same(await new Blob(new Set(['a', 'b'])).text(), 'ab');
  same(
    await new Blob(
      (function* () {
        yield 'c';
      })(),
    ).text(),
    'c',
  );
  same(await new Blob(new String('abc')).text(), 'abc');
  same([new Blob().size, new Blob(undefined).size, new Blob([]).size], [0, 0, 0]);
  for (const parts of ['abc', null, 5, {}]) throws(TypeError, () => new Blob(parts), 'iterable');
};
cases['halves of surrogate pairs are replaced'] = async () => {
  same(await read(new Blob(['\ud800'])), [0xef, 0xbf, 0xbd]);
};
cases['ends of lines'] = async () => {
  same(await new Blob(['a\r\nb\rc\n', 'd\r'], { endings: 'native' }).text(), 'a\nb\nc\nd\n');
  same(await new Blob(['a\r\n'], { endings: 'transparent' }).text(), 'a\r\n');
  throws(TypeError, () => new Blob([], { endings: 'unix' }), 'endings');
};
cases['a type is printable and in lower case'] = () => {
  same(new Blob([], { type: 'Text/Plain;Charset=UTF-8' }).type, 'text/plain;charset=utf-8');
  same(new Blob([], { type: 'te\u00e4t' }).type, '');
  same([new Blob([], null).type, new Blob([], {}).type], ['', '']);
  throws(TypeError, () => new Blob([], 5), 'object');
};
cases['slices'] = async () => {
  const blob = new Blob(['0123456789'], { type: 'a/b' });
  const slices = [
    [],
    [2],
    [2, 4],
    [-3],
    [-3, -1],
    [4, 2],
    [20],
    [-20, 3],
    [1.9, 3.9],
    [NaN, 2],
    ['1', '3'],
    [0, Infinity],
  ];
  const texts = [];
  for (const slice of slices) texts.push(await blob.slice(...slice).text());
  const expected = [
    '0123456789',
    '23456789',
    '23',
    '789',
    '78',
    '',
    '',
    '012',
    '12',
    '01',
    '12',
    '',
  ];
  same(texts, expected);
  same([blob.slice(1).type, blob.slice(1, 2, 'C/D').type], ['', 'c/d']);
  same(await blob.slice(2, 8).slice(1, 3).text(), '34');
};
cases['what is read is a copy'] = async () => {
  const blob = new Blob(['abc']);
  (await blob.bytes()).fill(0);
  new Uint8Array(await blob.arrayBuffer()).fill(0);
  for await (const piece of blob.stream()) piece.fill(0);
  for await (const piece of new Response(blob).body) piece.fill(0);
  (await new Response(blob).bytes()).fill(0);
  same(await blob.text(), 'abc');
};
cases['a stream gives all, in pieces'] = async () => {
  const pieces = [];
  for await (const piece of new Blob([new Uint8Array(200000).fill(7)]).stream())
    pieces.push(piece.length);
  same([pieces.length > 1, pieces.reduce((a, b) => a + b, 0)], [true, 200000]);
  for await (const _ of new Blob().stream()) throw new Error('a piece of nothing');
};
cases['text is UTF-8, and a mark at its beginning is none of it'] = async () => {
  same(await new Blob([new Uint8Array([0xef, 0xbb, 0xbf, 0x61, 0xff])]).text(), 'a\ufffd');
};
cases['long texts come back'] = async () => {
  for (const text of [
    'x' + 'ü'.repeat(3 * MIB),
    '\u{1f600}'.repeat(MIB),
    'a'.repeat(MIB),
    'a'.repeat(MIB + 1),
  ]) {
    const blob = new Blob([text]);
    same(
      [(await blob.text()) === text, (await new Response(blob).text()) === text],
      [true, true],
      text[0],
    );
  }
  const broken = new Uint8Array(2 * MIB + 1).fill(0x61);
  broken[MIB - 1] = 0xc3;
  broken[2 * MIB] = 0xe2;
  broken.set([0xef, 0xbb, 0xbf]);
  const text = await new Blob([broken]).text();
  same(
    [text.length, text[0], text.indexOf('\ufffd'), text.at(-1)],
    [2 * MIB - 2, 'a', MIB - 4, '\ufffd'],
  );
};
cases['they are what they say'] = () => {
  const file = new File(['x'], 'n');
  same(
    [`${new Blob()}`, `${file}`, `${new FormData()}`],
    ['[object Blob]', '[object File]', '[object FormData]'],
  );
  same(
    [file instanceof Blob, file.slice() instanceof File, Object.keys(new Blob())],
    [true, false, []],
  );
  throws(TypeError, () => Blob());
  throws(TypeError, () => Blob.prototype.size);
  throws(TypeError, () => Blob.prototype.slice.call({}));
  same([typeof URL.createObjectURL, Blob.length, File.length], ['undefined', 0, 2]);
};
cases['files'] = async () => {
  const before = Date.now();
  const file = new File(['text'], 'n\ud800.txt', { type: 'T/X', lastModified: 5.7 });
  same(
    [file.name, file.type, file.lastModified, file.size, await file.text()],
    ['n\ufffd.txt', 't/x', 5, 4, 'text'],
  );
  const now = new File([], 5);
  same([now.name, now.lastModified >= before, now.lastModified <= Date.now()], ['5', true, true]);
  same(new File([], 'n', { lastModified: NaN }).lastModified, 0);
  throws(TypeError, () => new File(['x']), 'name');
  throws(TypeError, () => new File(undefined, 'n'));
};
cases['forms keep their order'] = () => {
  const form = new FormData();
  for (const [name, value] of [
    ['a', 1],
    ['b', 'two'],
    ['a', null],
    ['c', 'x'],
  ])
    form.append(name, value);
  form.set('b', 'three');
  form.set('d', 'new');
  form.delete('c');
  same(
    [...form],
    [
      ['a', '1'],
      ['b', 'three'],
      ['a', 'null'],
      ['d', 'new'],
    ],
  );
  form.set('a', 'one');
  same([...form.keys()].join() + [...form.values()].join(), 'a,b,done,three,new');
  same(
    [form.get('a'), form.get('x'), form.getAll('a'), form.has('b'), form.has('x')],
    ['one', null, ['one'], true, false],
  );
  const seen = [];
  form.forEach(
    function (value, name, whole) {
      seen.push(name + value + (whole === form) + this.me);
    },
    { me: 'I' },
  );
  same(seen, ['aonetrueI', 'bthreetrueI', 'dnewtrueI']);
};
cases['values of forms are files or texts'] = async () => {
  const form = new FormData();
  const file = new File(['f'], 'f.txt', { type: 't/x', lastModified: 5 });
  form.append('file', file);
  form.append('blob', new Blob(['b'], { type: 'b/c' }));
  form.append('named', file, 'other.txt');
  same(form.get('file') === file, true);
  const [blob, named] = [form.get('blob'), form.get('named')];
  same([blob.name, blob.type, await blob.text(), blob instanceof File], ['blob', 'b/c', 'b', true]);
  same(
    [named.name, named.type, named.lastModified, await named.text()],
    ['other.txt', 't/x', 5, 'f'],
  );
  throws(TypeError, () => form.append('a', 'text', 'name'), 'Blob');
  throws(TypeError, () => form.append('a'), 'value');
  throws(TypeError, () => new FormData(1), 'pass no argument');
};
cases['forms come back as they were written'] = async () => {
  const form = new FormData();
  form.append('a"\r\nb', 'line\none\rtwo\r\nthree');
  form.append(
    'f',
    new File([new Uint8Array([0, 13, 10, 45, 45, 255])], 'n"\n.bin', { type: 'x/y' }),
  );
  form.append('empty', '');
  form.append('untyped', new Blob(['--']));
  const response = new Response(form);
  same(
    /^multipart\/form-data; boundary=\S{20,70}$/.test(response.headers.get('content-type')),
    true,
  );
  const text = await response.clone().text();
  same(text.includes('name="a%22%0D%0Ab"\r\n\r\nline\r\none\r\ntwo\r\nthree\r\n'), true, text);
  same(
    text.includes(
      'name="untyped"; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n--\r\n',
    ),
    true,
    text,
  );
  const back = await response.formData();
  same(back.get('a"\r\nb'), 'line\r\none\r\ntwo\r\nthree');
  const file = back.get('f');
  same([file.name, file.type, await read(file)], ['n"\n.bin', 'x/y', [0, 13, 10, 45, 45, 255]]);
  same(back.get('empty'), '');
  same((await new Response(new FormData()).text()).endsWith('--\r\n'), true);
};
cases["a body says its Blob's type"] = async () => {
  const response = new Response(new Blob(['x'], { type: 'a/b' }));
  same([response.headers.get('content-type'), (await response.blob()).type], ['a/b', 'a/b']);
  same(new Response(new Blob(['x'])).headers.get('content-type'), null);
};
cases['clones'] = async () => {
  const file = new File(['f'], 'n', { type: 'a/b', lastModified: 3 });
  const copy = structuredClone(file);
  same(
    [copy !== file, copy.name, copy.type, copy.lastModified, await copy.text()],
    [true, 'n', 'a/b', 3, 'f'],
  );
  class Own {
    blob = new Blob(['own']);
  }
  const value = {
    list: [new Blob(['b']), file],
    map: new Map([['k', file]]),
    set: new Set([file]),
    own: new Own(),
    date: new Date(5),
  };
  value.self = value;
  const deep = structuredClone(value);
  same(
    [
      deep !== value,
      deep.self === deep,
      deep.list[1] === deep.map.get('k'),
      deep.set.has(deep.list[1]),
    ],
    [true, true, true, true],
  );
  same(
    [await deep.list[0].text(), await deep.own.blob.text(), deep.date.getTime()],
    ['b', 'own', 5],
  );
  same([deep.own instanceof Own, deep.list[1] instanceof File], [false, true]);
  throws('DataCloneError', () => structuredClone({ form: new FormData() }), 'FormData');
  throws('DataCloneError', () => structuredClone([() => 1, new Blob()]));
  const buffer = new ArrayBuffer(8);
  throws(
    'DataCloneError',
    () => structuredClone([new Blob(), buffer], { transfer: [buffer] }),
    'transfer',
  );
  same(structuredClone(buffer, { transfer: [buffer] }).byteLength + buffer.byteLength, 8);
};
// The memory limit is 256 MiB: dropped objects are collected before it is reached.
for (const [size, times] of [
  [1, 300],
  [16, 20],
]) {
  const bytes = () => new Uint8Array(size * MIB);
  const kinds = {
    Blobs: () => new Blob([bytes()]).size,
    Files: () => new File([bytes()], 'n').size,
    slices: () => new Blob([bytes()]).slice(1).size + 1,
    copies: () => structuredClone(new Blob([bytes()])).size,
    texts: async () => (await new Blob([bytes()]).text()).length,
    buffers: async () => (await new Blob([bytes()]).arrayBuffer()).byteLength,
    answers: async () => (await new Response(bytes()).blob()).size,
    forms: async () => {
      const form = new FormData();
      form.append('f', new Blob([bytes()]));
      return form.get('f').size;
    },
  };
  for (const kind in kinds) {
    cases[`${kind} of ${size} MiB that are dropped are collected`] = async () => {
      for (let i = 0; i < times; i++) same(await kinds[kind](), size * MIB);
    };
  }
}
cases['slices share their memory'] = async () => {
  const blob = new Blob([new Uint8Array(30 * MIB).fill(1)]);
  const slices = [];
  for (let i = 0; i < 100; i++) slices.push(blob.slice(i));
  same([slices[99].size, [...(await slices[99].slice(-1).bytes())]], [30 * MIB - 99, [1]]);
};
