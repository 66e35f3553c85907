import type {
  ConnectorBinding,
  ExecuteOptions,
  ExecuteResult,
  Executor,
  ResolvedProvider,
} from '@cloudflare/codemode';

import type { AdapterOptions } from './shared.js';

/** Options of an `IsolaExecutor`. */
export interface IsolaExecutorOptions extends AdapterOptions {
  /** The wall time of one execution in milliseconds, tools included. Default: 60,000. */
  timeoutMs?: number;
  /** The CPU time of one execution in milliseconds. Default: 30,000. */
  cpuTimeoutMs?: number;
}

/** Options of one execution. */
export interface IsolaExecuteOptions extends ExecuteOptions {
  connectors?: ConnectorBinding[];
  /** A signal that stops the execution. */
  signal?: AbortSignal;
}

/**
 * An `Executor` that runs each piece of code in its own JavaScript sandbox of isola, where it
 * reaches nothing but the functions of its providers. It can be used by any number of requests
 * at once.
 */
export class IsolaExecutor implements Executor {
  constructor(options?: IsolaExecutorOptions);
  /**
   * Runs code: a function, or the statements of one. It never throws: an error of the code or
   * a limit is `error`, as a text for the model.
   */
  execute(
    code: string,
    providersOrFns: ResolvedProvider[] | Record<string, (...args: unknown[]) => Promise<unknown>>,
    options?: IsolaExecuteOptions,
  ): Promise<ExecuteResult>;
}
