'use strict';

// Checks the names and types of options; the native part checks their values.
// An error names the option and the type that it must have.

const { invalid, shown } = require('./errors');
const { HOSTCALL } = require('./stream-calls');

const TIMES = ['cpuTimeoutMs', 'timeoutMs'];
const SIZES = [
  'maxMemory',
  'maxValueSize',
  'maxOutputSize',
  'maxRecursion',
  'maxPendingHostcalls',
  'maxHeldMemory',
  'maxStorage',
  'maxHandles',
  'maxRequests',
];
const PERMISSIONS = ['read', 'write', 'read-write'];

const TEMPLATE = [
  'runtimePath',
  'version',
  'cacheDir',
  'maxMemory',
  'maxStorage',
  'prelude',
  'runtimeLibDir',
  'mounts',
  'env',
  'limits',
  'reuseMemory',
  'downloadUrl',
  'runtimesDir',
  'runtimeSha256',
  'onProgress',
];
const RUNTIME = [
  'runtimePath',
  'version',
  'runtimeLibDir',
  'downloadUrl',
  'runtimesDir',
  'runtimeSha256',
  'onProgress',
];
const SANDBOX = [
  'maxMemory',
  'maxStorage',
  'mounts',
  'env',
  'arguments',
  'limits',
  'hostcalls',
  'http',
  'httpHandler',
  'httpRequestBody',
  'bigints',
];
const CALL = ['timeoutMs', 'cpuTimeoutMs', 'signal'];

/**
 * @param {Record<string, any>} options
 * @param {string[]} shipped the directories of runtimes installed with the package
 */
function template(options, shipped) {
  known('buildTemplate', options, TEMPLATE);
  const { cacheDir, reuseMemory = true } = options;
  if (typeof reuseMemory !== 'boolean') {
    throw expected('reuseMemory', 'true or false', reuseMemory);
  }
  const { sources, onProgress } = source(options, shipped);
  return {
    native: {
      sources,
      cacheDir: cacheDir === null ? undefined : text(options, 'cacheDir'),
      noCache: cacheDir === null,
      reuseMemory,
      prelude: text(options, 'prelude'),
      limits: limits(options),
      mounts: mounts(options.mounts),
      env: env(options.env),
    },
    onProgress,
  };
}

/**
 * @param {Record<string, any>} options
 * @param {string[]} shipped the directories of runtimes installed with the package
 */
function runtime(options, shipped) {
  known('resolveRuntime', options, RUNTIME);
  return source(options, shipped);
}

function source(options, shipped) {
  const { onProgress } = options;
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw expected('onProgress', 'a function', onProgress);
  }
  return {
    sources: {
      path: text(options, 'runtimePath'),
      library: text(options, 'runtimeLibDir'),
      version: text(options, 'version'),
      runtimesDir: text(options, 'runtimesDir'),
      baseUrl: text(options, 'downloadUrl'),
      sha256: text(options, 'runtimeSha256'),
      shipped,
    },
    onProgress,
  };
}

/** @param {Record<string, any>} options */
function sandbox(options) {
  known('create', options, SANDBOX);
  const { bigints = false, httpRequestBody = 'buffer' } = options;
  if (typeof bigints !== 'boolean') throw expected('bigints', 'true or false', bigints);
  if (httpRequestBody !== 'buffer' && httpRequestBody !== 'stream') {
    throw expected('httpRequestBody', '"buffer" or "stream"', httpRequestBody);
  }
  if (isGiven(options.http) && isGiven(options.httpHandler)) {
    throw invalid('http and httpHandler are two names of one option: set only http');
  }
  const name = isGiven(options.http) ? 'http' : 'httpHandler';
  const http = options[name] ?? false;
  if (typeof http !== 'boolean' && typeof http !== 'function') {
    throw expected(name, 'true or a function', http);
  }
  const handlers = hostcalls(options.hostcalls);
  return {
    native: {
      limits: limits(options),
      mounts: mounts(options.mounts),
      env: env(options.env),
      arguments: programArguments(options.arguments),
      hostcalls: [...handlers.keys(), HOSTCALL],
      http: http !== false,
    },
    handlers,
    http,
    httpRequestBody,
    bigints,
  };
}

/**
 * @param {Record<string, any> | null | undefined} options
 * @param {string[]} more options of this call beyond those of every call
 */
function call(options, more = []) {
  if (options === undefined || options === null) return {};
  known('a call', options, [...more, ...CALL]);
  const { signal } = options;
  if (isGiven(signal) && !(signal instanceof AbortSignal)) {
    throw expected('signal', 'an AbortSignal', signal);
  }
  const timeoutMs = time(options, 'timeoutMs');
  const cpuTimeoutMs = time(options, 'cpuTimeoutMs');
  const isLimited = timeoutMs !== undefined || cpuTimeoutMs !== undefined;
  return {
    signal: signal ?? undefined,
    limits: isLimited ? { timeoutMs, cpuTimeoutMs } : undefined,
  };
}

const LISTENERS = ['onStdout', 'onStderr', 'onResult', 'onError'];

