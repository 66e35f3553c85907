import codemode from './codemode.js';

export const { IsolaExecutor } = codemode;
