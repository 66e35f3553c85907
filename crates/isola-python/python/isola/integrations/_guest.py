"""Runs cells of code for the adapters. This module runs in the Python guest.

The embedding program loads it into a sandbox, and calls `cell`, which fetches the cell from
the host, runs it in the globals of `__main__`, and reports the outcome. The host trusts
nothing of it: a cell can reach and modify this module.
"""

import ast
import base64
import builtins
import dataclasses
import datetime
import decimal
import inspect
import linecache
import math
import pathlib
import sys
import traceback

from sandbox.asyncio import hostcall, run

TAG = "$isola"

# The number of characters of a text about a value or an exception.
MAX_TEXT_CHARS = 20_000

# The number of frames of a traceback that are reported.
MAX_FRAMES = 20

_user = sys.modules["__main__"].__dict__
_own_file = (lambda: None).__code__.co_filename
_count = 0
_tools = {}
# The modules that cells may import, or nothing if they may import all.
_imports = None


class ToolError(RuntimeError):
    """An error of a tool that is not an exception of the standard library."""


class FinalAnswer(BaseException):
    """Ends the cell with its answer. Not an `Exception`, so that cells rarely catch it."""

    def __init__(self, outcome):
        super().__init__("the final answer was given")
        self.outcome = outcome


class HostObject:
    """An object of the embedding program. Its only use is to be passed to tools."""

    __slots__ = ("_label", "_number", "_type")

    def __init__(self, number, type, label):
        self._number, self._type, self._label = number, type, label

    def __repr__(self):
        return self._label

    def __getattr__(self, name):
        raise AttributeError(
            f"this {self._type} is outside of the sandbox and has no attribute {name!r} here:"
            " it can only be passed to tools"
        )


def cell():
    """Runs the next cell of the host."""
    global _imports
    config = run(hostcall("isola.cell"))
    _bind(config)
    _imports = config["imports"]
    try:
        execute = _run_function if config["is_function"] else _run_module
        outcome = {"kind": "value", **_reported(execute(config["source"]), config)}
    except KeyboardInterrupt:
        # The host has interrupted the cell.
        raise
    except FinalAnswer as answer:
        outcome = answer.outcome
    except BaseException as error:
        outcome = _failure(error)
    finally:
        _imports = None
    try:
        run(hostcall("isola.outcome", outcome))
    except (RecursionError, RuntimeError, TypeError, ValueError) as error:
        # The value is too large, for example.
        run(hostcall("isola.outcome", _failure(error)))


def encode(value):
    """Returns the JSON form of a value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _tagged("float", repr(float(value)))
    if type(value) is tuple:
        return _tagged("tuple", [encode(item) for item in value])
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and TAG not in value:
            return {str.__str__(key): encode(item) for key, item in value.items()}
        return _tagged("dict", [[encode(key), encode(item)] for key, item in value.items()])
    if isinstance(value, (set, frozenset)):
        kind = "set" if isinstance(value, set) else "frozenset"
        return _tagged(kind, [encode(item) for item in value])
    if isinstance(value, (bytes, bytearray)):
        return _tagged("bytes", base64.b64encode(value).decode())
    if isinstance(value, complex):
        return _tagged("complex", [repr(value.real), repr(value.imag)])
    for kind in ("datetime", "date", "time"):
        if isinstance(value, getattr(datetime, kind)):
            return _tagged(kind, value.isoformat())
    if isinstance(value, datetime.timedelta):
        return _tagged("timedelta", [value.days, value.seconds, value.microseconds])
    if isinstance(value, decimal.Decimal):
        return _tagged("decimal", str(value))
    if isinstance(value, pathlib.PurePath):
        return _tagged("path", value.as_posix())
    if isinstance(value, HostObject):
        return _tagged("reference", value._number)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: encode(getattr(value, field.name)) for field in fields}
    raise TypeError(
        f"a value of type {type(value).__name__} cannot leave the sandbox: convert it to a"
        " number, a text, a list or a dictionary"
    )


def decode(value):
    """Returns the value of a JSON form."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: decode(item) for key, item in value.items()}
    data = value["value"]
    match value[TAG]:
        case "tuple":
            return tuple(decode(item) for item in data)
        case "set":
            return {decode(item) for item in data}
        case "frozenset":
            return frozenset(decode(item) for item in data)
        case "dict":
            return {decode(key): decode(item) for key, item in data}
        case "float":
            return float(data)
        case "complex":
            return complex(*map(float, data))
        case "bytes":
            return base64.b64decode(data)
        case "datetime" | "date" | "time" as kind:
            return getattr(datetime, kind).fromisoformat(data)
        case "timedelta":
            return datetime.timedelta(*data)
        case "decimal":
            return decimal.Decimal(data)
        case "path":
            return pathlib.PurePosixPath(data)
        case _:
            return HostObject(*data)


def _bind(config):
    """Defines the variables, the tools and `SUBMIT` of a cell as globals."""
    for name in config["variables"]:
        _user[name] = decode(run(hostcall("isola.variable", name)))
    for name, tool in list(_tools.items()):
        if name not in config["tools"]:
            del _tools[name]
            if _user.get(name) is tool:
                del _user[name]
    for name in config["tools"]:
        if name not in _tools:
            make = _asynchronous_tool if config["is_function"] else _tool
            _tools[name] = make(name)
        _user[name] = _tools[name]
    if config["fields"] is not None:
        _user["SUBMIT"] = _make_submit(config["fields"])


def _tool(name):
    def tool(*args, **kwargs):
        return run(_call_tool(name, args, kwargs))

    tool.__name__ = tool.__qualname__ = name
    return tool


def _asynchronous_tool(name):
    async def tool(*args, **kwargs):
        return await _call_tool(name, args, kwargs)

    tool.__name__ = tool.__qualname__ = name
    return tool


