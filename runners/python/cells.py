"""Runs cells of Python code in contexts, as a notebook does.

The runner in a Linux sandbox and the Python guest of isola use this module. It needs only
the standard library of Python 3.8 or later. The embedding runner provides:

- `emit(event)`, which receives the events `result` and `error` as dictionaries. It has to
  flush `sys.stdout` and `sys.stderr` first, so that results and output stay in order.
- `run_coroutine(coroutine)`, which runs a coroutine to its end and returns its result.
- the standard streams, interruption (a `KeyboardInterrupt` in the thread that runs the
  cell), and the event `end`.

    cells = Cells(emit, loop.run_until_complete)
    context = Context("default")
    count = cells.run(context, "1 + 1")

Code of a cell can reach and modify this module, so it enforces nothing.
"""

import builtins as _builtins

# The built-in names at import time: code of cells may replace `builtins.len`.
__builtins__ = dict(vars(_builtins))

import __future__  # noqa: E402
import ast  # noqa: E402
import collections  # noqa: E402
import inspect  # noqa: E402
import io  # noqa: E402
import linecache  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tokenize  # noqa: E402
import traceback  # noqa: E402
import types  # noqa: E402

try:
    from . import cell_results
except ImportError:
    import cell_results

# The number of cells of all contexts whose source is kept for tracebacks.
MAX_KEPT_SOURCES = 500

# The number of frames of a traceback that are shown.
MAX_SHOWN_FRAMES = 200

# The number of characters of an exception's texts. The middle of a longer one is omitted.
MAX_ERROR_CHARS = 64 * 1024

# The number of notes of an exception that are shown from the start and from the end.
SHOWN_NOTES = 10

_ALLOW_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_FUTURE_FLAGS = [getattr(__future__, name).compiler_flag for name in __future__.all_feature_names]

# The value of a cell that does not end in an expression.
NO_VALUE = object()


class Context:
    """The persistent state of an interpreter: its globals, working directory and count.

    `module` is the module whose globals the cells use, if it exists already. `prefix` is
    put before the file names of its cells in tracebacks.
    """

    def __init__(self, name="default", cwd=None, module=None, prefix=None):
        self.name = name
        self.cwd = self.first_cwd = cwd
        self.module = types.ModuleType("__main__") if module is None else module
        self.globals = self.module.__dict__
        self.globals.setdefault("__builtins__", _builtins)
        self.prefix = ("" if name == "default" else name + "-") if prefix is None else prefix
        self.execution_count = 0
        # The flags of `from __future__ import ...` in earlier cells.
        self.future_flags = 0
        self.last_value = NO_VALUE

    def restart(self):
        """Removes everything that cells have defined, in the same module."""
        self.globals.clear()
        self.__init__(self.name, self.first_cwd, self.module, self.prefix)
        self.globals.update(__name__="__main__", __doc__=None, __spec__=None, __loader__=None)


