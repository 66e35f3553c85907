import Ajv from 'ajv';

const SCHEMA = {
  type: 'object',
  properties: {
    name: { type: 'string', pattern: '^\\p{Lu}\\p{Ll}+$', maxLength: 5 },
    age: { type: 'integer', minimum: 0, default: 18 },
    tags: { type: 'array', items: { enum: ['a', 'b'] }, uniqueItems: true },
    next: { $ref: '#' },
  },
  required: ['name'],
  additionalProperties: false,
};

/** Validates values, with code that ajv generates from the schema. */
export function main() {
  const validate = new Ajv({ allErrors: true, useDefaults: true }).compile(SCHEMA);
  const values = [
    { name: 'Éloïs' },
    { name: 'Ада', tags: ['a', 'b'], next: { name: 'Bob', age: 7 } },
    { name: 'bob', age: -1.5, tags: ['a', 'c', 'a'], next: { extra: 1 } },
    { name: 'A😀😀😀😀😀' },
    [],
  ];
  return values.map((value) => [validate(value), validate.errors, value]);
}
