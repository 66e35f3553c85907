/** Typed access to the fields of JSON objects that the server sent. */

export type JsonObject = Readonly<Record<string, unknown>>;

/** Returns a JSON text as an object. Throws if it is something else. */
export function parseObject(text: string): JsonObject {
  return asObject(JSON.parse(text));
}

export function asObject(value: unknown): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError('not an object');
  }
  return value as JsonObject;
}

export function stringOf(body: JsonObject, name: string): string {
  const value = body[name];
  if (typeof value !== 'string') throw new TypeError(`${name} is not a string`);
  return value;
}

export function numberOf(body: JsonObject, name: string): number {
  const value = body[name];
  if (typeof value !== 'number') throw new TypeError(`${name} is not a number`);
  return value;
}

export function listOf(body: JsonObject, name: string): readonly unknown[] {
  const value = body[name];
  if (!Array.isArray(value)) throw new TypeError(`${name} is not a list`);
  return value;
}

export function stringsOf(body: JsonObject, name: string): string[] {
  return listOf(body, name).map((value) => {
    if (typeof value !== 'string') throw new TypeError(`${name} has an item that is no string`);
    return value;
  });
}

/** Returns a field that is empty if the server leaves it out. */
export function optionalStringOf(body: JsonObject, name: string): string {
  const value = body[name];
  return value === undefined || value === null ? '' : stringOf(body, name);
}
