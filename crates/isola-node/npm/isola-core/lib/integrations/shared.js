'use strict';

// What the adapters to other frameworks share: options, templates, and advice for the author
// of code that a limit has stopped.

const { LimitError, buildTemplate, SandboxTemplate } = require('../index.js');
const { invalid } = require('../errors.js');

/** The options that all adapters pass on to `SandboxTemplate.create`. */
const SANDBOX_OPTIONS = [
  'maxMemory',
  'maxStorage',
  'limits',
  'mounts',
  'env',
  'http',
  'httpHandler',
  'httpRequestBody',
];

/** The templates of adapters that were given none, by runtime. Each is built once. */
const templates = new Map();

/** Returns the template of an adapter. */
async function templateOf(template, runtime) {
  if (template !== undefined) return template;
  let building = templates.get(runtime);
  if (building === undefined) {
    building = buildTemplate(runtime);
    templates.set(runtime, building);
    // A build that failed is tried again by the next user.
    building.catch(() => templates.delete(runtime));
  }
  return building;
}

/**
 * Checks the options of an adapter, and returns those of its sandboxes.
 *
 * @param {string} what the adapter, for messages
 * @param {object} options
 * @param {string[]} own the adapter's own options
 */
function sandboxOptions(what, options, own) {
  if (options === null || typeof options !== 'object') {
    throw invalid(`the options of ${what} are not an object`);
  }
  const known = [...own, 'template', ...SANDBOX_OPTIONS];
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) {
      throw invalid(`unknown option "${name}" of ${what}: the options are ${known.join(', ')}`);
    }
  }
  if (options.template !== undefined && !(options.template instanceof SandboxTemplate)) {
    throw invalid('template is not a template: give the result of buildTemplate');
  }
  const given = SANDBOX_OPTIONS.filter((name) => options[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, options[name]]));
}

/** Returns a time limit in milliseconds, or its default. */
function milliseconds(name, value, preset) {
  if (value === undefined) return preset;
  if (typeof value === 'number' && value > 0) return value;
  throw invalid(`${name} is ${String(value)}: give a number of milliseconds above 0`);
}

/** What the author of code can do about a limit. */
const ADVICE = {
  cpu_time_limit: 'Do less work at once, and check that loops end.',
  wall_time_limit: 'Do less at once, and do not wait for long.',
  memory_limit: 'Keep less in memory at once.',
  output_limit: 'Print less.',
  value_size_limit: 'Return less.',
  handle_limit: 'Close files and clear timers that are no longer used.',
  recursion_limit: 'Use a loop instead of recursion.',
};

/** Returns an error of the sandbox as a text for the model that wrote the code. */
function explain(error) {
  const advice = error instanceof LimitError ? ADVICE[error.code] : undefined;
  return advice === undefined ? error.message : `${error.message}. ${advice}`;
}

module.exports = { explain, milliseconds, sandboxOptions, templateOf };
