'use strict';

// Finds what is not JavaScript: the native part for this machine, and the
// runtimes. Both come in packages of their own, so that nobody downloads those
// of other machines.

const path = require('node:path');
const { invalid } = require('./errors');

const PLATFORMS = new Map([['linux-x64', 'isola-core-linux-x64-gnu']]);

let loaded;

/** The native part, loaded once. */
function addon() {
  loaded ??= load();
  return loaded;
}

function load() {
  const platform = `${process.platform}-${process.arch}`;
  const name = PLATFORMS.get(platform);
  if (name === undefined) {
    const there = [...PLATFORMS.keys()].join(', ');
    throw invalid(`isola-core has no native part for ${platform}: there is one for ${there}`);
  }
  try {
    return require(name);
  } catch (error) {
    const missing = error.code === 'MODULE_NOT_FOUND';
    throw invalid(
      missing
        ? `the package ${name} is not installed: install isola-core without --omit=optional`
        : `the native part of isola-core cannot be loaded, which needs glibc: ${error.message}`,
      error,
    );
  }
}

/** The folders of runtimes that came with this package: one or none. */
function shipped(runtime) {
  try {
    return [path.dirname(require.resolve(`isola-core-runtime-${runtime}/package.json`))];
  } catch {
    // Then it is in the cache or is downloaded.
    return [];
  }
}

module.exports = { addon, shipped };
