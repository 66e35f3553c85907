/** A TCP relay in front of the server, which can fail as a server or a network does. */

import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A relay that runs. */
export interface Relay extends AsyncDisposable {
  readonly url: string;
  /** Returns how many connections of clients are open. */
  connections(): number;
  /** Refuses new connections, and breaks those that exist. */
  stop(): Promise<void>;
}

/** Starts a relay in front of a server. */
export async function relay(target: string): Promise<Relay> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  const clients = new Set<Socket>();
  const listener = createServer((client) => {
    clients.add(client);
    client.on('close', () => clients.delete(client));
    const server = connect(Number(port), hostname);
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const stop = async (): Promise<void> => {
    if (!listener.listening) return;
    const closed = once(listener, 'close');
    listener.close();
    for (const socket of sockets) socket.resetAndDestroy();
    await closed;
  };
  const { port: own } = listener.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${own}`,
    connections: () => clients.size,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
