// Tools for the AI SDK (`ai`), with which a model runs code in a Python or JavaScript guest.
// Other tools of the model's program are functions of that code.

import errors from '../errors.js';
import isola from '../index.js';
import runtimes from '../runtime.js';
import guest from './ai-sdk-guest.js';
import shared from './shared.js';

const ai = await import('ai').catch((cause) => {
  throw new Error('isola-core/ai-sdk needs the package ai, version 7: npm install ai@7', { cause });
});

/** The times that one call may take, by default. */
const DEFAULT_TIMEOUT_MS = 60_000;
const DEFAULT_CPU_TIMEOUT_MS = 30_000;

/** The end of an error after which a session begins anew. */
const LOST = ' What earlier code has defined is lost.';

/** The number of characters of each part of the output, by default. */
const DEFAULT_OUTPUT_CHARS = 20_000;

const OWN_OPTIONS = [
  'runtime',
  'tools',
  'description',
  'timeoutMs',
  'cpuTimeoutMs',
  'maxOutputChars',
];

/** Creates a tool that runs each piece of code in a sandbox of its own. */
export async function codeTool(options = {}) {
  const config = await configOf('codeTool', options);
  return toolOf(config, false, async (code, call) => {
    const running = new Running();
    running.begin(call);
    let sandbox;
    try {
      sandbox = await start(config, running);
      return await execute(config, sandbox, code, call);
    } finally {
      running.end();
      sandbox?.close();
    }
  });
}

/** Creates a tool whose calls share one sandbox, with its variables and files. */
export async function codeSession(options = {}) {
  const config = await configOf('codeSession', options);
  const running = new Running();
  let sandbox;
  let isClosed = false;
  // Calls wait for each other, since a sandbox runs one at a time.
  let last = Promise.resolve();

  async function run(code, call) {
    if (isClosed) throw errors.closed('the session');
    call.abortSignal?.throwIfAborted();
    running.begin(call);
    const isFirst = sandbox === undefined;
    try {
      sandbox ??= await start(config, running);
      if (isClosed) sandbox.close();
      const output = await execute(config, sandbox, code, call);
      if (output.error && (await isStopped(sandbox))) {
        sandbox = undefined;
        if (!isFirst) {
          output.error.message += LOST;
          output.error.traceback += LOST;
        }
      }
      return output;
    } catch (error) {
      sandbox?.close();
      sandbox = undefined;
      throw error;
    } finally {
      running.end();
    }
  }

  const tool = toolOf(config, true, (code, call) => {
    const result = last.then(() => run(code, call));
    last = result.catch(() => {});
    return unlessAborted(result, call.abortSignal);
  });
  const close = async () => {
    isClosed = true;
    sandbox?.close();
    await last;
    sandbox?.close();
  };
  return { tool, close, [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]: close };
}

/** The call that runs, as the tools that its code calls see it. */
class Running {
  call;
  #ended;

  /** `abortSignal` of the tools is aborted with the call, and when its code has ended. */
  begin(call) {
    this.#ended = new AbortController();
    const signals = [this.#ended.signal, ...(call.abortSignal ? [call.abortSignal] : [])];
    this.call = { ...call, abortSignal: AbortSignal.any(signals) };
  }

  end() {
    this.call = undefined;
    this.#ended.abort(new Error('the code that called the tool has ended'));
  }
}

async function configOf(what, options) {
  const sandbox = shared.sandboxOptions(what, options, OWN_OPTIONS);
  const { runtime = 'python', maxOutputChars = DEFAULT_OUTPUT_CHARS } = options;
  const language = runtimes.languageOf(runtime);
  if (language === undefined) {
    throw errors.invalid(`runtime is ${errors.shown(runtime)}: use ${runtimes.names()}`);
  }
  if (!Number.isSafeInteger(maxOutputChars) || maxOutputChars < 1) {
    throw errors.invalid(
      `maxOutputChars is ${errors.shown(maxOutputChars)}: give an integer above 0`,
    );
  }
  const tools = await functionsOf(options.tools ?? {});
  return {
    runtime,
    language,
    sandbox,
    tools,
    maxOutputChars,
    template: options.template,
    description: options.description,
    timeoutMs: shared.milliseconds('timeoutMs', options.timeoutMs, DEFAULT_TIMEOUT_MS),
    cpuTimeoutMs: shared.milliseconds('cpuTimeoutMs', options.cpuTimeoutMs, DEFAULT_CPU_TIMEOUT_MS),
  };
}

/** Checks the tools that code can call, and returns their schemas and functions by name. */
async function functionsOf(tools) {
  const functions = new Map();
  for (const [name, tool] of Object.entries(tools)) {
    if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name)) {
      throw errors.invalid(`the tool "${name}" has a name that is not an identifier: rename it`);
    }
    if (typeof tool?.execute !== 'function') {
      throw errors.invalid(`the tool "${name}" has no execute: code can only call tools that have`);
    }
    if (tool.needsApproval !== undefined && tool.needsApproval !== false) {
      throw errors.invalid(
        `the tool "${name}" needs approval, for which code cannot wait: give it to the model itself`,
      );
    }
    const schema = ai.asSchema(tool.inputSchema);
    functions.set(name, { tool, schema, jsonSchema: await schema.jsonSchema });
  }
  return functions;
}

