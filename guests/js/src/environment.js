// `process.env`: the variables that the host gave, and nothing else.

import { define, defineProperty, freeze } from './intrinsics.js';

const process = {};
let current = freeze({});

export function installEnvironment(global) {
  // A copy of an interpreter may get other variables.
  defineProperty(process, 'env', { __proto__: null, get: () => current, enumerable: true });
  freeze(process);
  define(global, 'process', process, false);
}

/** Takes the variables of the sandbox. */
export function setEnvironment(variables) {
  const env = {};
  for (let i = 0; i < variables.length; i++) define(env, variables[i][0], variables[i][1], true);
  current = freeze(env);
}