async def _call_tool(name, args, kwargs):
    answer = await hostcall(
        "isola.tool",
        {
            "name": name,
            "args": [encode(value) for value in args],
            "kwargs": {key: encode(value) for key, value in kwargs.items()},
        },
    )
    if "error" in answer:
        raise _tool_error(**answer["error"]) from None
    if answer.get("is_final"):
        raise FinalAnswer({"kind": "final"})
    return decode(answer["value"])


def _tool_error(type, message):
    """Returns an exception of the same type if it is a built-in one, which cells may catch."""
    cls = getattr(builtins, type, None)
    if isinstance(cls, builtins.type) and issubclass(cls, Exception):
        try:
            return cls(message)
        except TypeError:
            # `UnicodeError`s have other arguments.
            pass
    return ToolError(f"{type}: {message}")


def _make_submit(fields):
    def SUBMIT(*args, **kwargs):
        """Ends the run with the values of the output fields."""
        if len(args) > len(fields) or (args and kwargs):
            raise TypeError(f"SUBMIT takes {', '.join(fields)}, all by position or all by name")
        values = dict(zip(fields, args)) if args else kwargs
        missing = [name for name in fields if name not in values]
        unknown = [name for name in values if name not in fields]
        if missing or unknown:
            problem = f"missing {missing}" if missing else f"got the unknown {unknown}"
            raise TypeError(f"SUBMIT takes {', '.join(fields)}: {problem}")
        raise FinalAnswer({"kind": "final", "value": encode(values)})

    return SUBMIT


def _run_module(source):
    """Runs a cell in the globals, and returns the value of its last expression."""
    name = _remember(source)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, name, "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    _evaluate(compile(tree, name, "exec", flags, dont_inherit=True))
    if last is None:
        return None
    return _evaluate(compile(last, name, "eval", flags, dont_inherit=True))


def _evaluate(code):
    result = eval(code, _user)
    return run(result) if code.co_flags & inspect.CO_COROUTINE else result


def _run_function(source):
    """Runs a cell as the body of an `async def`, and returns what it returns.

    That is the value of its last expression if it has no `return`.
    """
    name = _remember(source)
    body = ast.parse(source, name).body or [ast.Pass()]
    if isinstance(body[-1], ast.Expr):
        body[-1] = ast.copy_location(ast.Return(body[-1].value), body[-1])
    arguments = ast.arguments(
        posonlyargs=[], args=[], vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[]
    )
    function = ast.AsyncFunctionDef(
        name="__cell__", args=arguments, body=body, decorator_list=[], type_params=[]
    )
    tree = ast.fix_missing_locations(ast.Module([function], type_ignores=[]))
    exec(compile(tree, name, "exec", dont_inherit=True), _user)
    coroutine = _user.pop("__cell__")()
    if not inspect.iscoroutine(coroutine):
        raise SyntaxError("'yield' outside function: use 'return' for the result")
    return run(_awaited(coroutine))


async def _awaited(coroutine):
    value = await coroutine
    # Code that ends in `call_tool(...)` without `await` means its result.
    return await value if inspect.isawaitable(value) else value


def _remember(source):
    """Keeps the source for tracebacks, and returns its file name."""
    global _count
    linecache.cache.pop(f"cell-{_count - 100}.py", None)
    _count += 1
    name = f"cell-{_count}.py"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return name


def _reported(value, config):
    """Returns the form of a cell's value, or its text if there is none."""
    if not config["shows_text"]:
        return {"value": encode(value)}
    try:
        return {"value": encode(value)}
    except (RecursionError, TypeError):
        return {"text": _shortened(repr(value))}


def _failure(error):
    stack = traceback.TracebackException(type(error), error, error.__traceback__, limit=-200)
    for part in _chain(stack):
        frames = [frame for frame in part.stack or () if _is_shown(frame.filename)]
        part.stack = traceback.StackSummary.from_list(frames[-MAX_FRAMES:])
        if not frames:
            part.stack = None
    try:
        message = str(error)
    except Exception:
        message = ""
    return {
        "kind": "error",
        "name": type(error).__name__,
        "message": _shortened(message),
        "traceback": _shortened("".join(stack.format())),
        "is_syntax": isinstance(error, SyntaxError),
    }


def _chain(part):
    """Returns the parts of a traceback: causes, contexts and members of groups."""
    parts, found = [part], []
    while parts:
        part = parts.pop()
        if part is not None and all(part is not other for other in found):
            found.append(part)
            parts += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return found


def _is_shown(filename):
    """Reports whether frames of a file are shown: those of cells and of other modules."""
    hidden = ("asyncio/", "isola_guest", "sandbox/")
    return filename != _own_file and not any(part in filename for part in hidden)


def _shortened(text):
    if len(text) <= MAX_TEXT_CHARS:
        return text
    half = MAX_TEXT_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def _tagged(kind, value):
    return {TAG: kind, "value": value}


_import = builtins.__import__


def _checked_import(name, globals=None, locals=None, fromlist=(), level=0):
    """Refuses modules that cells may not import. Their own imports are not checked."""
    if _imports is not None and not _is_allowed(name):
        caller = sys._getframe(1).f_globals if globals is None else globals
        if caller.get("__name__") == "__main__":
            allowed = ", ".join(_imports)
            raise ImportError(f"Import of {name} is not allowed. Authorized imports are: {allowed}")
    return _import(name, globals, locals, fromlist, level)


def _is_allowed(name):
    return any(
        allowed == "*"
        or f"{allowed}.".startswith(f"{name}.")
        or (allowed.endswith(".*") and f"{name}.".startswith(allowed[:-1]))
        for allowed in _imports
    )


builtins.__import__ = _checked_import
