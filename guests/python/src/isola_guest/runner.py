"""Runs scripts and calls functions."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import __main__ as _build_main  # noqa: F401  (ensures that the name exists)
import builtins
import inspect
import linecache
import os
import sys
import types

from componentize_py_types import Err
from wit_world.imports import host

from . import (
    clients,
    code,
    conversions,
    dependencies,
    files,
    finish as end,
    known_packages,
    locales,
    loop,
    processes,
    resumption,
    sockets,
    stdio,
    values,
    waits,
)
from .failures import failure

# The module of user code: `__main__`, as for a script.
_user = types.ModuleType("__main__")
_globals = _user.__dict__

_SCALARS = frozenset({str, int, float, bool, type(None), list, dict, tuple})
_JSON_LIKE = (str, int, float, list, dict, tuple)
_BYTES_LIKE = (bytes, bytearray, memoryview)

# The number of uses of each script name, since a name in tracebacks must be unique.
_names = {}


def prepare():
    """Prepares everything that can be done while the component is built."""
    _globals["__builtins__"] = builtins
    stdio.install()
    files.install_in_python_io()
    waits.install()
    locales.install()
    sockets.install()
    clients.install()
    known_packages.install()
    processes.install()
    # The environment of the build is not that of a sandbox.
    os.environ.clear()
    # The guest must not write its bytecode caches to writable mounts.
    sys.dont_write_bytecode = True
    # Integers in values of the host may have any number of digits.
    sys.set_int_max_str_digits(0)
    # Run each code path once, so that objects created on first use are in the snapshot.
    exec(compile("def warm(x, *, y=1):\n    return x\n", "warm", "exec"), {})
    values.encode({"a": [1, 2.5, None, True, "é"]})
    values.decode('{"a": [1, 2.5, null, true, "é"]}')
    failure(ValueError("warm"))
    loop.run(_noop())
    loop.run(_drain(_no_items()))
    loop.finish()
    code.prepare(_user)
    end.prepare()


def start(config):
    """Starts this interpreter as a sandbox."""
    sys.modules["__main__"] = _user
    resumption.start(config)


def load(source, name):
    """Runs a script at the top level."""
    try:
        try:
            # Removes the byte order mark that some editors write at the start of a file.
            _run_script(source.removeprefix("\ufeff"), name)
        finally:
            _end_call()
    except BaseException as error:
        raise failure(error) from None


def call(function, arguments):
    """Calls a function of user code and returns the JSON text of its result."""
    try:
        try:
            return _call_function(function, arguments)
        finally:
            _end_call()
    except BaseException as error:
        raise failure(error) from None


def evaluate(source):
    """Runs source code and returns the JSON text of the value of its last expression."""
    try:
        try:
            return _sent(_representable(code.evaluate(source)))
        finally:
            _end_call()
    except BaseException as error:
        raise failure(error) from None


def run_code(source, context):
    """Runs code in a context and returns its number there."""
    return guarded(code.run, source, context)


def guarded(function, *args):
    """Calls a function of the runner, and ends the call."""
    try:
        try:
            return function(*args)
        finally:
            _end_call()
    except Err:
        raise
    except BaseException as error:
        raise failure(error) from None


def finish():
    """Shuts the interpreter down, after all pending work of user code was ended."""
    try:
        try:
            end.finish(_user)
        finally:
            _end_call()
    except BaseException as error:
        raise failure(error) from None


def emit(value):
    """Sends a partial result to the host."""
    text = values.encode(value)
    stdio.flush()
    host.emit(text)


def _run_script(source, name):
    used = _names[name] = _names.get(name, 0) + 1
    if used > 1:
        stem, dot, ending = name.rpartition(".")
        name = f"{stem}-{used}{dot}{ending}" if stem else f"{name}-{used}"
    # Tracebacks show the lines of the source.
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    if "# /// script" in source:
        dependencies.provide(source, name)
    _globals["__file__"] = name
    if not sys.argv:
        # As in `python3`: the script's name, and the arguments.
        sys.argv[:] = [name, *resumption.arguments]
    exec(compile(source, name, "exec", dont_inherit=True), _globals)


def _call_function(function, arguments):
    target = _globals.get(function)
    if target is None and function not in _globals:
        raise NameError(f"name '{function}' is not defined")
    args = []
    kwargs = {}
    for argument in arguments:
        if argument.name is None:
            args.append(values.decode(argument.value))
        else:
            kwargs[argument.name] = values.decode(argument.value)
    return _sent(target(*args, **kwargs))


def _sent(result):
    """Returns the JSON text of a result, whose items are sent if it is an iterable."""
    if type(result) not in _SCALARS:
        result = _resolve(result)
    return values.encode(result)


def _representable(value):
    """Returns a value, or its text if JSON cannot represent it and it has no items to send."""
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return value
    try:
        values.encode(value)
    except values.ValueTooLarge:
        raise
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


async def _noop():
    pass


async def _no_items():
    for item in ():
        yield item


def _resolve(result):
    """Awaits an awaitable result, and streams the items of an iterable one."""
    if inspect.isawaitable(result):
        result = loop.run(_await(result))
    if isinstance(result, _JSON_LIKE) or result is None:
        return result
    if isinstance(result, _BYTES_LIKE) or conversions.is_whole(result):
        return result  # `encode` converts it, or rejects it with a message
    if hasattr(result, "__aiter__"):
        loop.run(_drain(result))
        return None
    if hasattr(result, "__iter__"):
        for item in result:
            emit(item)
        return None
    return result


async def _await(awaitable):
    return await awaitable


async def _drain(items):
    async for item in items:
        emit(item)


def _end_call():
    """Ends a call: nothing is left buffered or pending."""
    try:
        loop.finish()
    finally:
        stdio.flush_files()
        stdio.flush()
