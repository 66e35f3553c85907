import codeop
import warnings


def is_complete(source):
    warnings.simplefilter("ignore")
    try:
        # The rules of Python's own prompt: a block ends with an empty line.
        compiler = codeop.CommandCompiler()
        compiler.compiler.flags |= 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compiler(source, symbol="single") is not None
    except (SyntaxError, ValueError, OverflowError, MemoryError):
        # Invalid, or several statements: another line would not make it valid.
        return True
