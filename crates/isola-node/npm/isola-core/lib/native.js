'use strict';

// Finds the native part for this platform and the runtimes. They are separate
// packages, so that only those for this platform are downloaded.

const path = require('node:path');
const { invalid } = require('./errors');
const { version: ownVersion } = require('../package.json');

const PLATFORMS = new Map([['linux-x64', 'isola-core-linux-x64-gnu']]);

let loaded;

/** Returns the native part, which is loaded once. */
function addon() {
  loaded ??= load();
  return loaded;
}

function load() {
  const platform = `${process.platform}-${process.arch}`;
  const name = PLATFORMS.get(platform);
  if (name === undefined) {
    const supported = [...PLATFORMS.keys()].join(', ');
    throw invalid(`isola-core does not support ${platform}: supported platforms are ${supported}`);
  }
  try {
    return require(name);
  } catch (error) {
    const missing = error.code === 'MODULE_NOT_FOUND';
    throw invalid(
      missing
        ? `the package ${name} is not installed: install isola-core without --omit=optional`
        : `the native part of isola-core, which needs glibc, cannot be loaded: ${error.message}`,
      error,
    );
  }
}

/** Returns the name of the package that contains a runtime. */
function packageOf(runtime) {
  return `isola-core-runtime-${runtime}`;
}

/** Returns the directories of a runtime that npm has installed: one or none. */
function shipped(runtime) {
  try {
    const manifest = require.resolve(`${packageOf(runtime)}/package.json`);
    // An update of this package does not update those on which it does not depend.
    return require(manifest).version === ownVersion ? [path.dirname(manifest)] : [];
  } catch {
    // The runtime is then taken from the cache or downloaded.
    return [];
  }
}

module.exports = { addon, packageOf, shipped };
