/** What the tests get from the program that starts them, `suite.ts`. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The package. */
export const PACKAGE = fileURLToPath(new URL('..', import.meta.url));

/** The repository. */
export const REPOSITORY = process.env['ISORUN_REPOSITORY'] ?? join(PACKAGE, '../..');

/** Returns a variable without which the tests fail. */
export function required(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run the tests with \`cargo xtask test typescript\``);
  return value;
}

/** Returns the server that the tests use. */
export function server(): { url: string; key: string } {
  const path = join(required('XDG_CONFIG_HOME'), 'isorun', 'client.json');
  const written = JSON.parse(readFileSync(path, 'utf8')) as { api_url: string; api_key: string };
  return { url: written.api_url, key: written.api_key };
}

/** Waits until a condition holds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 60_000;
  while (!(await condition())) {
    assert.ok(performance.now() < end, 'the condition did not become true');
    await sleep(20);
  }
}

/** Waits until a sandbox was destroyed. The requests do not count as activity in it. */
export async function untilGone(run: string): Promise<void> {
  const { url, key } = server();
  const headers = { authorization: `Bearer ${key}` };
  await until(async () => (await fetch(`${url}/v1/runs/${run}`, { headers })).status !== 200);
}

/** What a program has printed, and how it ended. */
export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, for two minutes at most. */
export async function finish(
  program: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Finished> {
  const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), 120_000);
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  clearTimeout(timer);
  return { code, ...output };
}
