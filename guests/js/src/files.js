// `files`: reads and writes the files of the sandbox.

import * as host from 'isola:sandbox/host@0.1.0';
import { utf8 } from './bytes.js';
import { extract } from './body.js';
import { define, freeze, SafeNumber, SafeTypeError, string } from './intrinsics.js';

const { ArrayBuffer, Date } = globalThis;
const isView = ArrayBuffer.isView;

/** The error of a failed operation on a file. Its code is the name of a POSIX error. */
class FileError extends Error {}
define(FileError.prototype, 'name', 'FileError', false);

/** Calls a function of the host, and throws its failure. */
function attempt(operation) {
  let failure;
  try {
    return operation();
  } catch (error) {
    // The class of such an error belongs to the bindings.
    failure = error.payload;
    if (failure === undefined) throw error;
  }
  const { code, message } = failure;
  const error = new FileError(`${code}: ${message}`);
  define(error, 'code', code, true);
  throw error;
}

/** Checks a path. */
function checkedPath(path, name) {
  if (typeof path !== 'string') throw new SafeTypeError(`files.${name}: the path must be a string`);
  if (string.includes(path, '\0')) {
    throw new SafeTypeError(`files.${name}: the path contains a NUL`);
  }
  return path;
}

function read(path, encoding) {
  path = checkedPath(path, 'read');
  if (encoding !== undefined && encoding !== 'utf8' && encoding !== 'utf-8') {
    throw new SafeTypeError(`files.read: the encoding must be 'utf8', or none for bytes`);
  }
  const bytes = attempt(() => host.readFile(path));
  return encoding === undefined ? bytes : utf8(bytes);
}

function write(path, content, options) {
  path = checkedPath(path, 'write');
  const isBytes = isView(content) || content instanceof ArrayBuffer;
  if (typeof content !== 'string' && !isBytes) {
    throw new SafeTypeError('files.write: the content must be a string or bytes');
  }
  const append = options !== undefined && options !== null && options.append === true;
  const { bytes } = extract(content).content;
  attempt(() => host.writeFile(path, bytes, append));
}

function list(path) {
  path = checkedPath(path === undefined ? '.' : path, 'list');
  const found = attempt(() => host.listFiles(path));
  const entries = [];
  for (let i = 0; i < found.length; i++) {
    const { name, kind, size, modified } = found[i];
    const entry = { name, kind, size: SafeNumber(size), modified: new Date(modified) };
    define(entries, i, entry, true);
  }
  return entries;
}

function remove(path) {
  path = checkedPath(path, 'remove');
  attempt(() => host.removeFile(path));
}

export function installFiles(global) {
  const files = {};
  const members = { __proto__: null, read, write, list, remove };
  for (const name in members) define(files, name, members[name], true);
  define(global, 'files', freeze(files), false);
}
