/** Requests and responses of code and contexts, without any I/O. */

import { type CodeEvent, type Context, Execution, type ExecutionError, Result } from './code.js';
import { IsorunConnectionError } from './errors.js';
import { EventStream } from './events.js';
import {
  asObject,
  type JsonObject,
  listOf,
  numberOf,
  optionalStringOf,
  parseObject,
  stringOf,
  stringsOf,
} from './json.js';
import { encodeName } from './names.js';
import {
  failure,
  finite,
  invalidResponse,
  Operation,
  parsed,
  responseTimeout,
} from './protocol.js';

/**
 * The additional time in seconds to wait for the server: the start of a kernel, and the time
 * that an interrupted cell gets.
 */
const CODE_GRACE = 90;

/** Where a cell runs. */
export interface CodePlace {
  language?: string | undefined;
  context?: string | Context | undefined;
}

export function runCode(
  run: string,
  code: string,
  place: CodePlace,
  timeout: number,
  stream: boolean,
): Operation<Execution> {
  const seconds = finite(timeout, 'the timeout');
  const body: Record<string, unknown> = { code, timeout: seconds };
  if (place.language !== undefined) body['language'] = place.language;
  if (place.context !== undefined) body['context'] = idOf(place.context);
  const path = `/v1/runs/${run}/code${stream ? '/stream' : ''}`;
  return new Operation('POST', path, execution, body, responseTimeout(seconds, CODE_GRACE));
}

export function contexts(run: string): Operation<Context[]> {
  const parse = (content: Buffer): Context[] =>
    listOf(parsed(content), 'contexts').map((body) => contextOf(asObject(body)));
  return new Operation('GET', `/v1/runs/${run}/contexts`, parse);
}

export function createContext(
  run: string,
  language: string,
  cwd: string | undefined,
): Operation<Context> {
  const body = cwd === undefined ? { language } : { language, cwd };
  return new Operation('POST', `/v1/runs/${run}/contexts`, context, body, CODE_GRACE);
}

export function restartContext(run: string, given: string | Context): Operation<Context> {
  const path = `${contextPath(run, given)}/restart`;
  return new Operation('POST', path, context, undefined, CODE_GRACE);
}

export function interruptContext(run: string, given: string | Context): Operation<void> {
  return new Operation('POST', `${contextPath(run, given)}/interrupt`, () => {});
}

export function removeContext(run: string, given: string | Context): Operation<void> {
  return new Operation('DELETE', contextPath(run, given), () => {});
}

/** A parser of the response to a streamed cell. */
export class CodeEvents extends EventStream<CodeEvent, Execution> {
  readonly #results: Result[] = [];
  readonly #logs = { stdout: [] as string[], stderr: [] as string[] };
  #error: ExecutionError | undefined;
  #count: number | undefined;

  override result(): Execution {
    if (this.#count === undefined) {
      throw new IsorunConnectionError('the connection ended before the cell did');
    }
    return new Execution(this.#results, this.#logs, this.#error, this.#count);
  }

  protected override event(data: string): CodeEvent | undefined {
    let event: JsonObject;
    let message: string;
    let name: string;
    try {
      event = parseObject(data);
      const type = stringOf(event, 'type');
      switch (type) {
        case 'stdout':
        case 'stderr': {
          const text = stringOf(event, 'text');
          this.#logs[type].push(text);
          return { type, text };
        }
        case 'result': {
          const result = resultOf(event);
          this.#results.push(result);
          return { type, result };
        }
        case 'error':
          this.#error = errorOf(event);
          return { type, error: this.#error };
        case 'end':
          this.#count = numberOf(event, 'execution_count');
          return undefined;
        case 'failure':
          message = stringOf(event, 'error');
          name = stringOf(event, 'code');
          break;
        default:
          // An event of a later server, which this client does not know.
          return undefined;
      }
    } catch (error) {
      throw invalidResponse(data, error);
    }
    throw failure(message, event['status'], name);
  }
}

export function idOf(context: string | Context): string {
  return typeof context === 'string' ? context : context.id;
}

function contextPath(run: string, context: string | Context): string {
  // Encoded, so that a text that is not an id cannot change the path.
  return `/v1/runs/${run}/contexts/${encodeName(idOf(context))}`;
}

function execution(content: Buffer): Execution {
  const body = parsed(content);
  const logs = asObject(body['logs']);
  return new Execution(
    listOf(body, 'results').map((result) => resultOf(asObject(result))),
    { stdout: stringsOf(logs, 'stdout'), stderr: stringsOf(logs, 'stderr') },
    body['error'] === null || body['error'] === undefined
      ? undefined
      : errorOf(asObject(body['error'])),
    numberOf(body, 'execution_count'),
  );
}

function resultOf(body: JsonObject): Result {
  return new Result(
    asObject(body['data']),
    asObject(body['metadata'] ?? {}),
    body['is_main_result'] === true,
  );
}

function errorOf(body: JsonObject): ExecutionError {
  return {
    name: stringOf(body, 'name'),
    value: stringOf(body, 'value'),
    traceback: optionalStringOf(body, 'traceback'),
  };
}

function context(content: Buffer): Context {
  return contextOf(parsed(content));
}

function contextOf(body: JsonObject): Context {
  return {
    id: stringOf(body, 'id'),
    language: stringOf(body, 'language'),
    cwd: optionalStringOf(body, 'cwd'),
    status: stringOf(body, 'status'),
    executionCount: numberOf(body, 'execution_count'),
    kernel: optionalStringOf(body, 'kernel'),
  };
}
