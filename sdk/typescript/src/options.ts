/** The options of calls. */

/** What every call accepts. */
export interface CallOptions {
  /** Cancels the call, which then rejects with the reason of the signal. */
  signal?: AbortSignal | undefined;
}

/** The server of a call. */
export interface ServerOptions extends CallOptions {
  /** The URL of the server; by default `ISORUN_API_URL`, or that of this machine's server. */
  apiUrl?: string | undefined;
  /** The API key; by default `ISORUN_API_KEY`, or that of this machine's server. */
  apiKey?: string | undefined;
}

/** The egress policy of a sandbox: a profile, or lists of rules. */
export type NetworkOptions =
  | {
      /** `default`, `locked-down` or `internet`. */
      networkProfile?: string | undefined;
      allow?: undefined;
      deny?: undefined;
    }
  | {
      networkProfile?: undefined;
      /** The allowed destinations. */
      allow?: readonly string[] | undefined;
      /** The denied destinations. */
      deny?: readonly string[] | undefined;
    };

/** The options of a new sandbox, without those of its network. */
export interface SandboxOptions extends ServerOptions {
  /**
   * Any OCI image, or `host`: the server's own programs, read-only; or an interpreter:
   * `isola:python`, `isola:python-data` or `isola:js`.
   */
  image: string;
  /** The number of virtual CPUs; 1 by default. */
  vcpus?: number | undefined;
  /** The memory in MiB; 1024 by default, and 256 for an interpreter. */
  memMib?: number | undefined;
  /**
   * The limit of the sandbox's writable disk space, in MiB; 10240 by default, and 64 for an
   * interpreter, whose files are in memory.
   */
  diskMib?: number | undefined;
  /** The default timeout of a command in seconds, 30 by default; 0 or -1 for no timeout. */
  timeout?: number | undefined;
  /**
   * The time without activity, in seconds, after which the sandbox is destroyed or hibernated,
   * 300 by default; 0 or -1 for never.
   */
  sandboxTimeout?: number | undefined;
  /** The environment variables of every command. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Secrets that stay outside of the sandbox, by service name. */
  credentials?: Readonly<Record<string, unknown>> | undefined;
  /** The action after `sandboxTimeout`; `destroy` by default. */
  onIdle?: 'destroy' | 'hibernate' | undefined;
  /**
   * Whether a command or a file operation resumes a hibernated sandbox. Otherwise it is an
   * error.
   */
  autoResume?: boolean | undefined;
}

/** The options of a new sandbox. */
export type CreateOptions = SandboxOptions & NetworkOptions;

/** The options of a sandbox that exists already. */
export interface ConnectOptions extends ServerOptions {
  /** The default timeout of a command in seconds, 30 by default; 0 or -1 for no timeout. */
  timeout?: number | undefined;
}

/** The options of a sandbox that continues from a snapshot. */
export type RestoreOptions = ConnectOptions;

/** The options of a command whose output is read as a stream. */
export interface StreamOptions extends CallOptions {
  /**
   * The timeout in seconds; 0 or -1 for no timeout. The default is that of the sandbox.
   */
  timeout?: number | undefined;
}

/**
 * The options of a command in a shell. The callbacks are called for each piece of output as it
 * arrives, and awaited if they are asynchronous. If one throws, the command is killed.
 */
export interface OutputOptions extends StreamOptions {
  onStdout?: ((text: string) => unknown) | undefined;
  onStderr?: ((text: string) => unknown) | undefined;
}

/** The options of a command that has its own environment, directory and input. */
export interface CommandOptions extends StreamOptions {
  /** Additional environment variables of this command. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Its working directory, an absolute path; by default that of the image. */
  cwd?: string | undefined;
  /**
   * The content of its standard input; empty by default. A request has at most 1 MiB: write more
   * than that into a file.
   */
  stdin?: string | undefined;
}

/** The options of a command whose output callbacks can get as it arrives. */
export interface ExecOptions extends CommandOptions, OutputOptions {}

/** The options of a file that is read. */
export interface DownloadOptions extends CallOptions {
  /**
   * The largest size to accept, in bytes. A longer file is an error of the kind `too_large`, and
   * is not read to its end.
   */
  maxBytes?: number | undefined;
}

/** The options of a file that is written. */
export interface WriteBytesOptions extends CallOptions {
  /** The permissions, such as `0o755`; by default those of the file that exists, or 644. */
  mode?: number | undefined;
}
