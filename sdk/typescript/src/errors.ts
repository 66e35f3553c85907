/** The exceptions of the package. */

// A program can load the package twice, as an ES module and as CommonJS. `instanceof` works
// for the errors of both, since it looks for this property.
const CLASSES = Symbol.for('@isorun/sdk.errorClasses');

function isInstance(value: unknown, name: string): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const classes: unknown = (value as Record<symbol, unknown>)[CLASSES];
  return Array.isArray(classes) && classes.includes(name);
}

/** What is known about an error, besides its message. */
export interface ErrorDetails {
  code?: number | undefined;
  kind?: string | undefined;
  cause?: unknown;
}

/**
 * A request failed: it was invalid, or the server rejected it or failed.
 *
 * Many errors share a `code`; `kind` tells them apart, and does not change when the message
 * does.
 */
export class IsorunError extends Error {
  /** The HTTP status, such as 404; undefined without a response. */
  readonly code: number | undefined;
  /**
   * The name of the error, such as `run_not_found`: the `code` in the body of the response.
   * Undefined without a response, or if it is of a proxy. `too_large` is also the name of the
   * error of a `download` that exceeds its limit.
   */
  readonly kind: string | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.kind = details.kind;
  }

  static {
    this.prototype.name = 'IsorunError';
    mark(this.prototype, ['IsorunError']);
  }

  /** The HTTP status: the same as `code`, whose name is that of the Python package. */
  get status(): number | undefined {
    return this.code;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // A subclass that a program defines is compared as usual.
    return this === IsorunError
      ? isInstance(value, 'IsorunError')
      : Function.prototype[Symbol.hasInstance].call(this, value);
  }
}

/** A command, or another operation, took longer than its timeout. */
export class IsorunTimeoutError extends IsorunError {
  /** The output of the command until then. */
  readonly stdout: string;
  /** The standard error of the command until then. */
  readonly stderr: string;

  constructor(message: string, details: ErrorDetails & { stdout?: string; stderr?: string } = {}) {
    super(message, details);
    this.stdout = details.stdout ?? '';
    this.stderr = details.stderr ?? '';
  }

  static {
    this.prototype.name = 'IsorunTimeoutError';
    mark(this.prototype, ['IsorunError', 'IsorunTimeoutError']);
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return this === IsorunTimeoutError
      ? isInstance(value, 'IsorunTimeoutError')
      : Function.prototype[Symbol.hasInstance].call(this, value);
  }
}

/** The server cannot be reached, or the connection to it failed. */
export class IsorunConnectionError extends IsorunError {
  static {
    this.prototype.name = 'IsorunConnectionError';
    mark(this.prototype, ['IsorunError', 'IsorunConnectionError']);
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return this === IsorunConnectionError
      ? isInstance(value, 'IsorunConnectionError')
      : Function.prototype[Symbol.hasInstance].call(this, value);
  }
}

function mark(prototype: object, classes: readonly string[]): void {
  Object.defineProperty(prototype, CLASSES, { value: classes });
}
