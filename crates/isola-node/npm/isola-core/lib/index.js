'use strict';

// The public names, and nothing else. `index.mjs` gives the very same objects
// to `import`, so that there is one class of each kind in a process.

const { Arg } = require('./args');
const errors = require('./errors');
const { Sandbox } = require('./sandbox');
const { SandboxContext, SandboxTemplate, buildTemplate } = require('./template');

module.exports = { buildTemplate, SandboxContext, SandboxTemplate, Sandbox, Arg, ...errors.classes };
