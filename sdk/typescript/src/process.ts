/** A command whose input and output are streams of bytes, over a WebSocket. */

import { onAbort } from './abort.js';
import { IsorunConnectionError, IsorunError } from './errors.js';
import { type JsonObject, numberOf, parseObject, stringOf } from './json.js';
import type { CommandOptions } from './options.js';
import { commandBody, failure, invalidResponse } from './protocol.js';
import { ShellSocket } from './shell-socket.js';
import type { Transport } from './transport.js';

/** The output that waits for a reader, of each stream in bytes, before the command is slowed. */
const MAX_QUEUED_BYTES = 8 << 20;
/** The size of a message with input, in bytes. */
const INPUT_BYTES = 64 << 10;
/** The server disconnects a client that is silent for a minute. */
const KEEP_ALIVE_MS = 15_000;
/** Why a process that was killed ends, and its exit code: that of a shell for SIGKILL. */
const KILLED = Symbol('killed');
const EXIT_OF_KILLED = 128 + 9;

/** A command that is started, and what applies to it. */
export interface Start {
  readonly command: string;
  readonly cwd: string;
  readonly env: CommandOptions['env'];
  /** Whether its standard input stays open. */
  readonly hasInput: boolean;
  readonly signal: AbortSignal | undefined;
}

/** The end of one stream of output. */
interface Output {
  readonly stream: ReadableStream<Uint8Array>;
  readonly controller: ReadableStreamDefaultController<Uint8Array>;
  /** Wakes the function that waits for the reader. */
  wake: (() => void) | undefined;
  isCancelled: boolean;
}

/** A command that runs in a sandbox. It is killed if the connection to the server ends. */
export class Process {
  readonly #socket: ShellSocket;
  readonly #signal: AbortSignal | undefined;
  readonly #outputs: readonly [Output, Output];
  readonly #ended: Promise<number>;
  /** The input, if it stays open. */
  readonly input: WritableStream<Uint8Array> | undefined;
  readonly #controller = new AbortController();
  #isOver = false;

  private constructor(socket: ShellSocket, start: Start) {
    this.#socket = socket;
    this.#signal = start.signal;
    this.#outputs = [output(), output()];
    this.input = start.hasInput ? this.#writable() : undefined;
    this.#ended = this.#run();
    // The program may look at the end later, or never.
    this.#ended.catch(() => {});
  }

  /** Starts a command. */
  static async start(transport: Transport, run: string, start: Start): Promise<Process> {
    const { target } = transport;
    const url = `ws${target.url.slice('http'.length)}/v1/runs/${run}/exec/attach`;
    const socket = await ShellSocket.connect(target, url, start.signal);
    const { command, cwd, env } = start;
    socket.send(JSON.stringify(commandBody({ command, timeout: 0, cwd, env })));
    if (!start.hasInput) socket.send(END_OF_INPUT);
    return new Process(socket, start);
  }

  get stdout(): ReadableStream<Uint8Array> {
    return this.#outputs[0].stream;
  }

  get stderr(): ReadableStream<Uint8Array> {
    return this.#outputs[1].stream;
  }

  /** Returns the exit code, after the end. */
  wait(): Promise<number> {
    return this.#ended;
  }

  /**
   * Kills all processes of the command. The server does so when the connection ends; a signal
   * would only reach those in the process group of the command.
   */
  async kill(): Promise<void> {
    this.#stop(KILLED);
    await this.#ended.catch(() => {});
  }

  async #run(): Promise<number> {
    const signal = this.#signal;
    const abort = (): void => this.#stop(signal?.reason);
    const removeListener = onAbort(signal, abort);
    try {
      if (signal?.aborted) abort();
      const exitCode = await this.#follow();
      this.#finish();
      return exitCode;
    } catch (caught) {
      if (caught === KILLED) {
        this.#finish();
        return EXIT_OF_KILLED;
      }
      const error = named(caught);
      this.#isOver = true;
      for (const { controller } of this.#outputs) controller.error(error);
      throw error;
    } finally {
      removeListener();
      await this.#socket.close();
    }
  }

  /** Ends the wait for output, and for its readers. */
  #stop(reason: unknown): void {
    this.#controller.abort(reason);
    for (const { wake } of this.#outputs) wake?.();
  }

  #finish(): void {
    this.#isOver = true;
    for (const { controller, isCancelled } of this.#outputs) {
      if (!isCancelled) controller.close();
    }
  }

  async #follow(): Promise<number> {
    for (;;) {
      const frame = await this.#socket.receive(undefined, this.#controller.signal);
      if (typeof frame === 'string') {
        const exitCode = parseEnd(frame);
        if (exitCode !== undefined) return exitCode;
        continue;
      }
      const output = frame[0] === 1 || frame[0] === 2 ? this.#outputs[frame[0] - 1] : undefined;
      if (output === undefined) throw new IsorunError('the server sent an invalid frame');
      if (output.isCancelled) continue;
      output.controller.enqueue(new Uint8Array(frame.subarray(1)));
      await this.#untilRead(output);
    }
  }

  /** Waits until a reader has taken enough of the output. */
  async #untilRead(output: Output): Promise<void> {
    const { signal } = this.#controller;
    const isFull = (): boolean =>
      !signal.aborted && !output.isCancelled && (output.controller.desiredSize ?? 0) <= 0;
    if (!isFull()) return;
    const timer = setInterval(() => this.#socket.keepAlive(), KEEP_ALIVE_MS);
    timer.unref();
    try {
      while (isFull()) {
        await new Promise<void>((resolve) => {
          output.wake = resolve;
        });
      }
    } finally {
      clearInterval(timer);
      output.wake = undefined;
    }
  }

  #writable(): WritableStream<Uint8Array> {
    const end = (): void => {
      if (!this.#isOver) this.#socket.send(END_OF_INPUT);
    };
    return new WritableStream<Uint8Array>({
      write: async (chunk) => {
        for (let at = 0; at < chunk.byteLength; at += INPUT_BYTES) {
          if (this.#isOver)
            throw new IsorunError('the input cannot be written: the command has ended');
          await this.#socket.sendBytes(chunk.subarray(at, at + INPUT_BYTES));
        }
      },
      close: end,
      abort: end,
    });
  }
}

const END_OF_INPUT = JSON.stringify({ type: 'eof' });

function output(): Output {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  const stream = new ReadableStream<Uint8Array>(
    {
      start: (given) => {
        controller = given;
      },
      pull: () => made.wake?.(),
      cancel: () => {
        made.isCancelled = true;
        made.wake?.();
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: MAX_QUEUED_BYTES }),
  );
  if (controller === undefined) throw new TypeError('a stream starts when it is created');
  const made: Output = { stream, controller, wake: undefined, isCancelled: false };
  return made;
}

/** Returns the error of a connection, which is not that of a shell here. */
function named(error: unknown): unknown {
  if (!(error instanceof IsorunConnectionError)) return error;
  const text = error.message.replace('connection to the shell', 'connection to the process');
  return new IsorunConnectionError(text, { cause: error.cause });
}

/** Returns the exit code in a last frame, or throws the error in it. */
function parseEnd(frame: string): number | undefined {
  let event: JsonObject;
  let message: string;
  let kind: string;
  try {
    event = parseObject(frame);
    const type = stringOf(event, 'type');
    if (type === 'exit') return numberOf(event, 'exit_code');
    // A message of a later server, which this client does not know.
    if (type !== 'error') return undefined;
    message = stringOf(event, 'error');
    kind = stringOf(event, 'code');
  } catch (error) {
    throw invalidResponse(frame, error);
  }
  throw failure(message, event['status'], kind);
}
