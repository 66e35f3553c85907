'use strict';

// An `Executor` for `@cloudflare/codemode`, which runs the code of a model in a JavaScript
// guest. It needs nothing of that package at run time.

const { IsolaError } = require('../index.js');
const { invalid } = require('../errors.js');
const { CODEMODE_GUEST } = require('./codemode-guest.js');
const { explain, milliseconds, sandboxOptions, templateOf } = require('./shared.js');

/** The time that one execution may take, calls of tools included, by default. */
const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_CPU_TIMEOUT_MS = 30_000;

const IDENTIFIER = /^[a-zA-Z_$][a-zA-Z0-9_$]*$/;

/** The key of a connector's result that controls the run, and the error of a paused one. */
const CONTROL_KEY = '__codemode_control__';
const PAUSE_MESSAGE = '__CODEMODE_PAUSE__';

class IsolaExecutor {
  #template;
  #sandbox;
  #timeoutMs;
  #cpuTimeoutMs;

  constructor(options = {}) {
    const own = ['timeoutMs', 'cpuTimeoutMs'];
    this.#sandbox = sandboxOptions('IsolaExecutor', options, own);
    this.#template = options.template;
    this.#timeoutMs = milliseconds('timeoutMs', options.timeoutMs, DEFAULT_TIMEOUT_MS);
    this.#cpuTimeoutMs = milliseconds('cpuTimeoutMs', options.cpuTimeoutMs, DEFAULT_CPU_TIMEOUT_MS);
  }

  async execute(code, providersOrFns, options = {}) {
    const logs = [];
    try {
      const result = await this.#run(code, providersOrFns, options, logs);
      return { result, logs };
    } catch (error) {
      return { result: undefined, error: messageOf(error), logs };
    }
  }

