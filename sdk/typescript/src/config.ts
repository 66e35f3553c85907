/**
 * The address of the server, and the API key.
 *
 * The sources, in this order: the options, the environment, the file that `isorun serve` wrote
 * for its own user, the default address. The command `isorun` and the Python package use the
 * same.
 */

import { closeSync, fchmodSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { IsorunError } from './errors.js';
import { parseObject, stringOf } from './json.js';

export const DEFAULT_URL = 'http://127.0.0.1:7676';

/** The address and the API key of a server. */
export interface Target {
  readonly url: string;
  readonly key: string | undefined;
}

/** Returns the server for these options. */
export function find(
  apiUrl: string | undefined,
  apiKey: string | undefined,
  environ: Readonly<Record<string, string | undefined>> = process.env,
): Target {
  const givenUrl = apiUrl || environ['ISORUN_API_URL'];
  let key = apiKey || environ['ISORUN_API_KEY'] || undefined;
  const local = givenUrl && key ? undefined : readLocal(environ);
  // The key of this machine's server is never sent to another machine.
  if (!key && local && (!givenUrl || givenUrl === local.url || bothLoopback(givenUrl, local.url))) {
    key = local.key;
  }
  const url = (givenUrl || local?.url || DEFAULT_URL).replace(/\/+$/, '');
  if (!/^https?:\/\/[^/?#]/i.test(url) || !URL.canParse(url)) {
    throw new IsorunError(`${JSON.stringify(url)} is not an http or https URL`);
  }
  if (key !== undefined && !/^[\x21-\x7e]+$/.test(key)) {
    throw new IsorunError(
      'the API key contains spaces, control characters or non-ASCII characters: copy it again',
    );
  }
  return { url, key };
}

/** Reports whether a URL is of this machine. */
export function isLoopback(url: string): boolean {
  if (!URL.canParse(url)) return false;
  const host = new URL(url).hostname;
  return host === 'localhost' || host === '[::1]' || (isIPv4(host) && host.startsWith('127.'));
}

function bothLoopback(one: string, other: string): boolean {
  return isLoopback(one) && isLoopback(other);
}

/** Reads the file that the server of this machine wrote, if there is one. */
function readLocal(
  environ: Readonly<Record<string, string | undefined>>,
): { url: string; key: string } | undefined {
  const base = environ['XDG_CONFIG_HOME'] || join(homedir(), '.config');
  const path = join(base, 'isorun', 'client.json');
  let text: string;
  try {
    const descriptor = openSync(path, 'r');
    try {
      restrict(descriptor, path);
      text = readFileSync(descriptor, 'utf8');
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    if (error instanceof IsorunError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new IsorunError(`cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
  try {
    const content = parseObject(text);
    return { url: stringOf(content, 'api_url'), key: stringOf(content, 'api_key') };
  } catch (error) {
    // The message of `JSON.parse` contains a part of the text, which may be the key.
    const reason = error instanceof TypeError ? error.message : 'not valid JSON';
    throw new IsorunError(`${path} is damaged: remove it, and start the server again (${reason})`);
  }
}

/**
 * Rejects a file that another user could have written, and removes the permissions of other
 * users to read it.
 */
function restrict(descriptor: number, path: string): void {
  // Windows has access lists instead of modes.
  if (process.geteuid === undefined) return;
  const status = fstatSync(descriptor);
  const mode = status.mode & 0o7777;
  const isOwn = status.uid === process.geteuid();
  if ((mode & 0o022) !== 0 || !(isOwn || status.uid === 0)) {
    throw new IsorunError(
      `${path} can be written by other users (mode ${mode.toString(8).padStart(4, '0')}, ` +
        `owner ${status.uid}), who could have changed the address or the key in it: ` +
        `check it, then run \`chmod 600 ${path}\` as its owner`,
    );
  }
  if ((mode & 0o077) !== 0 && isOwn) {
    try {
      fchmodSync(descriptor, mode & 0o700);
    } catch {
      // The mode cannot be changed on a read-only file system.
    }
  }
}
