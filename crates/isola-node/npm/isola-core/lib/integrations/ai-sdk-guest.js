'use strict';

// The guest's half of the tools for the AI SDK, and what their model is told.

/** Returns the script that defines `tools` in a guest. */
function script(language, names) {
  const list = JSON.stringify(names);
  return language === 'python' ? PYTHON.replace('NAMES', list) : JAVASCRIPT.replace('NAMES', list);
}

const PYTHON = `
def _define():
    import types
    from sandbox.asyncio import HostcallError, hostcall

    class ToolError(RuntimeError):
        """An error of a tool."""

    def define(name):
        async def tool(input=None, /, **kwargs):
            try:
                return await hostcall("tool", {"name": name, "input": {**(input or {}), **kwargs}})
            except HostcallError as error:
                raise ToolError(str(error)) from None

        tool.__name__ = tool.__qualname__ = name
        return tool

    globals()["tools"] = types.SimpleNamespace(**{name: define(name) for name in NAMES})

_define()
del _define
`;

const JAVASCRIPT = `
globalThis.tools = Object.freeze(Object.fromEntries(NAMES.map((name) => [name, async (input = {}) => {
  try {
    return await hostcall('tool', { name, input });
  } catch (error) {
    throw new Error(error.message);
  }
}])));
`;

/** Returns the description of a tool for its model. */
function describe(runtime, language, tools, isSession) {
  const isPython = language === 'python';
  const parts = [
    isPython
      ? 'Runs Python 3.14 in a sandbox, as a cell of a notebook: returns what it prints, and the value of its last expression. The standard library is available; ' +
        (runtime === 'python-data'
          ? 'so are numpy, pandas and other packages for data. Other packages with native code are not.'
          : 'numpy and other packages with native code are not.')
      : 'Runs JavaScript in a sandbox: returns what it logs, and the value of its last expression. Only the language and fetch, timers and console exist, and nothing of Node.js or a browser.',
    'There is no network and no access to files of the machine.',
    isSession
      ? 'Calls share variables and files.'
      : 'Each call starts anew: nothing is kept from earlier calls.',
  ];
  const text = parts.join(' ');
  if (tools.size === 0) return text;
  const listed = [...tools].map(([name, { tool, jsonSchema }]) => {
    const described = typeof tool.description === 'string' ? ` ${tool.description}` : '';
    return `- ${signature(isPython, name, jsonSchema)}:${described}\n  input: ${JSON.stringify(jsonSchema)}`;
  });
  return `${text}\n\nThe code can call these functions:\n${listed.join('\n')}`;
}

function signature(isPython, name, jsonSchema) {
  const names = Object.keys(jsonSchema?.properties ?? {});
  return isPython
    ? `await tools.${name}(${names.map((each) => `${each}=...`).join(', ')})`
    : `await tools.${name}(${names.length > 0 ? `{ ${names.join(', ')} }` : ''})`;
}

module.exports = { describe, script };
