/** Listeners of signals. */

import { defaultMaxListeners, getEventListeners, setMaxListeners } from 'node:events';

/** Calls a listener when a signal is aborted. Returns a function that removes the listener. */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return () => {};
  // One signal may be that of any number of calls. Node.js would take so many for a leak.
  if (getEventListeners(signal, 'abort').length >= defaultMaxListeners) setMaxListeners(0, signal);
  signal.addEventListener('abort', listener);
  return () => signal.removeEventListener('abort', listener);
}
