// What tests share: sandboxes that are closed again, and real servers.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { buildTemplate } from 'isola-core';

const templates = new Map();

/** The template of a runtime, built once for all tests of a file. */
export function template(runtime) {
  if (!templates.has(runtime)) templates.set(runtime, buildTemplate(runtime));
  return templates.get(runtime);
}

/** A sandbox that has run a script, and is closed when its test is over. */
export async function sandbox(t, runtime, script, config) {
  const created = await (await template(runtime)).create(config);
  t.after(() => created.close());
  await created.start();
  await created.loadScript(script);
  return created;
}

/** A server on loopback, closed when its test is over. */
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

/** All events of a stream. */
export async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

/** A promise that others settle. */
export function signal() {
  let resolve;
  const promise = new Promise((settle) => (resolve = settle));
  return { promise, resolve };
}