class Cells:
    """Runs the cells of any number of contexts, one at a time.

    `hides(filename)` reports whether frames of a file are left out of tracebacks. An entry
    of a result that is larger than `max_entry_bytes` is left out; if a whole result is
    larger than `max_result_bytes`, its largest entries are. `translate(source)` returns the
    Python of a cell that is not valid as it is, or nothing.
    """

    def __init__(
        self,
        emit,
        run_coroutine,
        max_entry_bytes=8 * 1024 * 1024,
        max_result_bytes=64 * 1024 * 1024,
        hides=None,
        translate=None,
    ):
        self.emit = emit
        self.run_coroutine = run_coroutine
        self.limits = cell_results.Limits(max_entry_bytes, max_result_bytes)
        self.hides = hides or (lambda filename: False)
        self.translate = translate or (lambda source: None)
        # True while code of a cell runs, that is, while an interrupt has something to end.
        self.interruptible = False
        # The context whose working directory and main module are those of the process.
        self._active = None
        self._sources = collections.deque()
        self._display = self._make_display()
        self._hook = cell_results.ImportHook(self.show_figures)

    def run(self, context, source):
        """Runs a cell and returns its number. Errors of the cell are emitted."""
        try:
            try:
                self.interruptible = True
                try:
                    value = self.evaluate(context, source)
                    if value is not NO_VALUE and value is not None:
                        self._show_value(context, value)
                finally:
                    self.show_figures()
            finally:
                self.interruptible = False
        except BaseException as error:
            self._emit_error(error)
        return context.execution_count

    def set_limits(self, max_entry_bytes, max_result_bytes):
        self.limits = cell_results.Limits(max_entry_bytes, max_result_bytes)

    def forget(self):
        """Forgets the sources of the cells that ran."""
        while self._sources:
            linecache.cache.pop(self._sources.popleft(), None)

    def evaluate(self, context, source, hides_value=True):
        """Runs a cell and returns the value of its last expression, or `NO_VALUE`.

        A trailing semicolon hides the value, as in notebooks.
        """
        context.execution_count += 1
        _builtins.display = self._display
        self._hook.install()
        self.activate(context)
        name = self._remember(context, source)
        source = source[1:] if source.startswith("\ufeff") else source
        flags = _ALLOW_AWAIT | context.future_flags
        if "\n" not in source:
            # Most short cells are one expression, for which one compilation suffices.
            try:
                code = compile(source, name, "eval", flags, dont_inherit=True)
            except (SyntaxError, ValueError):
                pass
            else:
                return self._execute(context, code)
        source, tree = self._parse(source, name, flags)
        last = None
        if (
            tree.body
            and isinstance(tree.body[-1], ast.Expr)
            and not (hides_value and ends_in_semicolon(source))
        ):
            last = ast.Expression(tree.body.pop().value)
        codes = []
        if tree.body:
            codes.append(compile(tree, name, "exec", flags, dont_inherit=True))
            for flag in _FUTURE_FLAGS:
                context.future_flags |= codes[0].co_flags & flag
        if last is not None:
            flags = _ALLOW_AWAIT | context.future_flags
            codes.append(compile(last, name, "eval", flags, dont_inherit=True))
        value = self._execute(context, *codes)
        return NO_VALUE if last is None else value

    def _parse(self, source, name, flags):
        """Returns the tree of a cell, and what was parsed."""
        flags |= ast.PyCF_ONLY_AST
        try:
            return source, compile(source, name, "exec", flags, dont_inherit=True)
        except SyntaxError:
            translated = self.translate(source)
            if translated is None:
                raise
        return translated, compile(translated, name, "exec", flags, dont_inherit=True)

    def display(self, *values, raw=False, metadata=None, include=None, exclude=None, **_ignored):
        """Shows values as results. With `raw`, each is a dictionary of MIME types.

        Further arguments that notebooks know are accepted and have no effect.
        """
        for value in values:
            if raw:
                data, notes = cell_results.raw_bundle(value, metadata, self.limits)
            else:
                data, notes = cell_results.bundle(value, self.limits, include, exclude, metadata)
            self._emit_result(data, notes, False)
            cell_results.close_figure(value)

    def show_figures(self):
        """Shows the open figures of matplotlib, and closes them."""
        for figure in cell_results.open_figures():
            data, notes = cell_results.bundle(figure, self.limits)
            cell_results.close_figure(figure)
            self._emit_result(data, notes, False)

    def _make_display(self):
        def display(*values, **options):
            """Shows values as results of the cell, as in a notebook."""
            self.display(*values, **options)

        display.__module__ = "builtins"
        display.__qualname__ = "display"
        return display

    def _show_value(self, context, value):
        data, notes = cell_results.bundle(value, self.limits)
        # As in the interactive interpreter, unless the code uses the name itself.
        shown = context.globals.get("_", context.last_value)
        if shown is context.last_value:
            context.globals["_"] = context.last_value = value
        self._emit_result(data, notes, True)
        cell_results.close_figure(value)

    def _emit_result(self, data, metadata, is_main):
        if data or metadata:
            self.emit(
                {
                    "type": "result",
                    "data": data,
                    "metadata": metadata,
                    "is_main_result": is_main,
                }
            )

    def activate(self, context):
        """Makes a context's working directory and main module those of the process."""
        sys.modules["__main__"] = context.module
        if context is self._active:
            return
        try:
            if self._active is not None:
                self._active.cwd = os.getcwd()
        except OSError:
            pass
        self._active = context
        try:
            if context.cwd is not None:
                os.chdir(context.cwd)
        except OSError:
            # It was removed. The cell runs where the process is, so that it can move.
            pass

    def cwd(self, context):
        """Returns the working directory of a context, or nothing if it was removed."""
        try:
            return os.getcwd() if context is self._active else context.cwd
        except OSError:
            return None

    def _remember(self, context, source):
        """Keeps the source for tracebacks, and returns its file name."""
        name = f"{context.prefix}cell-{context.execution_count}.py"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        self._sources.append(name)
        while len(self._sources) > MAX_KEPT_SOURCES:
            linecache.cache.pop(self._sources.popleft(), None)
        return name

    def _execute(self, context, *codes):
        """Runs the parts of a cell, and returns the value of the last one.

        If one awaits something, all have the running event loop, as in a notebook: a task
        can be created before the expression that awaits it.
        """
        if any(code.co_flags & inspect.CO_COROUTINE for code in codes):
            return self.run_coroutine(_execute_in_loop(context, codes))
        value = None
        for code in codes:
            value = eval(code, context.globals)
        return value

    def _emit_error(self, error):
        """Emits an error, whatever its methods do, even if they are interrupted."""
        texts = []
        for read in (_name, _value, self._traceback):
            try:
                self.interruptible = True
                texts.append(_sendable(read(error)))
            except BaseException as failure:
                texts.append(f"<unavailable: {type(failure).__name__}>")
            finally:
                self.interruptible = False
        name, value, trace = texts
        self.emit({"type": "error", "name": name, "value": value, "traceback": trace})

    def _traceback(self, error):
        """Returns the traceback as a terminal shows it, without frames of the runner."""
        shown = traceback.TracebackException(
            type(error), error, error.__traceback__, limit=-MAX_SHOWN_FRAMES
        )
        shown.stack = self._from_cell(shown.stack or ())
        seen = set()
        parts = [shown]
        while parts:
            part = parts.pop()
            if part is None or id(part) in seen:
                continue
            seen.add(id(part))
            frames = [frame for frame in part.stack or () if not self._is_hidden(frame.filename)]
            part.stack = traceback.StackSummary.from_list(frames)
            if not frames:
                # The compiler's errors have no traceback in a terminal.
                part.stack = None if sys.version_info >= (3, 10) else part.stack
                part.exc_traceback = None
            notes = getattr(part, "__notes__", None)
            if isinstance(notes, (list, tuple)) and len(notes) > 2 * SHOWN_NOTES:
                omitted = f"[... {len(notes) - 2 * SHOWN_NOTES} more notes ...]"
                part.__notes__ = [*notes[:SHOWN_NOTES], omitted, *notes[-SHOWN_NOTES:]]
            parts += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
        return "".join(shown.format())

    def _from_cell(self, frames):
        """Returns the frames from the first one of the cell, without what called it."""
        frames = list(frames)
        name = self._sources[-1] if self._sources else None
        first = next((i for i, frame in enumerate(frames) if frame.filename == name), 0)
        return frames[first:]

    def _is_hidden(self, filename):
        return filename in _OWN_FILES or self.hides(filename)


_OWN_FILES = (Context.__init__.__code__.co_filename, cell_results.bundle.__code__.co_filename)


async def _execute_in_loop(context, codes):
    for code in codes:
        value = eval(code, context.globals)
        if code.co_flags & inspect.CO_COROUTINE:
            value = await value
    return value


def ends_in_semicolon(source):
    """Reports whether the last token is a semicolon, which hides the value in notebooks."""
    if ";" not in source:
        return False
    last = ""
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in ignored and token.string.strip():
                last = token.string
    except (tokenize.TokenError, SyntaxError):
        return False
    return last == ";"


def _name(error):
    return type(error).__name__


def _value(error):
    if isinstance(error, SystemExit):
        # As the interpreter understands it: a number, nothing, or a text.
        return "" if error.code is None else str(error.code)
    try:
        return str(error)
    except Exception:
        return f"<the text of the {type(error).__name__} is not available>"


def _sendable(text):
    if len(text) > MAX_ERROR_CHARS:
        half = MAX_ERROR_CHARS // 2
        omitted = len(text) - 2 * half
        text = f"{text[:half]}\n[... {omitted} characters ...]\n{text[-half:]}"
    return cell_results.encodable(text)
