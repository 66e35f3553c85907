import core from './index.js';

export const {
  buildTemplate,
  SandboxContext,
  SandboxTemplate,
  Sandbox,
  Snapshot,
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
  SnapshotError,
} = core;
