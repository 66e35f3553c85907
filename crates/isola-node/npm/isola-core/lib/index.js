'use strict';

// The public names, and nothing else. `index.mjs` gives the very same objects
// to `import`, so that there is one class of each kind in a process.

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
