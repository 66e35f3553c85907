// Runs the cells of one context in a Linux sandbox with Node.js 18 or later, for the agent.
//
// The agent passes this program in a file without a path, and talks to it by frames over two
// pipes: `crates/isorun-agent/src/runner.rs` describes them. Cells are evaluated by V8's
// inspector in its REPL mode: `await` at top level, declarations that persist and may be
// repeated, and the value of the last expression.
(function (require, process, importModule) {
  'use strict';

  const { Session } = require('inspector');
  const { createRequire, builtinModules } = require('module');
  const fs = require('fs');
  const util = require('util');
  const vm = require('vm');

  const CONTROL_FD = 97;
  const EVENTS_FD = 98;
  const HEADER_BYTES = 5;
  const MAX_ENTRY_BYTES = 8 * 1024 * 1024;
  const MAX_RESULT_BYTES = 32 * 1024 * 1024;
  const MAX_ERROR_CHARS = 64 * 1024;
  // The number of results that are kept until the next cell, if none runs.
  const MAX_KEPT_RESULTS = 100;
  const MIME_TYPE = /^[A-Za-z0-9!#$&^_.+-]{1,100}\/[A-Za-z0-9!#$&^_.+-]{1,100}$/;
  const BINARY = /^(image\/(?!svg\+xml)|audio\/|video\/|application\/(pdf|octet-stream)$)/;
  const JSON_TYPE = /^application\/(.*\+)?json$/;
  const TO_BUNDLE = Symbol.for('Jupyter.display');

  // Code of cells may replace the global ones.
  const { stringify, parse } = JSON;

  const session = new Session();
  session.connect();
  // Without anything to wait for, Node.js would exit in the middle of a cell that waits.
  setInterval(() => {}, 2 ** 31 - 1);

  let running = false;
  let interrupt = null;
  let queued = [];
  let kept = [];
  let nextCell = null;

  // ---- frames

  function frame(kind, payload) {
    const bytes = Buffer.from(payload);
    const header = Buffer.alloc(HEADER_BYTES);
    header.write(kind, 0, 'latin1');
    header.writeUInt32LE(bytes.length, 1);
    return Buffer.concat([header, bytes]);
  }

  function writeQueued() {
    const data = Buffer.concat(queued);
    queued = [];
    for (let at = 0; at < data.length;) {
      at += retrying(() => fs.writeSync(EVENTS_FD, data, at));
    }
  }

  function retrying(operation) {
    for (;;) {
      try {
        return operation();
      } catch (error) {
        if (error.code !== 'EAGAIN' && error.code !== 'EINTR') throw error;
      }
    }
  }

  function readExactlySync(count) {
    const bytes = Buffer.alloc(count);
    for (let at = 0; at < count;) {
      const read = retrying(() => fs.readSync(CONTROL_FD, bytes, at, count - at, null));
      if (read === 0) process.reallyExit(0);
      at += read;
    }
    return bytes;
  }

  function receiveSync(header = readExactlySync(HEADER_BYTES)) {
    const payload = readExactlySync(header.readUInt32LE(1));
    return { kind: String.fromCharCode(header[0]), payload };
  }

  // Waits for a cell, while timers and other events continue.
  function waitForCell() {
    if (nextCell !== null) {
      const cell = nextCell;
      nextCell = null;
      return setImmediate(run, cell);
    }
    const header = Buffer.alloc(HEADER_BYTES);
    fs.read(CONTROL_FD, header, 0, HEADER_BYTES, null, (error, count) => {
      if (error || count === 0) process.reallyExit(0);
      if (count < HEADER_BYTES) readExactlySync(HEADER_BYTES - count).copy(header, count);
      const { kind, payload } = receiveSync(header);
      if (kind === 'C') run(parse(payload.toString()));
      else waitForCell();
    });
  }

  // Sends a result, and returns when all output until here was read.
  function showNow(event) {
    queued.push(frame('P', encode(event)));
    writeQueued();
    for (;;) {
      const { kind, payload } = receiveSync();
      if (kind === 'A') return;
      nextCell = parse(payload.toString());
    }
  }

  function encode(event) {
    const text = stringify(event);
    if (Buffer.byteLength(text) <= MAX_RESULT_BYTES) return text;
    const omitted = {};
    for (const [mime, entry] of Object.entries(event.data ?? {})) {
      omitted[mime] = tooLarge(stringify(entry).length, MAX_RESULT_BYTES);
    }
    return stringify({ ...event, data: {}, metadata: { omitted } });
  }

  // ---- results

  function tooLarge(size, limit) {
    return `${size} bytes, over the limit of ${limit}`;
  }

  function result(entries, isMain) {
    const data = {};
    const metadata = {};
    for (const [mime, entry] of entries) {
      if (entry === undefined || entry === null) continue;
      try {
        const { value, size } = encodeEntry(mime, entry);
        if (size <= MAX_ENTRY_BYTES) data[mime] = value;
        else if (mime === 'text/plain') data[mime] = cut(value, size);
        else (metadata.omitted ??= {})[mime] = tooLarge(size, MAX_ENTRY_BYTES);
      } catch (error) {
        (metadata.errors ??= {})[mime] = String(error).slice(0, 1000);
      }
    }
    return { type: 'result', data, metadata, is_main_result: isMain };
  }

  function encodeEntry(mime, entry) {
    if (JSON_TYPE.test(mime)) {
      const text = stringify(entry);
      return { value: parse(text), size: Buffer.byteLength(text) };
    }
    if (entry instanceof Uint8Array) {
      const bytes = Buffer.from(entry.buffer, entry.byteOffset, entry.byteLength);
      const value = bytes.toString(BINARY.test(mime) ? 'base64' : 'utf8');
      return { value, size: value.length };
    }
    if (typeof entry !== 'string') throw new TypeError(`${mime} is text, not ${typeof entry}`);
    return { value: entry, size: Buffer.byteLength(entry) };
  }

  function cut(text, size) {
    const marker = `\n[... ${size} bytes, cut at the limit of ${MAX_ENTRY_BYTES} bytes]`;
    const bytes = Buffer.from(text).subarray(0, MAX_ENTRY_BYTES - marker.length);
    return bytes.toString().replace(/\uFFFD+$/, '') + marker;
  }

  function isBundle(value) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
    const names = Object.keys(value);
    return names.length > 0 && names.every((name) => MIME_TYPE.test(name));
  }

  function entriesOf(value) {
    const entries = new Map();
    entries.set('text/plain', util.inspect(value, { maxStringLength: MAX_ENTRY_BYTES }));
    try {
      const make = value?.[TO_BUNDLE];
      if (typeof make === 'function') {
        for (const [mime, entry] of Object.entries(make.call(value) ?? {})) {
          entries.set(mime, entry);
        }
      }
    } catch (error) {
      entries.set('text/plain', `${entries.get('text/plain')}\n[${String(error).slice(0, 1000)}]`);
    }
    return entries;
  }

  function display(...values) {
    for (const value of values) {
      const entries = isBundle(value) ? Object.entries(value) : entriesOf(value);
      const event = result(entries, false);
      if (running) showNow(event);
      else if (kept.length < MAX_KEPT_RESULTS) kept.push(event);
    }
  }

  // ---- cells

  // Calls back with a value that the inspector knows by an id.
  function valueOf(remote) {
    if (remote.objectId === undefined) {
      if (remote.type === 'undefined') return undefined;
      if (remote.unserializableValue === undefined) return remote.value;
      return vm.runInThisContext(remote.unserializableValue);
    }
    let taken;
    Object.defineProperty(globalThis, TAKE, {
      value: (value) => {
        taken = value;
      },
      configurable: true,
    });
    session.post('Runtime.callFunctionOn', {
      objectId: remote.objectId,
      functionDeclaration: `function (value) { globalThis[Symbol.for('${TAKE.description}')](value); }`,
      arguments: [{ objectId: remote.objectId }],
    });
    delete globalThis[TAKE];
    return taken;
  }
  const TAKE = Symbol.for(`isorun.${process.pid}`);

  function evaluate(code, name) {
    return new Promise((resolve, reject) => {
      interrupt = () => reject(new Interrupted());
      const parameters = {
        expression: `${withImports(asExpression(code))}\n//# sourceURL=${name}`,
        replMode: true,
        awaitPromise: true,
        objectGroup: 'isorun',
      };
      const post = () =>
        session.post('Runtime.evaluate', parameters, (error, answer) => {
          if (error) reject(new Interrupted());
          else resolve(answer);
        });
      // An interrupt ends the code in it, but not what continues after an `await`.
      Object.defineProperty(globalThis, POST, { value: post, configurable: true });
      try {
        POST_SCRIPT.runInThisContext({ breakOnSigint: true });
      } catch {
        reject(new Interrupted());
      } finally {
        delete globalThis[POST];
      }
    });
  }
  const POST = Symbol.for(`isorun.post.${process.pid}`);
  const POST_SCRIPT = new vm.Script(`globalThis[Symbol.for('${POST.description}')]()`, {
    filename: 'isorun:runner',
  });

  class Interrupted extends Error {}

  // The inspector has no loader for `import()`, so calls of it go to a function that has one.
  // Text in quotes and comments stays as it is.
  const IMPORT_CALL =
    /'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\[^])*`|\/\/.*|\/\*[^]*?\*\/|(?<![.\w$])import(?=\s*\()/g;

  function withImports(code) {
    return code.replace(IMPORT_CALL, (found) => (found === 'import' ? IMPORT : found));
  }
  const IMPORT = '__isorun_import__';

  // An object literal is not a block, as in the REPL of Node.js.
  function asExpression(code) {
    if (/^\s*{/.test(code) && !/;\s*$/.test(code)) {
      try {
        new vm.Script(`(${code}\n)`, { filename: 'isorun:check' });
        return `(${code}\n)`;
      } catch {
        // It is a block, or not valid as either.
      }
    }
    return code;
  }

  async function run({ code, execution_count: count }) {
    running = true;
    for (const event of kept) queued.push(frame('p', encode(event)));
    kept = [];
    const name = `cell-${count}.js`;
    let outcome;
    try {
      const answer = await evaluate(code, name);
      if (answer.exceptionDetails) {
        outcome = errorEvent(answer.exceptionDetails, code, name);
      } else {
        const value = valueOf(answer.result);
        if (value !== undefined) outcome = result(entriesOf(value), true);
      }
    } catch (error) {
      outcome =
        error instanceof Interrupted
          ? { type: 'error', name: 'KeyboardInterrupt', value: 'interrupted', traceback: '' }
          : { type: 'error', name: errorName(error), value: String(error), traceback: '' };
    }
    interrupt = null;
    running = false;
    session.post('Runtime.releaseObjectGroup', { objectGroup: 'isorun' });
    if (outcome) queued.push(frame(outcome.type === 'error' ? 'X' : 'p', encode(outcome)));
    queued.push(frame('E', ''));
    writeQueued();
    waitForCell();
  }

  function errorName(error) {
    try {
      return String(error.name).slice(0, 200);
    } catch {
      return 'Error';
    }
  }

  function errorEvent(details, code, name) {
    const error = details.exception ? valueOf(details.exception) : undefined;
    if (!util.types.isNativeError(error)) {
      const value = limited(util.inspect(error));
      return { type: 'error', name: 'Uncaught', value, traceback: `Uncaught ${value}` };
    }
    let [value, traceback] = ['', ''];
    try {
      value = String(error.message);
      traceback = withoutRunner(String(error.stack));
      if (error instanceof SyntaxError && details.stackTrace === undefined) {
        const line = code.split('\n')[details.lineNumber] ?? '';
        const mark = `${' '.repeat(details.columnNumber ?? 0)}^`;
        const place = `${name}:${details.lineNumber + 1}\n${line}\n${mark}\n\n`;
        traceback = `${place}${traceback.split('\n')[0]}`;
      }
      if (error.cause !== undefined) traceback += `\n[cause]: ${util.inspect(error.cause)}`;
    } catch {
      // Its properties fail.
    }
    return {
      type: 'error',
      name: errorName(error),
      value: limited(value),
      traceback: limited(traceback),
    };
  }

  function withoutRunner(stack) {
    const isOwn = (line) => /^ {4}at (.*(node:|isorun:runner|\[eval\])|new Promise \()/.test(line);
    return stack
      .split('\n')
      .filter((line) => !isOwn(line))
      .join('\n');
  }

  function limited(text) {
    if (text.length <= MAX_ERROR_CHARS) return text;
    const half = MAX_ERROR_CHARS / 2;
    const omitted = text.length - 2 * half;
    return `${text.slice(0, half)}\n[... ${omitted} characters ...]\n${text.slice(-half)}`;
  }

  // ---- the globals of the cells

  const define = (name, value) =>
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  define('display', display);
  Object.defineProperty(globalThis, IMPORT, { value: importModule, configurable: true });
  define('require', createRequire(`${process.cwd()}/cell.js`));
  for (const name of ['module', 'exports', '__filename', '__dirname']) delete globalThis[name];
  for (const name of builtinModules) {
    if (/^[a-z][a-z0-9_]*$/.test(name) && !(name in globalThis)) {
      Object.defineProperty(globalThis, name, {
        get: () => require(name),
        set: (value) => define(name, value),
        configurable: true,
      });
    }
  }

  process.on('SIGINT', () => interrupt?.());
  for (const name of ['uncaughtException', 'unhandledRejection']) {
    process.on(name, (error) => {
      fs.writeSync(2, `Uncaught ${limited(withoutRunner(util.inspect(error)))}\n`);
    });
  }

  queued.push(frame('R', 'node'));
  writeQueued();
  waitForCell();
});
