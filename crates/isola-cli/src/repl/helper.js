{
  const evaluate = eval;
  const { log } = console;
  const { stringify } = JSON;
  const { getOwnPropertyNames } = Object;
  const keywords = `async await break case catch class const continue default delete do else export
    extends false finally for function if import in instanceof let new null return static super
    switch this throw true try typeof undefined var void while yield`.split(/\s+/);

  // `{ a: 1 }` is evaluated as an object if it is a valid one.
  const isObject = (source) => {
    if (!/^\s*\{/.test(source)) return false;
    try {
      new Function(`return (${source}\n)`);
      return true;
    } catch {
      return false;
    }
  };

  const hide = (name, value) =>
    Object.defineProperty(globalThis, name, {
      value,
      configurable: true,
      writable: true,
      enumerable: false,
    });

  hide('__isola_repl__', async (source, number) => {
    const text = isObject(source) ? `(${source}\n)` : source;
    const value = await evaluate(`${text}\n//# sourceURL=input-${number}.js`);
    if (value !== undefined) log(typeof value === 'string' ? stringify(value) : value);
  });

  hide('__isola_names__', () =>
    [...getOwnPropertyNames(globalThis), ...keywords].filter((name) => !name.startsWith('__isola')),
  );
}
