'use strict';

// Runtimes: the interpreters of templates, and where they are found.

const errors = require('./errors');
const native = require('./native');
const options = require('./options');
const { version: ownVersion } = require('../package.json');

/**
 * Finds the runtime that `buildTemplate` would use with the same options, and downloads
 * it if it is not installed.
 *
 * @param {string} runtime
 * @param {object} [config]
 */
async function resolveRuntime(runtime, config = {}) {
  checkedRuntime(runtime);
  const { sources, onProgress } = options.runtime(config, native.shipped(runtime));
  const found = await native
    .addon()
    .resolveRuntime(runtime, sources, onProgress && reporting(onProgress));
  if (typeof found !== 'string') throw errors.fromFailure(found);
  const resolved = {
    runtime,
    version: sources.version === undefined ? ownVersion : sources.version.replace(/^v/, ''),
    runtimePath: found,
  };
  if (sources.library !== undefined) resolved.runtimeLibDir = sources.library;
  return resolved;
}

function checkedRuntime(runtime) {
  if (runtime !== 'python' && runtime !== 'js') {
    throw errors.invalid(`there is no runtime ${errors.shown(runtime)}: use "python" or "js"`);
  }
}

// Calls the listener in a microtask, so that its errors are reported like those of
// any callback and do not unwind into the native part.
function reporting(listener) {
  return ({ phase, received, total }) => {
    const progress = { phase };
    if (received !== undefined && received !== null) progress.received = received;
    if (total !== undefined && total !== null) progress.total = total;
    queueMicrotask(() => listener(progress));
  };
}

module.exports = { checkedRuntime, reporting, resolveRuntime };
