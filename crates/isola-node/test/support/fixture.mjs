// Shared fixtures: sandboxes that are closed after the test, and real servers.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { buildTemplate } from 'isola-core';

const templates = new Map();

/** Returns the template of a runtime, built once for all tests of a file. */
export function template(runtime) {
  if (!templates.has(runtime)) templates.set(runtime, buildTemplate(runtime));
  return templates.get(runtime);
}

/** Creates a sandbox that has run a script, and closes it after the test. */
export async function sandbox(t, runtime, script, config) {
  const created = await (await template(runtime)).create(config);
  t.after(() => created.close());
  await created.start();
  await created.loadScript(script);
  return created;
}

/** Starts a server on the loopback interface, and stops it after the test. */
export async function server(t, answer) {
  const created = createServer(answer);
  created.listen(0, '127.0.0.1');
  await once(created, 'listening');
  t.after(() => {
    created.closeAllConnections();
    created.close();
  });
  return `http://127.0.0.1:${created.address().port}`;
}

/** Returns all events of a stream. */
export async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

/** Returns a promise and the function that resolves it. */
export function signal() {
  let resolve;
  const promise = new Promise((settle) => (resolve = settle));
  return { promise, resolve };
}
