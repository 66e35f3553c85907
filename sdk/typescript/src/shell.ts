/** The class `Shell`: a bash session in a sandbox. */

import { onAbort } from './abort.js';
import type { Target } from './config.js';
import { IsorunConnectionError, IsorunError, IsorunTimeoutError } from './errors.js';
import type { CallOptions, OutputOptions, StreamOptions } from './options.js';
import { OutputStream } from './output-stream.js';
import { DEFAULT_TIMEOUT, finite, RESPONSE_GRACE } from './protocol.js';
import { address, connectionLost, ShellState } from './shell-protocol.js';
import { ShellSocket } from './shell-socket.js';
import type { ExecOutput, ExecResult } from './types.js';

/** The time for a shell to end, in seconds. */
const CLOSE_GRACE = 5;

/** How a shell is opened. */
export interface ShellOptions {
  /**
   * The `session` of an existing shell to attach to: one that lost its connection, or one of the
   * sandbox from which this one was forked.
   */
  session?: string | undefined;
  /** The working directory in which the shell starts. */
  cwd?: string | undefined;
}

/**
 * A bash session, which runs commands one after the other and keeps its state.
 *
 * It is opened on first use. `await using` closes it at the end of its block.
 */
export class Shell {
  readonly #target: Target;
  readonly #run: string;
  readonly #timeout: number;
  readonly #cwd: string | undefined;
  readonly #state: ShellState;
  #socket: ShellSocket | undefined;
  /** Settles when the last caller has left the shell. */
  #queue: Promise<void> = Promise.resolve();

  /** @internal Shells are created by `Sandbox.shell`. */
  constructor(target: Target, run: string, timeout: number, options: ShellOptions) {
    this.#target = target;
    this.#run = run;
    this.#timeout = timeout;
    this.#cwd = options.cwd;
    this.#state = new ShellState(options.session);
  }

  /**
   * The id of the session, to attach to it again, here or in a fork; undefined before the shell
   * is opened.
   */
  get session(): string | undefined {
    return this.#state.session;
  }

  /** True if the shell has ended. */
  get closed(): boolean {
    return this.#state.isClosed;
  }