/** @param {Record<string, any> | null | undefined} options */
function code(options) {
  const { timeout, ...rest } = options ?? {};
  if (isGiven(timeout) && isGiven(rest.timeoutMs)) {
    throw invalid('timeout and timeoutMs are two names of one option: set only one');
  }
  if (isGiven(timeout)) {
    time({ timeout }, 'timeout');
    rest.timeoutMs = timeout;
  }
  const called = call(rest, ['language', 'context', 'timeout', ...LISTENERS]);
  for (const name of LISTENERS) {
    if (isGiven(rest[name]) && typeof rest[name] !== 'function') {
      throw expected(name, 'a function', rest[name]);
    }
  }
  const context = isGiven(rest.context) ? contextId(rest.context) : undefined;
  const { onStdout, onStderr, onResult, onError } = rest;
  return {
    ...called,
    code: { language: text(rest, 'language'), context },
    listeners: { stdout: onStdout, stderr: onStderr, result: onResult, error: onError },
  };
}

/** @param {Record<string, any> | null | undefined} options */
function context(options) {
  if (!isGiven(options)) return {};
  known('contexts.create', options, ['language', 'cwd']);
  return { language: text(options, 'language'), cwd: text(options, 'cwd') };
}

/** Returns the id of a context that was given as such or by its id. */
function contextId(given) {
  const id = isRecord(given) ? given.id : given;
  if (typeof id !== 'string') throw expected('context', 'a context or its id', given);
  return id;
}

function limits(options) {
  const { limits: given } = options;
  const read = {};
  if (isGiven(given)) {
    known('limits', given, [...SIZES, ...TIMES]);
    for (const name of SIZES) read[name] = size(given, name);
    for (const name of TIMES) read[name] = time(given, name);
  }
  for (const name of ['maxMemory', 'maxStorage']) read[name] = size(options, name) ?? read[name];
  return read;
}

function mounts(given) {
  if (!isGiven(given)) return [];
  if (!Array.isArray(given)) throw expected('mounts', 'an array', given);
  return given.map((mount, index) => {
    const place = `mounts[${index}]`;
    known(place, mount, ['host', 'guest', 'dir_perms', 'file_perms']);
    for (const name of ['host', 'guest']) {
      if (typeof mount[name] !== 'string')
        throw expected(`${place}.${name}`, 'a path', mount[name]);
    }
    for (const name of ['dir_perms', 'file_perms']) {
      if (isGiven(mount[name]) && !PERMISSIONS.includes(mount[name])) {
        throw expected(`${place}.${name}`, '"read", "write" or "read-write"', mount[name]);
      }
    }
    return {
      host: mount.host,
      guest: mount.guest,
      dirPerms: mount.dir_perms ?? 'read',
      filePerms: mount.file_perms ?? 'read',
    };
  });
}

function env(given) {
  if (!isGiven(given)) return [];
  if (!isRecord(given)) throw expected('env', 'an object of strings', given);
  return Object.entries(given).map(([name, value]) => {
    if (typeof value !== 'string') throw expected(`env.${name}`, 'a string', value);
    return { name, value };
  });
}

function programArguments(given) {
  if (!isGiven(given)) return undefined;
  if (!Array.isArray(given)) throw expected('arguments', 'an array of strings', given);
  given.forEach((argument, index) => {
    if (typeof argument !== 'string') throw expected(`arguments[${index}]`, 'a string', argument);
  });
  return given;
}

// Returns a map, because a guest may name `constructor` or `__proto__`.
function hostcalls(given) {
  const handlers = new Map();
  if (!isGiven(given)) return handlers;
  if (!isRecord(given)) throw expected('hostcalls', 'an object of functions', given);
  for (const [name, handler] of Object.entries(given)) {
    if (typeof handler !== 'function') throw expected(`hostcalls.${name}`, 'a function', handler);
    if (name === HOSTCALL) throw invalid(`hostcalls: the name "${name}" is reserved for StreamArg`);
    handlers.set(name, handler);
  }
  return handlers;
}

function known(where, options, names) {
  if (!isRecord(options))
    throw invalid(`${where}: options must be an object, not ${shown(options)}`);
  for (const name of Object.keys(options)) {
    if (!names.includes(name)) {
      throw invalid(`${where} has no option "${name}": the options are ${names.join(', ')}`);
    }
  }
}

function text(options, name) {
  const value = options[name];
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'string') throw expected(name, 'a string', value);
  return value;
}

function size(options, name) {
  const value = options[name];
  if (!isGiven(value)) return undefined;
  if (!Number.isSafeInteger(value) || value < 0)
    throw expected(name, 'a non-negative integer', value);
  return value;
}

function time(options, name) {
  const value = options[name];
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'number' || !(value > 0)) {
    throw expected(name, 'a positive number of milliseconds, or Infinity', value);
  }
  return value;
}

function expected(name, what, value) {
  return invalid(`${name} must be ${what}, not ${shown(value)}`);
}

function isGiven(value) {
  return value !== undefined && value !== null;
}

function isRecord(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

module.exports = { template, runtime, sandbox, call, code, context, contextId };
