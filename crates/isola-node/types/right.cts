// The same names from CommonJS.

import isola = require('isola-core');

export async function main(): Promise<isola.JsonValue | null> {
  const template = await isola.buildTemplate('js');
  const sandbox: isola.Sandbox = await template.create();
  await sandbox.start();
  const stream: isola.StreamArg = isola.StreamArg.from([1]);
  return sandbox.run('main', [new isola.Arg(1, 'one'), stream]);
}
