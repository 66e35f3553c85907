'use strict';

// Runtimes: the interpreters of templates, and where they are found.

const errors = require('./errors');
const native = require('./native');
const options = require('./options');
const { version: ownVersion } = require('../package.json');

// The runtimes, and the language of each.
const LANGUAGES = new Map([
  ['python', 'python'],
  ['python-data', 'python'],
  ['js', 'javascript'],
]);

// Those on which this package does not depend: they are large, and installed on request.
const OPTIONAL = new Set(['python-data']);

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
  if (typeof found !== 'string') throw notFound(found, runtime, sources);
  const resolved = {
    runtime,
    version: sources.version === undefined ? ownVersion : sources.version.replace(/^v/, ''),
    runtimePath: found,
  };
  if (sources.library !== undefined) resolved.runtimeLibDir = sources.library;
  return resolved;
}

function checkedRuntime(runtime) {
  if (LANGUAGES.has(runtime)) return;
  throw errors.invalid(`there is no runtime ${errors.shown(runtime)}: use ${names()}`);
}

/** Returns the names of all runtimes as the messages of errors list them. */
function names() {
  const quoted = [...LANGUAGES.keys()].map((name) => JSON.stringify(name));
  return `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`;
}

/** Returns the language of the programs of a runtime: `python` or `javascript`. */
function languageOf(runtime) {
  return LANGUAGES.get(runtime);
}

/**
 * Creates the error for a runtime that the native part could not find. If it is one that
 * npm installs on request, and nothing else was asked for, the error says how.
 */
function notFound(failure, runtime, { shipped, version = ownVersion }) {
  const wanted = OPTIONAL.has(runtime) && failure.code === 'download_failed';
  if (!wanted || shipped.length > 0 || version.replace(/^v/, '') !== ownVersion) {
    return errors.fromFailure(failure);
  }
  const advice = `install the runtime with: npm install ${native.packageOf(runtime)}@${ownVersion}`;
  return errors.fromFailure({ ...failure, message: `${failure.message}; ${advice}` });
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

module.exports = { checkedRuntime, languageOf, names, notFound, reporting, resolveRuntime };