  async #run(code, providersOrFns, options, logs) {
    if (typeof code !== 'string') throw invalid('code is not a string');
    const namespaces = namespacesOf(providersOrFns, options.connectors ?? []);
    const template = await templateOf(this.#template, 'js');
    let isOver = false;
    const sandbox = await template.create({
      ...this.#sandbox,
      hostcalls: {
        async codemode(payload) {
          if (isOver) throw new Error('the code has ended');
          return JSON.parse(stringify({ result: await call(namespaces, payload) }));
        },
      },
    });
    const { signal } = options;
    try {
      await sandbox.start({ signal });
      await sandbox.loadScript(CODEMODE_GUEST, { name: 'codemode.js', signal });
      const names = [...namespaces].map(([name, { prelude }]) => ({ name, prelude }));
      const limits = { timeoutMs: this.#timeoutMs, cpuTimeoutMs: this.#cpuTimeoutMs, signal };
      const events = sandbox.runStream('__codemode', [code, names], {}, limits);
      return await outcome(events, logs);
    } finally {
      isOver = true;
      await sandbox[Symbol.asyncDispose]();
    }
  }
}

/** Reads the events of an execution: adds to the logs, and returns the result. */
async function outcome(events, logs) {
  for await (const event of events) {
    if (event.type === 'log') {
      logs.push(`${LOG_PREFIXES[event.level] ?? ''}${event.data}`);
    } else if (event.type === 'error') {
      throw event.error;
    } else if (event.type === 'end') {
      const { result, error } = event.data ?? {};
      if (error !== undefined) throw new Error(String(error));
      return result === undefined ? undefined : parse(JSON.stringify(result));
    }
  }
  throw new Error('the code has ended without a result');
}

/** What codemode writes before the records of `console.warn` and `console.error`. */
const LOG_PREFIXES = { warning: '[warn] ', error: '[error] ' };

function messageOf(error) {
  if (error instanceof IsolaError) {
    if (error.code === 'wall_time_limit') return `Execution timed out: ${explain(error)}`;
    return explain(error);
  }
  return error instanceof Error && error.message ? error.message : String(error);
}

/** Checks the providers and connectors, and returns what each name calls. */
function namespacesOf(providersOrFns, connectors) {
  const providers = Array.isArray(providersOrFns)
    ? providersOrFns
    : [{ name: 'codemode', fns: providersOrFns ?? {} }];
  const namespaces = new Map();
  const connected = new Set(connectors.map(({ name }) => name));
  for (const { name, fns, prelude } of providers) {
    // A connector of the same name takes the place of a provider, prelude included.
    if (connected.has(name)) continue;
    checkName('Provider', name, namespaces);
    namespaces.set(name, { prelude, call: providerCall(name, fns) });
  }
  for (const { name, binding } of connectors) {
    checkName('Connector', name, namespaces);
    namespaces.set(name, { call: connectorCall(binding) });
  }
  return namespaces;
}

function checkName(kind, name, taken) {
  if (!IDENTIFIER.test(name)) {
    throw new Error(`${kind} name "${name}" is not a valid JavaScript identifier`);
  }
  if (taken.has(name)) throw new Error(`Duplicate ${kind.toLowerCase()} name "${name}"`);
}

function providerCall(provider, fns) {
  const bySanitizedName = new Map();
  for (const [name, fn] of Object.entries(fns)) {
    const sanitized = sanitize(name);
    const existing = bySanitizedName.get(sanitized);
    if (existing !== undefined) {
      const both = `"${existing.name}" and "${name}"`;
      throw new Error(
        `Tool names ${both} both sanitize to "${sanitized}" in provider "${provider}"`,
      );
    }
    bySanitizedName.set(sanitized, { name, fn });
  }
  return async (tool, args) => {
    const found = bySanitizedName.get(tool);
    if (found === undefined) throw new Error(`Tool "${tool}" not found`);
    return found.fn(...args);
  };
}

function connectorCall(binding) {
  return async (method, args) => {
    const result = await binding.callTool(method, args[0]);
    const control = result && typeof result === 'object' ? result[CONTROL_KEY] : undefined;
    if (control === 'pause') throw new Error(PAUSE_MESSAGE);
    if (control === 'error') throw new Error(String(result.message));
    return result;
  };
}

/** Calls a tool. The payload comes from the guest, and is untrusted. */
async function call(namespaces, payload) {
  const { namespace, tool, args } = payload ?? {};
  const found = typeof namespace === 'string' ? namespaces.get(namespace) : undefined;
  if (found === undefined || typeof tool !== 'string' || !Array.isArray(args)) {
    throw new Error('the call of a tool has no namespace, tool and args');
  }
  return found.call(tool, parse(JSON.stringify(args)));
}

/** The names that codemode shows to models: as `sanitizeToolName` of its package. */
function sanitize(name) {
  let sanitized = name.replace(/[-.\s]/g, '_').replace(/[^a-zA-Z0-9_$]/g, '');
  if (sanitized === '') return '_';
  if (/^[0-9]/.test(sanitized)) sanitized = `_${sanitized}`;
  return isReserved(sanitized) ? `${sanitized}_` : sanitized;
}

const RESERVED = new Set(
  (
    'abstract arguments await boolean break byte case catch char class const continue debugger ' +
    'default delete do double else enum eval export extends false final finally float for ' +
    'function goto if implements import in instanceof int interface let long native new null ' +
    'package private protected public return short static super switch synchronized this throw ' +
    'throws transient true try typeof undefined var void volatile while with yield'
  ).split(' '),
);

function isReserved(name) {
  return RESERVED.has(name);
}

// Binary values are objects with a tag, as the guest has them.
const BINARY = '$isolaBinary';

function stringify(value) {
  return JSON.stringify(value, (key, nested) => encodeBinary(nested));
}

function encodeBinary(value) {
  if (value instanceof ArrayBuffer) {
    return { [BINARY]: 'ArrayBuffer', data: Buffer.from(value).toString('base64') };
  }
  if (ArrayBuffer.isView(value)) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return { [BINARY]: 'Uint8Array', data: bytes.toString('base64') };
  }
  // `Buffer` has a `toJSON`, which has run already.
  if (value?.type === 'Buffer' && Array.isArray(value.data)) {
    return { [BINARY]: 'Uint8Array', data: Buffer.from(value.data).toString('base64') };
  }
  return value;
}

function parse(text) {
  return JSON.parse(text, (key, value) => {
    if (typeof value?.[BINARY] !== 'string' || typeof value.data !== 'string') return value;
    const bytes = new Uint8Array(Buffer.from(value.data, 'base64'));
    return value[BINARY] === 'ArrayBuffer' ? bytes.buffer : bytes;
  });
}

module.exports = { IsolaExecutor };
