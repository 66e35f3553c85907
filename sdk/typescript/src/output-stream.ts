/** Output that is read while it arrives, and the result after its end. */

import { onAbort } from './abort.js';
import { IsorunError } from './errors.js';

/** Starts the work, whose events are passed to `listen` one after the other. */
type Start<E, T> = (listen: (event: E) => Promise<void>, signal: AbortSignal) => Promise<T>;

/**
 * The output of a command or of a cell of code.
 *
 *     const stream = sb.execStream('make');
 *     for await (const { type, text } of stream) process[type].write(text);
 *     const { exitCode } = await stream.result();
 *
 * It starts when it is read for the first time: by iteration, which can be done once, or by
 * `result`. The command is slowed to the speed of the loop. Leaving the loop early ends the
 * command.
 */
export class OutputStream<E, T> implements AsyncIterable<E> {
  readonly #start: Start<E, T>;
  readonly #signal: AbortSignal | undefined;
  readonly #controller = new AbortController();
  #outcome: Promise<T> | undefined;
  #isIterated = false;
  /** The event that has not been read yet. */
  #event: { readonly value: E } | undefined;
  /** Lets the work continue after an event. */
  #proceed: (() => void) | undefined;
  /** Wakes the iterator. */
  #wake: (() => void) | undefined;

  /** @internal Streams are created by the methods of a sandbox or a shell. */
  constructor(start: Start<E, T>, signal?: AbortSignal) {
    this.#start = start;
    this.#signal = signal;
  }

  /** Returns the result, after the end. Output that no loop has read is part of it, too. */
  result(): Promise<T> {
    this.#outcome ??= this.#run(async () => {});
    return this.#outcome;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<E, void, undefined> {
    if (this.#isIterated || this.#outcome !== undefined) {
      throw new IsorunError('the stream is being read already: it can be iterated once');
    }
    this.#isIterated = true;
    let isOver = false;
    const outcome = this.#run((value) => this.#offer(value));
    this.#outcome = outcome;
    const end = (): void => {
      isOver = true;
      this.#wake?.();
    };
    outcome.then(end, end);
    try {
      for (;;) {
        if (this.#event !== undefined) {
          const { value } = this.#event;
          this.#event = undefined;
          yield value;
          this.#proceed?.();
        } else if (isOver) {
          break;
        } else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
        }
      }
      await outcome;
    } finally {
      if (!isOver) {
        const reason = 'the loop over the output was left before its end';
        this.#controller.abort(new DOMException(reason, 'AbortError'));
        await outcome.catch(() => {});
      }
    }
  }

  #offer(value: E): Promise<void> {
    return new Promise((resolve) => {
      this.#event = { value };
      this.#proceed = resolve;
      this.#wake?.();
    });
  }

  async #run(listen: (event: E) => Promise<void>): Promise<T> {
    const signal = this.#signal;
    const abort = (): void => this.#controller.abort(signal?.reason);
    if (signal?.aborted) abort();
    const forgetSignal = onAbort(signal, abort);
    this.#controller.signal.addEventListener('abort', () => this.#proceed?.());
    try {
      return await this.#start(listen, this.#controller.signal);
    } finally {
      forgetSignal();
    }
  }
}
