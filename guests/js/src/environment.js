// `process.env`: the variables that the host gave, and nothing else.

import { define, freeze } from './intrinsics.js';

const process = {};

export function installEnvironment(global) {
  define(process, 'env', freeze({}), true);
  define(global, 'process', process, false);
}

/** Takes the variables of the sandbox. */
export function setEnvironment(variables) {
  const env = {};
  for (let i = 0; i < variables.length; i++) define(env, variables[i][0], variables[i][1], true);
  define(process, 'env', freeze(env), true);
  freeze(process);
}