function toolOf(config, isSession, run) {
  return ai.tool({
    description:
      config.description ??
      guest.describe(config.runtime, config.language, config.tools, isSession),
    inputSchema: ai.jsonSchema(
      {
        type: 'object',
        properties: { code: { type: 'string', description: 'The code to run.' } },
        required: ['code'],
        additionalProperties: false,
      },
      {
        validate: (value) =>
          typeof value?.code === 'string'
            ? { success: true, value: { code: value.code } }
            : { success: false, error: new TypeError('code must be a string') },
      },
    ),
    execute: ({ code }, call) => run(code, call),
    toModelOutput: ({ output }) => modelOutput(output),
  });
}

/** Creates a sandbox whose code calls the tools on behalf of the call that runs. */
async function start(config, running) {
  const template = await shared.templateOf(config.template, config.runtime);
  const calls = { count: 0 };
  const sandbox = await template.create({
    ...config.sandbox,
    hostcalls: { tool: (payload) => callTool(config, running.call, calls, payload) },
  });
  try {
    const signal = running.call.abortSignal;
    await sandbox.start({ signal });
    await sandbox.loadScript(guest.script(config.language, [...config.tools.keys()]), {
      name: config.language === 'python' ? 'tools.py' : 'tools.js',
      signal,
    });
    return sandbox;
  } catch (error) {
    sandbox.close();
    throw abortReason(running.call, error);
  }
}

/** Runs code, and returns what a model can read. Throws only if the call was aborted. */
async function execute(config, sandbox, code, { abortSignal }) {
  const output = { result: null, images: [], stdout: '', stderr: '' };
  const add = (name) => (text) => {
    output[name] += text;
  };
  try {
    const execution = await sandbox.runCode(code, {
      timeoutMs: config.timeoutMs,
      cpuTimeoutMs: config.cpuTimeoutMs,
      signal: abortSignal,
      onStdout: add('stdout'),
      onStderr: add('stderr'),
    });
    const texts = execution.results.map((shown) => shown.text).filter((text) => text !== null);
    if (texts.length > 0) output.result = texts.join('\n');
    output.images = execution.results.flatMap((shown) => shown.png ?? []);
    if (execution.error !== null) {
      output.error = failure(config, execution.error);
    }
  } catch (error) {
    const cause = abortReason({ abortSignal }, error);
    if (!(cause instanceof isola.IsolaError)) throw cause;
    const message = shared.explain(cause);
    output.error = { name: cause.name, message, traceback: `${cause.name}: ${message}` };
  }
  for (const name of ['result', 'stdout', 'stderr']) {
    if (output[name]) output[name] = shortened(output[name], config.maxOutputChars);
  }
  if (output.error) {
    output.error.message = shortened(output.error.message, config.maxOutputChars);
    output.error.traceback = shortened(output.error.traceback, config.maxOutputChars);
  }
  return output;
}

/** Returns an exception of the code as output. */
function failure(config, { name, value, traceback }) {
  if (name === 'TimeoutError' && traceback.trimEnd().endsWith('KeyboardInterrupt')) {
    const message = `the code took longer than ${config.timeoutMs} ms, and was interrupted`;
    return { name, message, traceback: `TimeoutError: ${message}` };
  }
  return { name, message: value, traceback: traceback || `${name}: ${value}` };
}

/** Calls a tool. The payload comes from the guest, and is untrusted. */
async function callTool(config, call, calls, payload) {
  const { name, input } = payload ?? {};
  const found = typeof name === 'string' ? config.tools.get(name) : undefined;
  if (found === undefined) throw new Error(`there is no tool ${errors.shown(name)}`);
  if (call === undefined) throw new Error('the call has ended');
  let value = input ?? {};
  if (found.schema.validate) {
    const checked = await found.schema.validate(value);
    if (!checked.success) {
      throw new Error(`invalid input of the tool ${name}: ${checked.error.message}`);
    }
    value = checked.value;
  }
  calls.count += 1;
  const options = { ...call, toolCallId: `${call.toolCallId}-${calls.count}` };
  const result = await found.tool.execute(value, options);
  if (typeof result?.[Symbol.asyncIterator] !== 'function') return result ?? null;
  // A tool may yield preliminary results; the last one is its result.
  let latest = null;
  for await (const part of result) latest = part ?? null;
  return latest;
}

/** Returns the reason of the caller if a call was aborted, and else the error. */
function abortReason({ abortSignal }, error) {
  return abortSignal?.aborted ? abortSignal.reason : error;
}

/** Returns a result, or rejects when a call is aborted that still waits for its turn. */
function unlessAborted(result, signal) {
  if (!signal) return result;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    result.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

async function isStopped(sandbox) {
  try {
    await sandbox.contexts.list();
    return false;
  } catch {
    return true;
  }
}

function modelOutput(output) {
  const { result, images, stdout, stderr, error } = output;
  const parts = [stdout, stderr, result ?? '', error?.traceback ?? ''].map((part) =>
    part.trimEnd(),
  );
  // Code of a sandbox that was stopped has no traceback, but a reason.
  const text = parts.filter((part) => part !== '').join('\n') || '(no output)';
  if (error) return { type: 'error-text', value: text };
  if (images.length === 0) return { type: 'text', value: text };
  const files = images.map((data) => ({
    type: 'file',
    mediaType: 'image/png',
    data: { type: 'data', data },
  }));
  return { type: 'content', value: [{ type: 'text', text }, ...files] };
}

function shortened(text, maxChars) {
  if (text.length <= maxChars) return text;
  const half = Math.ceil(maxChars / 2);
  const omitted = text.length - 2 * half;
  return `${text.slice(0, half)}\n[... ${omitted} characters ...]\n${text.slice(-half)}`;
}
