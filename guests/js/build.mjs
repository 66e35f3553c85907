// Builds the JavaScript guest component:
//
//   ISOLA_JS_TOOLS=<dir with node_modules> node build.mjs --wit <dir> --out <file>
//
// The steps are those of componentize-js, whose parts are used: splice the
// bindings of the WIT world into the engine, run the engine until the top
// level of `src/main.js` has run, store its memory as the component's initial
// memory, wrap the module into a component. The engine runs here instead of in
// wizer, with a deterministic WASI in which the clock and the random numbers are
// constant, so that the same input gives the same component, byte for byte.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, posix, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { lazyTexts } from './lazy-texts.mjs';

const WORLD = 'guest';
// Without `stdio`: the host could not interpret what the engine itself prints, and
// the open stream would remain open in an idle guest.
const FEATURES = ['random', 'clocks', 'http'];
// The directory of the runner's own files in stacks; `src/failures.js` omits them.
const GUEST_DIR = 'isola:guest';

async function main() {
  const { values } = parseArgs({ options: { wit: { type: 'string' }, out: { type: 'string' } } });
  const tools = process.env.ISOLA_JS_TOOLS;
  if (!values.wit || !values.out || !tools) {
    console.error(
      'usage: ISOLA_JS_TOOLS=<dir with node_modules> node build.mjs --wit <dir> --out <file>',
    );
    process.exit(2);
  }
  const builder = join(resolve(tools), 'node_modules/@bytecodealliance/componentize-js');
  const jcoDirectory = join(resolve(tools), 'node_modules/@bytecodealliance/jco');
  const { splicer } = await load(join(builder, 'lib/spidermonkey-embedding-splicer.js'));
  const jcoPackage = JSON.parse(readFileSync(join(jcoDirectory, 'package.json')));
  const jco = await load(join(jcoDirectory, jcoPackage.exports['.'].default));

  const engine = readFileSync(join(builder, 'lib/starlingmonkey_embedding.wasm'));
  const wit = resolve(values.wit);
  const spliced = splicer.spliceBindings(engine, FEATURES, undefined, wit, WORLD, false);
  const files = new Map([[`${GUEST_DIR}/bindings.js`, improveBindings(spliced.jsBindings)]]);
  const sources = join(dirname(fileURLToPath(import.meta.url)), 'src');
  for (const name of readdirSync(sources).sort()) {
    files.set(`${GUEST_DIR}/${name}`, readFileSync(join(sources, name), 'utf8'));
  }
  addLibrary(files, join(resolve(tools), 'node_modules/sucrase/dist/esm'), 'sucrase');
  files.set(`${GUEST_DIR}/lazy-texts.js`, await lazyTexts(resolve(tools)));

  const initialized = await initialize(spliced, files);
  const core = softenStubs(
    Buffer.from(splicer.stubWasi(initialized, FEATURES, undefined, wit, WORLD)),
  );
  const adapter = readFileSync(jco.preview1AdapterReactorPath());
  const component = await jco.componentNew(core, [['wasi_snapshot_preview1', adapter]], false);
  const { version } = JSON.parse(readFileSync(join(builder, 'package.json')));
  const metadata = [
    ['language', [['JavaScript', '']]],
    ['processed-by', [['ComponentizeJS', version]]],
  ];
  writeFileSync(values.out, await jco.metadataAdd(component, metadata));
}

/**
 * Adds the modules of a library that the runner imports, and those that they
 * import. The engine needs complete file names, which the library omits.
 */
function addLibrary(files, directory, name) {
  const base = `${GUEST_DIR}/${name}`;
  const wanted = [];
  for (const source of files.values()) {
    for (const [, path] of source.matchAll(new RegExp(`from '\\./${name}/([^']+)'`, 'g')))
      wanted.push(path);
  }
  while (wanted.length > 0) {
    const path = wanted.pop();
    if (files.has(`${base}/${path}`)) continue;
    const source = readFileSync(join(directory, path), 'utf8');
    const complete = source.replace(IMPORT, (_, before, target) => {
      if (!target.startsWith('.'))
        throw new Error(`${name}/${path} imports ${target}, which does not exist`);
      const found = [`${target}.js`, `${target}/index.js`].find((file) =>
        existsSync(join(directory, path, '..', file)),
      );
      if (found === undefined)
        throw new Error(`${name}/${path} imports ${target}, which does not exist`);
      wanted.push(posix.join(path, '..', found));
      return `${before}"${found}"`;
    });
    files.set(`${base}/${path}`, complete);
  }
}

