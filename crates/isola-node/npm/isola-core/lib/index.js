'use strict';

// The public names. `index.mjs` exports the same objects to `import`, so that
// each class exists once in a process.

const { Arg } = require('./args');
const errors = require('./errors');
const { Contexts } = require('./contexts');
const { Execution, Result } = require('./code');
const { Files } = require('./files');
const { resolveRuntime } = require('./runtime');
const { Sandbox } = require('./sandbox');
const { Snapshot } = require('./snapshot');
const { StreamArg } = require('./stream-arg');
const { SandboxContext, SandboxTemplate, buildTemplate } = require('./template');

module.exports = {
  buildTemplate,
  resolveRuntime,
  SandboxContext,
  SandboxTemplate,
  Sandbox,
  Snapshot,
  Files,
  Contexts,
  Execution,
  Result,
  Arg,
  StreamArg,
  ...errors.classes,
};