  /**
   * Runs a command, which may have several lines.
   *
   * If it ends the shell, the result has the exit code of the shell, and no further command can
   * be run. After a timeout, which rejects with `IsorunTimeoutError`, the shell remains usable.
   * So it does after the signal has interrupted the command.
   */
  run(command: string, options: OutputOptions = {}): Promise<ExecResult> {
    const listeners = { stdout: options.onStdout, stderr: options.onStderr };
    return this.#execute(command, options.timeout, options.signal, ({ type, text }) =>
      listeners[type]?.(text),
    );
  }

  /** Runs a command, whose output is read as a stream. Leaving the loop early interrupts it. */
  runStream(command: string, options: StreamOptions = {}): OutputStream<ExecOutput, ExecResult> {
    return new OutputStream(
      (listen, signal) => this.#execute(command, options.timeout, signal, listen),
      options.signal,
    );
  }

  /** Opens the shell immediately instead of with its first command. */
  async open(options: CallOptions = {}): Promise<this> {
    await this.#exclusively(options.signal, async () => {
      this.#state.ensureOpen();
      await this.#open(options.signal);
    });
    return this;
  }

  /** Ends the shell. */
  async close(): Promise<void> {
    await this.#exclusively(undefined, async () => {
      if (this.#socket !== undefined && !this.#state.isClosed) {
        try {
          this.#socket.send('{"type":"close"}');
          const deadline = performance.now() + CLOSE_GRACE * 1000;
          while (!this.#state.isClosed) await this.#receive(deadline, undefined);
        } catch (error) {
          // The shell has ended in either case.
          if (!(error instanceof IsorunError)) throw error;
        }
      }
      this.#state.isClosed = true;
      await this.#disconnect();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #execute(
    command: string,
    timeout: number | undefined,
    signal: AbortSignal | undefined,
    listen: (output: ExecOutput) => unknown,
  ): Promise<ExecResult> {
    const seconds = finite(timeout ?? this.#timeout, 'the timeout');
    return await this.#exclusively(signal, async () => {
      this.#state.ensureOpen();
      const ended = await this.#readPending();
      if (ended !== undefined) return ended;
      await this.#open(signal);
      await this.#finishAbandoned(signal);
      this.#state.isPending = true;
      let result: ExecResult;
      try {
        this.#connected().send(this.#state.runFrame(command, seconds));
        const limit = seconds > 0 ? seconds + RESPONSE_GRACE : undefined;
        result = await this.#waitForResult(limit, signal, listen);
      } catch (error) {
        if (signal?.aborted || !(error instanceof IsorunError)) {
          // A callback has thrown, or the caller gave up: stop the command.
          this.#socket?.send('{"type":"interrupt"}');
        } else if (error instanceof IsorunTimeoutError) {
          this.#state.isPending = false;
        }
        throw error;
      }
      this.#state.isPending = false;
      if (this.#state.isClosed) await this.#disconnect();
      return result;
    });
  }

  async #open(signal: AbortSignal | undefined): Promise<void> {
    if (this.#socket !== undefined) return;
    const url = address(this.#target, this.#run, this.#state.session, this.#cwd);
    this.#socket = await ShellSocket.connect(this.#target, url, signal);
    try {
      await this.#receive(performance.now() + DEFAULT_TIMEOUT * 1000, signal);
    } catch (error) {
      await this.#disconnect();
      throw error;
    }
  }

  /**
   * Reads the frames that arrived since the last command. If the sandbox was hibernated, the
   * shell is attached to again later. If the shell has ended, its result is returned.
   */
  async #readPending(): Promise<ExecResult | undefined> {
    while (this.#socket !== undefined && !this.#state.isPending) {
      try {
        const frame = await this.#socket.poll();
        if (frame === undefined) return undefined;
        const event = this.#state.feed(frame);
        if (event.type === 'ended' && this.#state.isClosed) {
          await this.#disconnect();
          return event.result;
        }
      } catch (error) {
        await this.#disconnect();
        if (error instanceof IsorunConnectionError) return undefined;
        if (!(error instanceof IsorunError) || error.kind !== 'run_hibernated') throw error;
      }
    }
    return undefined;
  }

  /** Waits for the end of a command that was abandoned. */
  async #finishAbandoned(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#state.isPending) return;
    try {
      await this.#waitForResult(RESPONSE_GRACE, signal, () => {});
    } catch (error) {
      if (!(error instanceof IsorunTimeoutError)) throw error;
    }
    this.#state.isPending = false;
    this.#state.discardOutput();
  }

  async #waitForResult(
    seconds: number | undefined,
    signal: AbortSignal | undefined,
    listen: (output: ExecOutput) => unknown,
  ): Promise<ExecResult> {
    const deadline = seconds === undefined ? undefined : performance.now() + seconds * 1000;
    for (;;) {
      const event = await this.#receive(deadline, signal);
      if (event.type === 'ended') return event.result;
      if ((event.type === 'stdout' || event.type === 'stderr') && event.text !== '') {
        await listen(event);
        signal?.throwIfAborted();
      }
    }
  }

  /** Receives a frame and parses it. Disconnects if it is the last one. */
  async #receive(
    deadline: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<ReturnType<ShellState['feed']>> {
    try {
      return this.#state.feed(await this.#connected().receive(deadline, signal));
    } catch (error) {
      // After a timeout of a command, or if the caller gave up, the connection continues.
      const isLast = error instanceof IsorunError && !(error instanceof IsorunTimeoutError);
      if (isLast && !signal?.aborted) await this.#disconnect();
      throw error;
    }
  }

  #connected(): ShellSocket {
    if (this.#socket === undefined) throw connectionLost('it is closed');
    return this.#socket;
  }

  async #disconnect(): Promise<void> {
    const socket = this.#socket;
    this.#socket = undefined;
    await socket?.close();
  }

  /** Runs a function when all earlier callers have left the shell. */
  async #exclusively<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const turn = this.#queue;
    let leave = (): void => {};
    this.#queue = new Promise((resolve) => {
      leave = resolve;
    });
    try {
      await unlessAborted(turn, signal);
    } catch (error) {
      // The place in the queue is given up when its turn comes.
      void turn.then(leave);
      throw error;
    }
    try {
      return await work();
    } finally {
      leave();
    }
  }
}

/** Waits for a promise that never rejects, or rejects with the reason of the signal. */
async function unlessAborted(turn: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return await turn;
  signal.throwIfAborted();
  let forgetSignal = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    forgetSignal = onAbort(signal, () => reject(signal.reason));
  });
  try {
    await Promise.race([turn, aborted]);
  } finally {
    forgetSignal();
  }
}
