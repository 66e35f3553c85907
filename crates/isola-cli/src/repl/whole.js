function whole(source) {
  const lines = source.split('\n').length + 1;
  try {
    // It is parsed as a whole before the first statement throws.
    (0, eval)(`throw whole\n${source}\n`);
  } catch (error) {
    if (error === whole || !(error instanceof SyntaxError)) return true;
    // What is missing is missing at the end, behind the last line.
    return error.lineNumber <= lines && !/^unterminated (comment|template)|^'' literal not terminated/.test(error.message);
  }
  return true;
}
