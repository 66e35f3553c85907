"""Runs scripts and calls functions."""

from isola_guest import own_builtins as __builtins__  # noqa: A004

import __main__ as _build_main  # noqa: F401  (makes sure that the name exists)
import builtins
import inspect
import linecache
import os
import sys
import types

from wit_world.imports import host

from . import dependencies, finish as end, locales, loop, resumption, stdio, values, waits
from .failures import failure

# The module of user code: `__main__`, as for a script.
_user = types.ModuleType("__main__")
_globals = _user.__dict__

_SCALARS = frozenset({str, int, float, bool, type(None), list, dict, tuple})
_JSON_LIKE = (str, int, float, list, dict, tuple)
_BYTES_LIKE = (bytes, bytearray, memoryview)

# How often each script name was used: a name means one source in tracebacks.
_names = {}


def prepare():
    """What can be done while the component is built."""
    _globals["__builtins__"] = builtins
    stdio.install()
    waits.install()
    locales.install()
    # The environment of the build is not that of a sandbox.
    os.environ.clear()
    # A mount that can be written is no place for the guest's own caches.
    sys.dont_write_bytecode = True
    # An integer at the border has as many digits as it has.
    sys.set_int_max_str_digits(0)
    # Run each path once, so that what is made on first use is in the snapshot.
    exec(compile("def warm(x, *, y=1):\n    return x\n", "warm", "exec"), {})
    values.encode({"a": [1, 2.5, None, True, "é"]})
    values.decode('{"a": [1, 2.5, null, true, "é"]}')
    failure(ValueError("warm"))
    loop.run(_nothing())
    loop.run(_drain(_no_items()))
    loop.finish()
    end.prepare()


def start(config):
    """Makes this interpreter a sandbox of its own."""
    sys.modules["__main__"] = _user
    resumption.start(config)


def load(source, name):
    """Runs a script at the top level."""
    try:
        try:
            # A mark of UTF-8 that some editors put at the beginning of a file.
            _run_script(source.removeprefix("\ufeff"), name)
        finally:
            _settle()
    except BaseException as error:
        raise failure(error) from None


def call(function, arguments):
    """Calls a function of user code and returns the JSON text of its result."""
    try:
        try:
            return _call_function(function, arguments)
        finally:
            _settle()
    except BaseException as error:
        raise failure(error) from None


def finish():
    """Ends the interpreter: nothing that user code has begun is left undone."""
    try:
        try:
            end.finish(_user)
        finally:
            _settle()
    except BaseException as error:
        raise failure(error) from None


def emit(value):
    """Hands a partial result to the host."""
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
        # As `python3` has it: the script, and no arguments.
        sys.argv.append(name)
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
    result = target(*args, **kwargs)
    if type(result) not in _SCALARS:
        result = _finish(result)
    return values.encode(result)


async def _nothing():
    pass


async def _no_items():
    for item in ():
        yield item


def _finish(result):
    """Awaits a result and streams its items, as far as it asks for that."""
    if inspect.isawaitable(result):
        result = loop.run(_await(result))
    if isinstance(result, _JSON_LIKE) or result is None:
        return result
    if isinstance(result, _BYTES_LIKE):
        return result  # which `encode` refuses by name
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


def _settle():
    """The end of a call: nothing is left buffered or pending."""
    try:
        loop.finish()
    finally:
        stdio.flush_files()
        stdio.flush()
