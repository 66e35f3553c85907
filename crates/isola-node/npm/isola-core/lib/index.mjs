import core from './index.js';

export const {
  buildTemplate,
  SandboxContext,
  SandboxTemplate,
  Sandbox,
  Arg,
  IsolaError,
  AbortError,
  BusyError,
  ClosedError,
  CrashError,
  DownloadError,
  GuestError,
  HostcallError,
  InternalError,
  InvalidArgumentError,
  LimitError,
  NotPendingError,
  NotRunningError,
} = core;
