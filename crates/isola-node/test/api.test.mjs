// The table of error codes and verbs that all languages have in common.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import * as isola from 'isola-core';

const api = JSON.parse(await readFile('crates/isola/api.json', 'utf8'));
const lib = path.join(path.dirname(createRequire(import.meta.url).resolve('isola-core')), '/');
const { classOfCode, fromFailure } = createRequire(lib)('./errors.js');

const rows = [...api.errors, ...api.node_errors];

test('each code has the class of the table, and no other code exists', () => {
  const table = Object.fromEntries(rows.map(({ code, class: name }) => [code, name]));
  assert.equal(Object.keys(table).length, rows.length);
  assert.deepEqual(
    Object.fromEntries([...classOfCode].map(([code, type]) => [code, type.name])),
    table,
  );
  for (const { code, class: name, extends: parent } of rows) {
    const error = fromFailure({ code, message: 'why' });
    assert.ok(error instanceof isola[name] && error instanceof isola.IsolaError, name);
    assert.deepEqual([error.code, error.name, error.message], [code, name, 'why']);
    const base = parent ?? 'IsolaError';
    assert.equal(Object.getPrototypeOf(isola[name]), isola[base], `${name} extends ${base}`);
  }
});

test('the exported error classes are those of the table', () => {
  const exported = Object.keys(isola).filter(
    (name) => name.endsWith('Error') && name !== 'IsolaError',
  );
  assert.deepEqual(exported.sort(), [...new Set(rows.map(({ class: name }) => name))].sort());
});

test('the declared codes are those of the table', async () => {
  const declarations = await readFile(path.join(lib, 'index.d.ts'), 'utf8');
  const [, union] = /^export type ErrorCode =([^;]*);/m.exec(declarations);
  const declared = [...union.matchAll(/'(\w+)'/g)].map(([, code]) => code);
  assert.deepEqual(declared.sort(), rows.map(({ code }) => code).sort());
});

test('each verb of the table is a function', () => {
  for (const { verb, node } of api.life_cycle) {
    const [name, method] = node.split('.');
    const found = method === undefined ? isola[name] : isola[name].prototype[method];
    assert.equal(typeof found, 'function', verb);
  }
  assert.ok(api.life_cycle.length > 15);
});
