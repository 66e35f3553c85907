// The Unicode functions as one bundle, which `src/lazy.js` evaluates.

export { normalize } from './normalize.js';
export { rewrite } from './rewrite.js';
export { useTable } from './sets.js';
