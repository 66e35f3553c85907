"""Evaluation of source code in a sandbox: the value of the last expression."""

from __future__ import annotations

from typing import Any

import pytest

import isola


async def test_evaluate_returns_the_value_of_the_last_expression(
    python: isola.SandboxTemplate,
) -> None:
    async with python.create() as sandbox:
        assert await sandbox.evaluate("x = 20\nx + 1") == 21
        assert await sandbox.evaluate("x = 21") is None
        assert await sandbox.evaluate("") is None
        assert await sandbox.evaluate("{'a': [None, 1.0, 'é']}") == {"a": [None, 1.0, "é"]}
        # A value that JSON cannot represent is returned as its `repr`.
        assert await sandbox.evaluate("object") == "<class 'object'>"
        assert await sandbox.evaluate("import asyncio\nawait asyncio.sleep(0, 5)") == 5
        # Scripts and evaluated code share their globals.
        await sandbox.load_script("def double(): return 2 * x")
        assert await sandbox.evaluate("double()") == 42
        assert await sandbox.run("double") == 42


async def test_errors_in_evaluated_code_are_raised(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.evaluate("x = 1")
        with pytest.raises(isola.GuestError, match="^ZeroDivisionError") as caught:
            await sandbox.evaluate("x / 0")
        assert caught.value.code == "guest_exception"
        with pytest.raises(isola.GuestError, match="^SyntaxError: invalid syntax"):
            await sandbox.evaluate("def f(:")
        not_text: Any = 5
        with pytest.raises(isola.InvalidArgumentError, match="source is a int: give the source"):
            await sandbox.evaluate(not_text)
        with pytest.raises(isola.InvalidArgumentError, match="timeout is 0"):
            await sandbox.evaluate("1", timeout=0)
        # The sandbox is as it was before.
        assert await sandbox.evaluate("x") == 1
        with pytest.raises(isola.LimitError) as limited:
            await sandbox.evaluate("while True: pass", cpu_timeout=0.05)
        assert limited.value.code == "cpu_time_limit"
        assert sandbox.closed


async def test_evaluate_stream_yields_the_events_of_the_code(python: isola.SandboxTemplate) -> None:
    async def user(number: int) -> str:
        return f"user-{number}"

    async with python.create(hostcalls={"user": user}) as sandbox:
        events = [event async for event in sandbox.evaluate_stream("print('a')\nrange(2)[1]")]
        assert events == [isola.StdoutEvent("a\n"), isola.EndEvent(1)]
        events = [event async for event in sandbox.evaluate_stream("(i for i in range(2))")]
        assert events == [isola.ResultEvent(0), isola.ResultEvent(1), isola.EndEvent(None)]
        source = "from sandbox.asyncio import hostcall\nawait hostcall('user', 7)"
        assert await sandbox.evaluate(source) == "user-7"
        events = [event async for event in sandbox.evaluate_stream("1 / 0")]
        assert [type(event) for event in events] == [isola.ErrorEvent]


async def test_javascript_is_evaluated(javascript: isola.SandboxTemplate) -> None:
    async with javascript.create() as sandbox:
        assert await sandbox.evaluate("var x = 20; x + 1") == 21
        assert await sandbox.evaluate("Promise.resolve([x])") == [20]
        assert await sandbox.evaluate("undefined") is None
        assert await sandbox.evaluate("Symbol('s')") == "Symbol(s)"
        with pytest.raises(isola.GuestError, match="^ReferenceError: nope is not defined"):
            await sandbox.evaluate("nope()")
