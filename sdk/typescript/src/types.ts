/** The results of operations. */

/** The properties of a sandbox. */
export interface SandboxInfo {
  readonly id: string;
  readonly image: string;
  readonly vcpus: number;
  readonly memMib: number;
  readonly diskMib: number;
  /** The time that the server took to create it, in milliseconds. */
  readonly createMs: number;
  readonly status: string;
  readonly createdAt: string;
  /**
   * The template of the public URLs of its ports, with the placeholder `{port}`; empty if they
   * are disabled.
   */
  readonly portUrl: string;
}

/** The result of a command. `T` is the type of its output. */
class CommandResult<T> {
  /** The exit code, as in a shell: 128 plus the signal's number if a signal killed it. */
  readonly exitCode: number;
  readonly stdout: T;
  readonly stderr: T;
  /** True if the end of `stdout` is missing, since the server limits its size. */
  readonly stdoutTruncated: boolean;
  /** True if the end of `stderr` is missing. */
  readonly stderrTruncated: boolean;

  constructor(
    exitCode: number,
    stdout: T,
    stderr: T,
    stdoutTruncated = false,
    stderrTruncated = false,
  ) {
    this.exitCode = exitCode;
    this.stdout = stdout;
    this.stderr = stderr;
    this.stdoutTruncated = stdoutTruncated;
    this.stderrTruncated = stderrTruncated;
  }

  /** True if the command succeeded. */
  get ok(): boolean {
    return this.exitCode === 0;
  }
}

/** The result of a command. */
export class ExecResult extends CommandResult<string> {}

/** The result of a command, with its output byte for byte. */
export class ExecBytesResult extends CommandResult<Uint8Array> {}

/** A piece of a command's output. */
export interface ExecOutput {
  readonly type: 'stdout' | 'stderr';
  readonly text: string;
}

/** A snapshot on the server. */
export interface SnapshotInfo {
  readonly id: string;
  /** The id of the sandbox from which it was taken. */
  readonly runId: string;
  readonly image: string;
  /** The size on the server's disk, in bytes. */
  readonly sizeBytes: number;
  readonly createdAt: string;
}

/** The resource usage of a sandbox, from creation to destruction. */
export interface DestroyStats {
  readonly cpuMs: number;
  readonly memPeakBytes: number;
  readonly diskUsedBytes: number;
  readonly uptimeMs: number;
  readonly costCents: number;
}
