'use strict';

// The public names. `index.mjs` exports the same objects to `import`, so that
// each class exists once in a process.

const { Arg } = require('./args');
const errors = require('./errors');
const { Sandbox } = require('./sandbox');
const { Snapshot } = require('./snapshot');
const { SandboxContext, SandboxTemplate, buildTemplate } = require('./template');

module.exports = {
  buildTemplate,
  SandboxContext,
  SandboxTemplate,
  Sandbox,
  Snapshot,
  Arg,
  ...errors.classes,
};
