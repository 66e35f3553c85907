"""Calls, arguments and values."""

from __future__ import annotations

import enum
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import pytest

import isola
import isola.sync
from isola import Arg

SCRIPT = """
import asyncio

def add(a, b=1):
    return a + b

def echo(*args, **kwargs):
    return [list(args), kwargs]

async def later(x):
    await asyncio.sleep(0)
    return x

def items(n):
    for i in range(n):
        yield i
    return "dropped"

async def async_items(n):
    for i in range(n):
        yield i

def fail():
    raise ValueError("no good")
"""


async def test_values_round_trip(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        for value in [
            None,
            True,
            0,
            -1,
            2**200,
            1.0,
            1.5,
            "",
            "é🦀\n\0",
            [],
            [1, [2, [3]]],
            {},
            {"a": {"b": [None]}},
        ]:
            assert await sandbox.run("echo", value) == [[value], {}]
        integral = await sandbox.run("later", 1.0)
        assert isinstance(integral, float)
        assert await sandbox.run("echo", (1, 2)) == [[[1, 2]], {}]

        class Color(enum.IntEnum):
            RED = 2**70

        assert await sandbox.run("later", Color.RED) == 2**70


async def test_arguments_are_passed_by_position_and_by_name(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("add", 2, 3) == 5
        assert await sandbox.run("add", 2, b=4) == 6
        assert await sandbox.run("add", Arg(7), Arg(1, "b")) == 8
        assert await sandbox.run("add", 2, b=Arg(4)) == 6
        assert await sandbox.run("echo", Arg(1, name="timeout")) == [[], {"timeout": 1}]
        refused: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            ((Arg(1, "a"),), {"a": 2}, "'a' is given twice: by an Arg and by a keyword"),
            ((Arg(1, "a"), Arg(2, "a")), {}, "'a' is given twice"),
            ((), {"a": Arg(1, "b")}, "the keyword 'a' is given an argument with the name 'b'"),
            ((math.nan,), {}, "positional argument 0, at $: NaN is not a JSON value"),
            (([1, math.inf],), {}, "at $[1]: an infinity"),
            ((), {"x": {"k": {1: 2}}}, "x, at $.k: a key is not a string"),
            (({1, 2},), {}, "set is not a JSON value"),
            (("\ud800",), {}, "lone surrogate"),
        ]
        for args, kwargs, why in refused:
            with pytest.raises(isola.InvalidArgumentError) as caught:
                await sandbox.run("echo", *args, **kwargs)
            assert why in str(caught.value)
        loop: list[object] = []
        loop.append(loop)
        with pytest.raises(isola.InvalidArgumentError, match="or contains itself"):
            await sandbox.run("echo", loop)
        # None of these calls affected the sandbox.
        assert await sandbox.run("add", 1) == 2


def test_arg_is_immutable() -> None:
    arg = Arg([1], "name")
    assert (arg.value, arg.name) == ([1], "name")
    assert arg == Arg([1], name="name") != Arg([1])
    assert repr(arg) == "Arg([1], name='name')"
    with pytest.raises(AttributeError, match="immutable"):
        arg.value = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del arg.name
    with pytest.raises(isola.InvalidArgumentError, match="must be a string"):
        Arg(1, 2)  # type: ignore[arg-type]
    match Arg(5, "n"):
        case Arg(value, name):
            assert (value, name) == (5, "n")


async def test_return_value_of_a_generator_is_dropped(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("items", 3) is None
        for function in ("items", "async_items"):
            events = [event async for event in sandbox.run_stream(function, 2)]
            assert events == [
                isola.ResultEvent(0),
                isola.ResultEvent(1),
                isola.EndEvent(None),
            ]


async def test_guest_exception_is_raised_with_its_traceback(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(SCRIPT, name="mine.py")
        with pytest.raises(isola.GuestError) as caught:
            await sandbox.run("fail")
        error = caught.value
        assert error.code == "guest_exception"
        assert str(error).startswith("ValueError: no good\n")
        assert 'File "mine.py"' in str(error)
        assert error.exception is not None
        assert error.exception.name == "ValueError"
        assert error.exception.message == "no good"
        assert "in fail" in error.exception.traceback
        with pytest.raises(isola.IsolaError, match="^NameError: name 'nope' is not defined"):
            await sandbox.run("nope")
        assert await sandbox.run("add", 1) == 2


async def test_crash_of_the_guest_closes_the_sandbox(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script("import os\ndef leave(): os._exit(3)")
        with pytest.raises(isola.CrashError, match="the guest interpreter crashed") as caught:
            await sandbox.run("leave")
        assert caught.value.code == "crash"
        assert isinstance(caught.value, isola.GuestError)
        assert sandbox.closed
        with pytest.raises(isola.ClosedError, match="an earlier call ended it"):
            await sandbox.run("leave")


async def test_javascript(javascript: isola.SandboxTemplate) -> None:
    assert javascript.runtime == "js"
    async with javascript.create() as sandbox:
        assert sandbox.runtime == "js"
        await sandbox.load_script(
            "const double = (n) => n * 2;\n"
            "async function* count(n) { for (let i = 0; i < n; i++) yield i; return 'end'; }\n"
            "function named({ a, b }) { return [a, b]; }"
        )
        assert await sandbox.run("double", 21) == 42
        assert await sandbox.run("named", a=1, b=2) == [1, 2]
        events = [event async for event in sandbox.run_stream("count", 1)]
        assert events == [isola.ResultEvent(0), isola.EndEvent("end")]
        with pytest.raises(isola.GuestError, match="^ReferenceError: nope is not defined"):
            await sandbox.run("nope")


async def test_integer_beyond_the_digit_limit_is_refused(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script("def big(): return 10 ** 5000")
        # Before Python 3.11, except in the last releases of older versions, there is no limit.
        if not hasattr(sys, "get_int_max_str_digits"):
            assert await sandbox.run("big") == 10**5000
            return
        with pytest.raises(isola.InvalidArgumentError, match="cannot be decoded here"):
            await sandbox.run("big")


def test_errors_can_be_pickled() -> None:
    import pickle

    error = isola.HostcallError(
        "ValueError: x", exception=isola.GuestException("ValueError", "x", "")
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is isola.HostcallError
    assert (str(copy), copy.code) == ("ValueError: x", "hostcall_failed")
    assert copy.exception == error.exception


def test_package_is_typed_and_every_export_has_a_docstring() -> None:
    assert (Path(isola.__file__).parent / "py.typed").is_file()
    for module in (isola, isola.sync):
        for name in module.__all__:
            exported = getattr(module, name)
            if inspect.isclass(exported) or inspect.isfunction(exported):
                assert exported.__doc__, name
