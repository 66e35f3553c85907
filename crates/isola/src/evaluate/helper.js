globalThis.__isola_evaluate__ = (() => {
  const evaluate = eval;
  const stringify = JSON.stringify;
  return async (source) => {
    const value = await evaluate(source);
    if (value === undefined || value === null) return null;
    if (typeof value === 'object' && typeof value.next === 'function') return value;
    if (typeof value === 'bigint') return value;
    try {
      const text = stringify(value);
      if (text !== undefined) return JSON.parse(text);
    } catch {
      // A value that JSON cannot represent is returned as a string.
    }
    return String(value);
  };
})();
