// `process.env`: the environment variables that the host set. `scriptArgs`: the arguments.

import { define, defineProperty, freeze } from './intrinsics.js';

const process = {};
let current = freeze({});

export function installEnvironment(global) {
  // A getter, because a copy of an interpreter may get other variables.
  defineProperty(process, 'env', { __proto__: null, get: () => current, enumerable: true });
  freeze(process);
  define(global, 'process', process, false);
  define(global, 'scriptArgs', [], false);
}

/** Sets the arguments of the program. */
export function setArguments(given) {
  const list = [];
  for (let i = 0; i < given.length; i++) define(list, i, given[i], true);
  define(globalThis, 'scriptArgs', list, false);
}

/** Sets the variables of the sandbox. */
export function setEnvironment(variables) {
  const env = {};
  for (let i = 0; i < variables.length; i++) define(env, variables[i][0], variables[i][1], true);
  current = freeze(env);
}
