import type { Tool, ToolSet } from 'ai';

import type { RuntimeName } from '../index.js';
import type { AdapterOptions } from './shared.js';

/** Options of `codeTool` and `codeSession`. */
export interface CodeToolOptions extends AdapterOptions {
  /** The runtime, and that of `template`. Default: `"python"`. */
  runtime?: RuntimeName;
  /** Tools that the code can call, as functions of `tools`. */
  tools?: ToolSet;
  /** What the model is told. By default that is the language, its bounds and the tools. */
  description?: string;
  /** The wall time of one call in milliseconds, tools included. Default: 60,000. */
  timeoutMs?: number;
  /** The CPU time of one call in milliseconds. Default: 30,000. */
  cpuTimeoutMs?: number;
  /** The number of characters of each part of the output. Default: 20,000. */
  maxOutputChars?: number;
}

export interface CodeInput {
  code: string;
}

/** What code has shown. */
export interface CodeOutput {
  /** The value of the last expression and other shown values as text. */
  result: string | null;
  /** Shown pictures, PNG in base64. */
  images: string[];
  stdout: string;
  stderr: string;
  /** The exception or limit that ended the code. */
  error?: { name: string; message: string; traceback: string };
}

export type CodeTool = Tool<CodeInput, CodeOutput>;

/** A tool whose calls share one sandbox. Each conversation needs its own. */
export interface CodeSession {
  readonly tool: CodeTool;
  /** Closes the sandbox, and stops the call that runs. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Creates a tool that runs each piece of code in a sandbox of its own. It can be shared by any
 * number of conversations.
 */
export function codeTool(options?: CodeToolOptions): Promise<CodeTool>;

/** Creates a tool whose calls share one sandbox, with its variables and files. */
export function codeSession(options?: CodeToolOptions): Promise<CodeSession>;
