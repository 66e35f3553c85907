// The guest takes every identifier that may be declared in a script for a new global,
// which hides the export of an earlier module with that name. So all of them have names
// that no other script uses.
globalThis.__isola_call__ = (() => {
  const isolaHostcall = hostcall;
  async function* isolaStream(isolaToken) {
    for (;;) {
      const isolaBatch = await isolaHostcall('isola.stream', isolaToken);
      yield* isolaBatch.items;
      if (isolaBatch.done) return;
    }
  }
  const isolaRead = (isolaMarker) =>
    isolaMarker[0] ? isolaStream(isolaMarker[1]) : isolaMarker[1];
  // The guest has replaced the name of the called function by the function.
  return (isolaTarget, isolaPositional, isolaNamed) => {
    const isolaArgs = isolaPositional.map(isolaRead);
    const isolaEntries = Object.entries(isolaNamed);
    if (isolaEntries.length > 0) {
      isolaArgs.push(
        Object.fromEntries(
          isolaEntries.map((isolaEntry) => [isolaEntry[0], isolaRead(isolaEntry[1])]),
        ),
      );
    }
    return isolaTarget(...isolaArgs);
  };
})();
