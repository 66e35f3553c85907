'use strict';

// One class for each kind of error, and a table that maps the error codes of the
// crate `isola` to the classes.

/** The base of all errors of this package. */
class IsolaError extends Error {
  /**
   * @param {string} message
   * @param {{ code?: string, exception?: object, cause?: unknown }} [details]
   */
  constructor(message, { code = 'internal', exception, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    /** The stable code of the kind of error. */
    this.code = code;
    if (exception) {
      /** The guest's exception, if it caused this error. */
      this.exception = exception;
    }
  }
}

// A name on the prototype is used by `toString` and in stack traces, and is not
// listed among the properties of a printed error.
function named(parent, name) {
  const type = { [name]: class extends parent {} }[name];
  setName(type);
  return type;
}

function setName(type) {
  Object.defineProperty(type.prototype, 'name', {
    value: type.name,
    configurable: true,
    writable: true,
  });
}

setName(IsolaError);

const AbortError = named(IsolaError, 'AbortError');
const BusyError = named(IsolaError, 'BusyError');
const ClosedError = named(IsolaError, 'ClosedError');
const DownloadError = named(IsolaError, 'DownloadError');
/** An operation of the caller on a file of a sandbox failed. */
class FileError extends IsolaError {
  /**
   * @param {string} message
   * @param {{ code?: string, file?: { reason: string, path: string } }} [details]
   */
  constructor(message, { code = 'file', file } = {}) {
    super(message, { code });
    /** The name of the error number, such as `ENOENT`. */
    this.reason = file?.reason;
    /** The path as it was passed, in the sandbox. */
    this.path = file?.path;
  }
}
setName(FileError);

const GuestError = named(IsolaError, 'GuestError');
const InternalError = named(IsolaError, 'InternalError');
const InvalidArgumentError = named(IsolaError, 'InvalidArgumentError');
const LimitError = named(IsolaError, 'LimitError');
const NotPendingError = named(IsolaError, 'NotPendingError');
const NotRunningError = named(IsolaError, 'NotRunningError');
const SnapshotError = named(IsolaError, 'SnapshotError');
const StreamClosedError = named(IsolaError, 'StreamClosedError');
const StreamFullError = named(IsolaError, 'StreamFullError');
// Faults of the guest, too.
const CrashError = named(GuestError, 'CrashError');
const HostcallError = named(GuestError, 'HostcallError');

// Each code has one class. `crates/isola/api.json` has the same table, for all languages.
const CLASSES = new Map([
  ['aborted', AbortError],
  ['busy', BusyError],
  ['closed', ClosedError],
  ['cpu_time_limit', LimitError],
  ['crash', CrashError],
  ['download_failed', DownloadError],
  ['download_refused', DownloadError],
  ['file', FileError],
  ['guest_exception', GuestError],
  ['handle_limit', LimitError],
  ['hostcall_failed', HostcallError],
  ['internal', InternalError],
  ['invalid_argument', InvalidArgumentError],
  ['memory_limit', LimitError],
  ['not_pending', NotPendingError],
  ['not_running', NotRunningError],
  ['output_limit', LimitError],
  ['recursion_limit', LimitError],
  ['snapshot_refused', SnapshotError],
  ['stream_closed', StreamClosedError],
  ['stream_full', StreamFullError],
  ['value_size_limit', LimitError],
  ['wall_time_limit', LimitError],
]);

/** Creates the error for a failure that the native part returned. */
function fromFailure({ code, message, exception, file }) {
  const Type = CLASSES.get(code) ?? InternalError;
  return new Type(message, { code, exception, file });
}

/** Creates the error for an invalid argument of the caller. */
function invalid(message, cause) {
  return new InvalidArgumentError(message, { code: 'invalid_argument', cause });
}

/** Creates the error of a call that the caller's signal aborted. */
function aborted(signal) {
  return new AbortError('the call was aborted', { code: 'aborted', cause: signal.reason });
}

/** Creates the error of a sandbox or context that its owner closed. */
function closed(what) {
  return new ClosedError(`${what} is closed: its owner closed it`, { code: 'closed' });
}

// The messages of these two are the same as in the crate `isola`.

function busy() {
  return new BusyError('sandbox is busy', { code: 'busy' });
}

function notPending() {
  return new NotPendingError('sandbox is not in pending state', { code: 'not_pending' });
}

/** Creates the error of a stream argument that takes no more values. */
function streamClosed(why) {
  return new StreamClosedError(why, { code: 'stream_closed' });
}

/** Creates the error of a stream argument that has no room for a value. */
function streamFull(capacity) {
  return new StreamFullError(
    `the stream is full: the guest has not read ${capacity} values yet; send waits for room`,
    { code: 'stream_full' },
  );
}

/** Returns a value as the messages of errors show it. */
function shown(value) {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object') return 'an object';
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

module.exports = {
  busy,
  notPending,
  classOfCode: CLASSES,
  classes: {
    IsolaError,
    AbortError,
    BusyError,
    ClosedError,
    CrashError,
    DownloadError,
    FileError,
    GuestError,
    HostcallError,
    InternalError,
    InvalidArgumentError,
    LimitError,
    NotPendingError,
    NotRunningError,
    SnapshotError,
    StreamClosedError,
    StreamFullError,
  },
  fromFailure,
  invalid,
  aborted,
  closed,
  streamClosed,
  streamFull,
  shown,
};
