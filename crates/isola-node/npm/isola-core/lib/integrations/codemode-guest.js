'use strict';

// The guest's half of the executor: a script that defines `__codemode(code, namespaces)`.

module.exports.CODEMODE_GUEST = String.raw`
globalThis.__codemode = (() => {
  const BINARY = '$isolaBinary';
  const AsyncFunction = (async () => {}).constructor;
  const { hostcall } = globalThis;
  const evaluate = eval;

  function encode(value) {
    if (value instanceof ArrayBuffer) return { [BINARY]: 'ArrayBuffer', data: base64(new Uint8Array(value)) };
    if (ArrayBuffer.isView(value)) {
      const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
      return { [BINARY]: 'Uint8Array', data: base64(bytes) };
    }
    return value;
  }

  function base64(bytes) {
    const parts = [];
    for (let i = 0; i < bytes.length; i += 0x8000) {
      parts.push(String.fromCharCode(...bytes.subarray(i, i + 0x8000)));
    }
    return btoa(parts.join(''));
  }

  // The plain form of a value: binary parts have a tag.
  function plain(value) {
    const text = JSON.stringify(value, (key, nested) => encode(nested));
    return text === undefined ? undefined : JSON.parse(text);
  }

  function revive(value) {
    if (Array.isArray(value)) return value.map(revive);
    if (value === null || typeof value !== 'object') return value;
    if (typeof value[BINARY] === 'string' && typeof value.data === 'string') {
      const bytes = Uint8Array.from(atob(value.data), (char) => char.charCodeAt(0));
      return value[BINARY] === 'ArrayBuffer' ? bytes.buffer : bytes;
    }
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, revive(part)]));
  }

  function namespaceOf(namespace) {
    const call = (tool) => async (...args) => {
      let answer;
      try {
        answer = await hostcall('codemode', { namespace, tool, args: plain(args) });
      } catch (error) {
        throw new Error(error.message);
      }
      return revive(answer.result);
    };
    return new Proxy({}, {
      get(target, tool) {
        if (Object.hasOwn(target, tool)) return target[tool];
        // A namespace is not a promise.
        return typeof tool === 'string' && tool !== 'then' ? call(tool) : undefined;
      },
    });
  }

  // Compiles without running: an early error is thrown before anything runs.
  function parses(code) {
    try {
      evaluate('throw null;\n' + code);
    } catch (error) {
      return error === null;
    }
  }

  function isExpression(code) {
    try {
      new AsyncFunction('return (' + code + '\n)');
      return true;
    } catch {
      return false;
    }
  }

  // Runs the function that the code is, or the code itself.
  async function run(source) {
    const fenced = /^\s*${'```'}(?:js|javascript|ts|typescript)?\s*\n([\s\S]*?)\n?${'```'}\s*$/.exec(source);
    const code = (fenced ? fenced[1] : source).trim().replace(/;\s*$/, '').replace(/^export\s+default\s+/, '');
    if (code === '') return undefined;
    if (isExpression(code)) {
      const value = await new AsyncFunction('return (' + code + '\n)')();
      return typeof value === 'function' ? await value() : value;
    }
    if (parses(code)) return await evaluate(code);
    return await new AsyncFunction(code)();
  }

  return async (code, namespaces) => {
    try {
      for (const { name } of namespaces) {
        if (name in globalThis) throw new Error('Provider name "' + name + '" is reserved');
        globalThis[name] = namespaceOf(name);
      }
      for (const { prelude } of namespaces) if (prelude) evaluate(prelude);
      const result = plain(await run(code));
      return result === undefined ? {} : { result };
    } catch (error) {
      const isError = error instanceof Error && error.message;
      const name = isError && error.name !== 'Error' ? error.name + ': ' : '';
      return { error: isError ? name + error.message : String(error) };
    }
  };
})();
`;
