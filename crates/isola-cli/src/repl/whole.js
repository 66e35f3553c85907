function is_complete(source) {
  const lines = source.split('\n').length + 1;
  try {
    // All of it is parsed before the first statement throws.
    (0, eval)(`throw is_complete\n${source}\n`);
  } catch (error) {
    if (error === is_complete || !(error instanceof SyntaxError)) return true;
    // For incomplete code, the error is behind the last line.
    return (
      error.lineNumber <= lines &&
      !/^unterminated (comment|template)|^'' literal not terminated/.test(error.message)
    );
  }
  return true;
}
