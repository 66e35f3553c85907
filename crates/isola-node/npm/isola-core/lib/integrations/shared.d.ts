import type { HttpHandler, Limits, MountConfig, SandboxTemplate } from '../index.js';

/** The options of sandboxes that all adapters have. */
export interface AdapterOptions {
  /** The template. By default one is built when it is first needed, and shared. */
  template?: SandboxTemplate;
  /** The memory limit of a sandbox, in bytes. */
  maxMemory?: number;
  /** The size of a sandbox's files, in bytes; 0 for none. */
  maxStorage?: number;
  limits?: Limits;
  mounts?: MountConfig[];
  env?: Record<string, string>;
  /** Outgoing HTTP: `true` for Node's `fetch`, or a handler. Default: no HTTP. */
  http?: boolean | HttpHandler | null;
}
