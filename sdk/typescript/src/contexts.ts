/** The contexts of a sandbox: interpreters that keep their state from cell to cell. */

import type { Context } from './code.js';
import * as protocol from './code-protocol.js';
import type { CallOptions } from './options.js';
import type { Transport } from './transport.js';

/** How a context is created. */
export interface CreateContextOptions extends CallOptions {
  /** `python` (the default), `javascript`, or that of a Jupyter kernel of the image. */
  language?: string | undefined;
  /** The working directory; by default that of the image. */
  cwd?: string | undefined;
}

/** The contexts of a sandbox, as `sandbox.contexts`. */
export class Contexts {
  readonly #transport: Transport;
  readonly #run: string;

  /** @internal Use the property `contexts` of a sandbox. */
  constructor(transport: Transport, run: string) {
    this.#transport = transport;
    this.#run = run;
  }

  /** Creates a context, with variables and a working directory of its own. */
  create(options: CreateContextOptions = {}): Promise<Context> {
    const { language = 'python', cwd, signal } = options;
    return this.#transport.send(protocol.createContext(this.#run, language, cwd), signal);
  }

  /** Returns the contexts. */
  list(options: CallOptions = {}): Promise<Context[]> {
    return this.#transport.send(protocol.contexts(this.#run), options.signal);
  }

  /** Ends the interpreter of a context, and starts another one without the variables. */
  restart(context: string | Context, options: CallOptions = {}): Promise<Context> {
    return this.#transport.send(protocol.restartContext(this.#run, context), options.signal);
  }

  /** Interrupts the cell of a context, if one runs, as Ctrl-C does. */
  interrupt(context: string | Context, options: CallOptions = {}): Promise<void> {
    return this.#transport.send(protocol.interruptContext(this.#run, context), options.signal);
  }

  /** Removes a context, and ends its interpreter. */
  remove(context: string | Context, options: CallOptions = {}): Promise<void> {
    return this.#transport.send(protocol.removeContext(this.#run, context), options.signal);
  }
}