const IMPORT = /^((?:import|export)\b(?:[^"'();=]*\bfrom)?\s*)["']([^"']+)["']/gm;

function load(path) {
  return import(pathToFileURL(path));
}

/**
 * Rewrites inefficient and unsafe code of the generated bindings. They count the
 * bytes of each string in a loop, which takes two tenths of a second for a mebibyte
 * in an interpreter; they create debug records that are never used; and they use
 * globals that scripts may replace.
 */
function improveBindings(source) {
  source = substitute(
    source,
    /function _utf8AllocateAndEncode\(s, realloc, memory\) \{[\s\S]*?\n\}\n/,
    ENCODE,
  );
  source = substitute(source, /const _debugLog = [\s\S]*?\n\};\n/, '');
  source = substitute(
    source,
    /^ *_debugLog\('[^']*'(?:, \{\n(?: +\w+: [^\n]*\n)* *\})?\);\n/gm,
    '',
  );
  source = substitute(source, /^ *_debugLog\("[^\n]*\n/gm, '');
  // `slice` is a method that scripts may replace.
  source = substitute(
    source,
    /\$memory\.buffer\.slice\((ptr\d+), ptr\d+ \+ (len\d+) \* 1\)/g,
    'new Uint8Array($$memory.buffer, $1, $2)',
  );
  // Copy the methods to the objects, where no script can replace them, and use the
  // classes of the bindings' realm, which the engine would set up in the first call.
  source = substitute(
    source,
    /const TEXT_ENCODER_UTF8 = new TextEncoder\(\);\n/,
    (found) => `${found}${KEEP_METHODS}`,
  );
  return source;
}

const KEEP_METHODS = `
TEXT_ENCODER_UTF8.encode = TEXT_ENCODER_UTF8.encode;
TEXT_ENCODER_UTF8.encodeInto = TEXT_ENCODER_UTF8.encodeInto;
TEXT_DECODER_UTF8.decode = TEXT_DECODER_UTF8.decode;
[TypeError, BigInt.asUintN(64, BigInt(1)), new Uint8Array(1), new Uint8Array(new ArrayBuffer(8), 1, 2)].push(0);
new DataView(new ArrayBuffer(8)).setBigInt64(0, BigInt(1), true);
(async () => {
  await null;
})();
`;

const ENCODE = `
function _utf8AllocateAndEncode(s, realloc, memory) {
  if (typeof s !== 'string') throw new TypeError('expected a string');
  const { length } = s;
  if (length === 0) return { ptr: 1, len: 0 };
  if (length < 4096) {
    // Allocate for the worst case, to avoid a second pass over a short string.
    const ptr = realloc(0, 0, 1, 3 * length);
    const { written } = TEXT_ENCODER_UTF8.encodeInto(s, new Uint8Array(memory.buffer, ptr, 3 * length));
    return { ptr, len: written };
  }
  const bytes = TEXT_ENCODER_UTF8.encode(s);
  const len = bytes.length;
  const ptr = realloc(0, 0, 1, len);
  new Uint8Array(memory.buffer, ptr, len).set(bytes);
  return { ptr, len };
}
`;

function substitute(source, pattern, replacement) {
  const result = source.replace(pattern, replacement);
  if (result === source) throw new Error(`the generated bindings no longer have ${pattern}`);
  return result;
}

// Running the engine.

/** Runs the engine on `files` and returns the module with the resulting memory. */
async function initialize({ wasm, exports, imports }, files) {
  const env = { DEBUG: '', SOURCE_NAME: 'main.js', FEATURE_CLOCKS: '1' };
  env.EXPORT_CNT = String(exports.length);
  for (const [i, [name, type]] of exports.entries()) {
    env[`EXPORT${i}_NAME`] = name;
    env[`EXPORT${i}_ARGS`] = (type.paramptr ? '*' : '') + type.params.join(',');
    env[`EXPORT${i}_RET`] = (type.retptr ? '*' : '') + (type.ret ?? '');
    env[`EXPORT${i}_RETSIZE`] = String(type.retsize);
  }
  env.IMPORT_CNT = String(imports.length);
  for (const [i, [, name, count]] of imports.entries()) {
    env[`IMPORT${i}_NAME`] = name;
    env[`IMPORT${i}_ARGCNT`] = String(count);
  }
  const args = `--initializer-script-path /${GUEST_DIR}/bindings.js --strip-path-prefix / /${GUEST_DIR}/main.js`;

  const module = exposeStackPointer(Buffer.from(wasm));
  const wasi = deterministicWasi({ env, files, input: args });
  const compiled = await WebAssembly.compile(module.bytes);
  const unavailable = (name) => () => {
    throw new Error(`the top level calls ${name}, which is available only in a running sandbox`);
  };
  const linked = {};
  for (const { module: from, name } of WebAssembly.Module.imports(compiled)) {
    linked[from] ??= {};
    linked[from][name] =
      (from === 'wasi_snapshot_preview1' && wasi.functions[name]) || unavailable(`${from} ${name}`);
  }
  const instance = await WebAssembly.instantiate(compiled, linked);
  wasi.attach(instance.exports.memory);
  const stack = instance.exports[STACK_POINTER].value;
  try {
    instance.exports._initialize();
    instance.exports['componentize.wizer']();
  } catch (error) {
    throw new Error(`the engine failed on the guest's sources:\n${wasi.output()}`, {
      cause: error,
    });
  }
  const memory = Buffer.from(instance.exports.memory.buffer.slice(0));
  revealRejections(memory);
  if (instance.exports[STACK_POINTER].value !== stack)
    throw new Error('the engine left its stack in use');
  if (instance.exports.check_init() !== 0)
    throw new Error(`the bindings do not match the engine:\n${wasi.output()}`);
  if (wasi.output() !== '') process.stderr.write(wasi.output());
  return withMemory(Buffer.from(wasm), memory);
}

/**
 * Gives `src/rejections.js` the engine's internal `Set` of unhandled rejected
 * promises. The module stored the pattern `mark, promise, mark, mark, mark` in an
 * array; the set is the only object of that class whose first entry is that promise,
 * and it replaces the third mark. (The array is newer than the set, so the garbage
 * collector has moved the set out of its nursery if it has moved the array.)
 */
function revealRejections(memory) {
  const OBJECT_TAG = 0xffffff8c;
  const mark = BigInt(0x15014);
  const values = new BigUint64Array(memory.buffer, memory.byteOffset, memory.length / 8);
  const words = new Uint32Array(memory.buffer, memory.byteOffset, memory.length / 4);
  const one = (found, what) => {
    if (found.length !== 1)
      throw new Error(`the engine's memory has ${found.length} times ${what}`);
    return found[0];
  };
  const indexes = (list, wanted, accepted) => {
    const found = [];
    for (let i = list.indexOf(wanted); i >= 0; i = list.indexOf(wanted, i + 1))
      if (accepted(i)) found.push(i);
    return found;
  };
  const array = one(
    indexes(
      values,
      mark,
      (i) =>
        [2, 3, 4].every((n) => values[i + n] === mark) &&
        Number(values[i + 1] >> 32n) === OBJECT_TAG,
    ),
    'the marks of rejections.js',
  );
  // object -> shape -> base shape -> class -> name
  const className = (object) => {
    let at = object;
    for (let i = 0; i < 4; i++) {
      if (at === 0 || at % 4 !== 0 || at >= memory.length) return '';
      at = words[at / 4];
    }
    return at < memory.length ? memory.toString('latin1', at, memory.indexOf(0, at)) : '';
  };
  const sets = new Set();
  for (const entry of indexes(values, values[array + 1], (i) => i !== array + 1)) {
    for (const word of indexes(words, entry * 8, () => true)) {
      const address = word * 4;
      for (let object = (address - 4) & ~7; object >= address - 64; object -= 8) {
        if (className(object) === 'Set') sets.add(object);
      }
    }
  }
  const set = one([...sets], 'a set of rejected promises');
  values[array + 3] = (BigInt(OBJECT_TAG) << 32n) | BigInt(set);
}

/**
 * Creates the functions of WASI that the engine calls while it starts: `files`, an
 * environment, and the arguments on its standard input. The clock is constant, and
 * the random numbers are always the same.
 */
function deterministicWasi({ env, files, input }) {
  const SUCCESS = 0;
  const BAD_FD = 8;
  const NO_ENTRY = 44;
  const DIRECTORY = 3;
  const REGULAR_FILE = 4;
  const ROOT_FD = 3;
  let memory;
  let printed = '';
  let random = 1;
  const open = new Map([[0, { bytes: Buffer.from(input), at: 0 }]]);
  let lastFd = ROOT_FD;
  const view = () => new DataView(memory.buffer);
  const bytes = (at, length) => Buffer.from(memory.buffer, at, length);
  const environment = Object.entries(env).map(([name, value]) => Buffer.from(`${name}=${value}\0`));

  const fileType = (fd) =>
    fd === ROOT_FD ? DIRECTORY : open.has(fd) || fd < ROOT_FD ? REGULAR_FILE : 0;
  const pathAt = (at, length) =>
    bytes(at, length)
      .toString()
      .replace(/^(?:\.?\/)+/, '');
  const word = (at) => view().getUint32(at, true);
  const vectors = (at, count) =>
    Array.from({ length: count }, (_, i) => [word(at + 8 * i), word(at + 8 * i + 4)]);

  const functions = {
    args_sizes_get: (count, size) => (
      view().setUint32(count, 0, true),
      view().setUint32(size, 0, true),
      SUCCESS
    ),
    args_get: () => SUCCESS,
    environ_sizes_get(count, size) {
      view().setUint32(count, environment.length, true);
      view().setUint32(size, Buffer.concat(environment).length, true);
      return SUCCESS;
    },
    environ_get(list, at) {
      for (const entry of environment) {
        view().setUint32(list, at, true);
        bytes(at, entry.length).set(entry);
        list += 4;
        at += entry.length;
      }
      return SUCCESS;
    },
    clock_time_get: (_clock, _precision, at) => (
      view().setBigUint64(at, 1_000_000_000n, true),
      SUCCESS
    ),
    random_get(at, length) {
      const target = bytes(at, length);
      for (let i = 0; i < length; i++) {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
        target[i] = random >>> 24;
      }
      return SUCCESS;
    },
    fd_write(fd, at, count, written) {
      let total = 0;
      for (const [from, length] of vectors(at, count)) {
        printed += bytes(from, length).toString();
        total += length;
      }
      view().setUint32(written, total, true);
      return fd === 1 || fd === 2 ? SUCCESS : BAD_FD;
    },
    fd_read(fd, at, count, read) {
      const file = open.get(fd);
      if (file === undefined) return BAD_FD;
      let total = 0;
      for (const [to, length] of vectors(at, count)) {
        const chunk = file.bytes.subarray(file.at, file.at + length);
        bytes(to, chunk.length).set(chunk);
        file.at += chunk.length;
        total += chunk.length;
      }
      view().setUint32(read, total, true);
      return SUCCESS;
    },
    fd_seek(fd, offset, whence, at) {
      const file = open.get(fd);
      if (file === undefined) return BAD_FD;
      file.at = Number(offset) + [0, file.at, file.bytes.length][whence];
      view().setBigUint64(at, BigInt(file.at), true);
      return SUCCESS;
    },
    fd_close: (fd) => (open.delete(fd), SUCCESS),
    fd_fdstat_get(fd, at) {
      if (fileType(fd) === 0) return BAD_FD;
      bytes(at, 24).fill(0);
      view().setUint8(at, fileType(fd));
      view().setBigUint64(at + 8, ~0n, true);
      view().setBigUint64(at + 16, ~0n, true);
      return SUCCESS;
    },
    fd_fdstat_set_flags: () => SUCCESS,
    fd_prestat_get: (fd, at) =>
      fd === ROOT_FD ? (view().setBigUint64(at, 1n << 32n, true), SUCCESS) : BAD_FD,
    fd_prestat_dir_name: (_fd, at) => (bytes(at, 1).write('/'), SUCCESS),
    path_open(_fd, _flags, at, length, _open, _rights, _inherited, _fdFlags, result) {
      const source = files.get(pathAt(at, length));
      if (source === undefined) return NO_ENTRY;
      open.set(++lastFd, { bytes: Buffer.from(source), at: 0 });
      view().setUint32(result, lastFd, true);
      return SUCCESS;
    },
    path_filestat_get(_fd, _flags, at, length, result) {
      const source = files.get(pathAt(at, length));
      if (source === undefined) return NO_ENTRY;
      bytes(result, 64).fill(0);
      view().setUint8(result + 16, REGULAR_FILE);
      view().setBigUint64(result + 32, BigInt(Buffer.byteLength(source)), true);
      return SUCCESS;
    },
    proc_exit(code) {
      throw new Error(`the engine exited with code ${code}`);
    },
  };
  return { functions, output: () => printed, attach: (given) => (memory = given) };
}

// Editing the module's binary format.

const STACK_POINTER = 'stack pointer';
const IMPORTS = 2;
const MEMORIES = 5;
const GLOBALS = 6;
const EXPORTS = 7;
const CODE = 10;
const DATA = 11;
const DATA_COUNT = 12;
const PAGE = 65536;
// The exports that are needed only to start the engine.
const START_ONLY = ['_initialize', 'componentize.wizer', 'wizer-initialize', 'wizer.resume'];

function* sections(bytes) {
  for (let at = 8; at < bytes.length;) {
    const id = bytes[at];
    const size = readNumber(bytes, at + 1);
    yield { id, body: bytes.subarray(size.end, size.end + size.value) };
    at = size.end + size.value;
  }
}

function assemble(parts) {
  const header = Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
  const written = parts.map(({ id, body }) =>
    Buffer.concat([Buffer.from([id]), number(body.length), body]),
  );
  return Buffer.concat([header, ...written]);
}

/** Exports the module's only global, to verify that the start released its stack. */
function exposeStackPointer(bytes) {
  const parts = [...sections(bytes)].map(({ id, body }) => {
    if (id === GLOBALS && body[0] !== 1) {
      throw new Error('the engine has more state than its memory and its stack pointer');
    }
    if (id !== EXPORTS) return { id, body };
    const count = readNumber(body, 0);
    const added = Buffer.concat([text(STACK_POINTER), Buffer.from([3, 0])]);
    return { id, body: Buffer.concat([number(count.value + 1), body.subarray(count.end), added]) };
  });
  return { bytes: assemble(parts) };
}

/** Returns the module with `memory` as its initial memory, and without its start functions. */
function withMemory(bytes, memory) {
  const data = segments(memory);
  const parts = [...sections(bytes)].map(({ id, body }) => {
    switch (id) {
      case MEMORIES:
        return { id, body: Buffer.concat([Buffer.from([1, 0]), number(memory.length / PAGE)]) };
      case EXPORTS:
        return { id, body: withoutStart(body) };
      case DATA_COUNT:
        return { id, body: number(data.length) };
      case DATA:
        return { id, body: Buffer.concat([number(data.length), ...data]) };
      default:
        return { id, body };
    }
  });
  return assemble(parts);
}

/**
 * Replaces the traps that the splicer generates for file functions by functions that
 * return an error, because `import('x')` in a script searches for a file.
 */
function softenStubs(bytes) {
  const BAD_FD = 8;
  const NO_ENTRY = 44;
  const parts = [...sections(bytes)];
  const imported = importedFunctions(parts.find(({ id }) => id === IMPORTS).body);
  const errors = new Map();
  for (const [index, name] of functionNames(parts)) {
    if (/^path_/.test(name)) errors.set(index - imported, NO_ENTRY);
    else if (/^fd_/.test(name)) errors.set(index - imported, BAD_FD);
  }
  if (errors.size === 0) throw new Error('the splicer no longer names its stubs');
  return assemble(
    parts.map(({ id, body }) => {
      if (id !== CODE) return { id, body };
      const count = readNumber(body, 0);
      const functions = [body.subarray(0, count.end)];
      for (let i = 0, at = count.end; i < count.value; i++) {
        const size = readNumber(body, at);
        const end = size.end + size.value;
        const code = body.subarray(size.end, end);
        const isTrap = code.equals(Buffer.from([0, 0x00, 0x0b]));
        // No locals; i32.const error; end.
        const failing = () =>
          Buffer.concat([Buffer.from([0, 0x41]), signed(errors.get(i)), Buffer.from([0x0b])]);
        const result = isTrap && errors.has(i) ? failing() : code;
        functions.push(number(result.length), result);
        at = end;
      }
      return { id, body: Buffer.concat(functions) };
    }),
  );
}

function importedFunctions(body) {
  const count = readNumber(body, 0);
  let functions = 0;
  for (let i = 0, at = count.end; i < count.value; i++) {
    for (let names = 0; names < 2; names++) {
      const length = readNumber(body, at);
      at = length.end + length.value;
    }
    if (body[at] !== 0) throw new Error('the engine imports more than functions');
    functions++;
    at = readNumber(body, at + 1).end;
  }
  return functions;
}

/** Yields the function names in the module's name section. */
function* functionNames(parts) {
  for (const { id, body } of parts) {
    if (id !== 0) continue;
    const title = readNumber(body, 0);
    if (body.subarray(title.end, title.end + title.value).toString() !== 'name') continue;
    for (let at = title.end + title.value; at < body.length;) {
      const size = readNumber(body, at + 1);
      if (body[at] === 1) {
        const count = readNumber(body, size.end);
        for (let i = 0, entry = count.end; i < count.value; i++) {
          const index = readNumber(body, entry);
          const length = readNumber(body, index.end);
          yield [index.value, body.subarray(length.end, length.end + length.value).toString()];
          entry = length.end + length.value;
        }
      }
      at = size.end + size.value;
    }
  }
}

function withoutStart(body) {
  const count = readNumber(body, 0);
  const kept = [];
  for (let i = 0, at = count.end; i < count.value; i++) {
    const length = readNumber(body, at);
    const name = body.subarray(length.end, length.end + length.value).toString();
    const index = readNumber(body, length.end + length.value + 1);
    if (!START_ONLY.includes(name)) kept.push(body.subarray(at, index.end));
    at = index.end;
  }
  return Buffer.concat([number(kept.length), ...kept]);
}

/** Returns active data segments for the non-zero memory; small gaps are included. */
function segments(memory) {
  const GAP = 256;
  const words = new BigUint64Array(memory.buffer, memory.byteOffset, memory.length / 8);
  const found = [];
  let start = -1;
  let end = 0;
  const close = () => {
    if (start < 0) return;
    const body = memory.subarray(start, end);
    found.push(
      Buffer.concat([
        Buffer.from([0, 0x41]),
        signed(start),
        Buffer.from([0x0b]),
        number(body.length),
        body,
      ]),
    );
  };
  for (let i = 0; i < words.length; i++) {
    if (words[i] === 0n) continue;
    if (start < 0 || i * 8 - end > GAP) {
      close();
      start = i * 8;
    }
    end = i * 8 + 8;
  }
  close();
  return found;
}

/** Reads an unsigned LEB128 number. */
function readNumber(bytes, at) {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return { value, end: at };
  }
}

function number(value) {
  const bytes = [];
  for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80);
  return Buffer.from([...bytes, value]);
}

/** Encodes a non-negative value as a signed LEB128 number. */
function signed(value) {
  const bytes = [];
  for (; value >= 0x40; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80);
  return Buffer.from([...bytes, value]);
}

function text(value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([number(bytes.length), bytes]);
}

await main();
