/** What a sandbox lets other modules of this package use. It is not in the declarations of `Sandbox`. */

import type { Transport } from './transport.js';

const clients = new WeakMap<object, () => Transport>();

/** Sets the function that returns the client of a sandbox, or throws if it is destroyed. */
export function setClient(sandbox: object, client: () => Transport): void {
  clients.set(sandbox, client);
}

/** Returns the client of a sandbox. */
export function clientOf(sandbox: object): Transport {
  const client = clients.get(sandbox);
  if (client === undefined) {
    throw new TypeError('this is not a Sandbox, or one of another copy of the package @isorun/sdk');
  }
  return client();
}
