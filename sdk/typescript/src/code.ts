/** The results of code that runs in a context. */

const CHART = 'application/vnd.isorun.chart+json';

/** A value that a cell has shown, in one or more MIME types. */
export class Result {
  /**
   * MIME types and their data: base64 for binary types such as `image/png`, JSON values for JSON
   * types, text for all others.
   */
  readonly data: Readonly<Record<string, unknown>>;
  /** `omitted` names types that were too large, and `errors` types that could not be made. */
  readonly metadata: Readonly<Record<string, unknown>>;
  /** True for the value of the last expression. */
  readonly isMainResult: boolean;

  constructor(
    data: Readonly<Record<string, unknown>>,
    metadata: Readonly<Record<string, unknown>> = {},
    isMainResult = false,
  ) {
    this.data = data;
    this.metadata = metadata;
    this.isMainResult = isMainResult;
  }

  /** The type `text/plain`. */
  get text(): string | undefined {
    return this.#text('text/plain');
  }

  /** The type `text/html`. */
  get html(): string | undefined {
    return this.#text('text/html');
  }

  /** The type `text/markdown`. */
  get markdown(): string | undefined {
    return this.#text('text/markdown');
  }

  /** The type `image/svg+xml`. */
  get svg(): string | undefined {
    return this.#text('image/svg+xml');
  }

  /** The type `image/png`, as base64. */
  get png(): string | undefined {
    return this.#text('image/png');
  }

  /** The type `image/jpeg`, as base64. */
  get jpeg(): string | undefined {
    return this.#text('image/jpeg');
  }

  /** The type `text/latex`. */
  get latex(): string | undefined {
    return this.#text('text/latex');
  }

  /** The type `application/json`, as a value. */
  get json(): unknown {
    return this.data['application/json'];
  }

  /** The data of a chart: the type `application/vnd.isorun.chart+json`. */
  get chart(): unknown {
    return this.data[CHART];
  }

  /** Returns the MIME types. */
  formats(): string[] {
    return Object.keys(this.data);
  }

  /** Returns the result in the form of the HTTP API. */
  toJSON(): unknown {
    return { data: this.data, metadata: this.metadata, is_main_result: this.isMainResult };
  }

  #text(mime: string): string | undefined {
    const text = this.data[mime];
    return typeof text === 'string' ? text : undefined;
  }
}

/** The output of a cell, as pieces of text. */
export interface Logs {
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
}

/** The error that ended a cell. It is not an exception of this package. */
export interface ExecutionError {
  /**
   * The name of the exception; `TimeoutError` after a timeout, `ContextDied` if the interpreter
   * has exited.
   */
  readonly name: string;
  /** Its message. */
  readonly value: string;
  /** The traceback as in a terminal; may be empty. */
  readonly traceback: string;
}

/** The result of a cell. */
export class Execution {
  /** The results in the order in which they were shown. */
  readonly results: readonly Result[];
  readonly logs: Logs;
  readonly error: ExecutionError | undefined;
  /** The number of the cell in its context, from 1. */
  readonly executionCount: number;

  constructor(
    results: readonly Result[],
    logs: Logs,
    error: ExecutionError | undefined,
    executionCount: number,
  ) {
    this.results = results;
    this.logs = logs;
    this.error = error;
    this.executionCount = executionCount;
  }

  /** The value of the last expression as text; undefined if it has none. */
  get text(): string | undefined {
    return this.results.find((result) => result.isMainResult)?.text;
  }

  /** Returns the execution in the form of the HTTP API. `JSON.stringify` calls it. */
  toJSON(): unknown {
    return {
      results: this.results,
      logs: this.logs,
      error: this.error ?? null,
      execution_count: this.executionCount,
    };
  }
}

/** What happens while a cell runs. */
export type CodeEvent =
  | { readonly type: 'stdout' | 'stderr'; readonly text: string }
  | { readonly type: 'result'; readonly result: Result }
  | { readonly type: 'error'; readonly error: ExecutionError };

/** A context: an interpreter that keeps its state from cell to cell. */
export interface Context {
  readonly id: string;
  readonly language: string;
  /** The initial working directory; empty for that of the user. */
  readonly cwd: string;
  /**
   * `idle`, `busy`, or `dead`: then the next cell starts another interpreter, without the
   * variables.
   */
  readonly status: string;
  /** The number of cells that were started since its interpreter was. */
  readonly executionCount: number;
  /** The program that runs its cells: `python` or `node`, or the name of a Jupyter kernel. */
  readonly kernel: string;
}
