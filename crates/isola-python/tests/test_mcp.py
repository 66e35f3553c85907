"""`isola mcp`, tested with the client of the PyPI package mcp."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


@asynccontextmanager
async def client(*options: str) -> AsyncIterator[ClientSession]:
    command = os.environ["ISOLA_COMMAND"]
    environment = {"ISOLA_RUNTIME_DIR": _runtimes(), **_home()}
    server = StdioServerParameters(command=command, args=["mcp", *options], env=environment)
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        started = await session.initialize()
        assert started.server_info.name == "isola"
        yield session


def _runtimes() -> str:
    from pathlib import Path

    import isola

    return str(Path(isola.__file__).parent / "runtimes")


def _home() -> dict[str, str]:
    return {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME") if name in os.environ}


async def call(client: ClientSession, tool: str, /, **arguments: Any) -> tuple[bool, str, Any]:
    result = await client.call_tool(tool, arguments)
    text = "".join(getattr(block, "text", "") for block in result.content)
    return bool(result.is_error), text, result.structured_content


async def test_tools_run_code_in_sessions() -> None:
    async with client() as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert sorted(tools) == ["run_javascript", "run_python"]
        assert tools["run_python"].input_schema["required"] == ["source"]

        assert await call(session, "run_python", source="x = 20\nprint('hi')\nx + 1") == (
            False,
            "hi\n21\n",
            {"stdout": "hi\n", "stderr": "", "logs": [], "results": [], "value": 21},
        )
        # Variables exist only in their session.
        assert (await call(session, "run_python", source="x"))[1] == "20\n"
        failed, text, parts = await call(session, "run_python", source="x", session="other")
        assert failed and text.startswith("NameError: name 'x' is not defined")
        assert parts["error"]["code"] == "guest_exception"
        failed, _, _ = await call(session, "run_python", source="x", restart=True)
        assert failed

        assert (await call(session, "run_javascript", source="var y = 6; y * 7"))[1] == "42\n"
        assert (await call(session, "run_javascript", source="y"))[1] == "6\n"
        # A sandbox has no access to the host's files.
        failed, text, _ = await call(session, "run_python", source="open('/etc/passwd')")
        assert failed and "FileNotFoundError" in text


async def test_limits() -> None:
    options = ["--cpu-timeout", "200ms", "--timeout", "5s", "--max-output", "1K"]
    async with client(*options, "--max-sessions", "1") as session:
        await call(session, "run_python", source="x = 1")
        failed, text, parts = await call(session, "run_python", source="while True: pass")
        assert failed and parts["error"]["code"] == "cpu_time_limit"
        _, text, _ = await call(session, "run_python", source="'x' in globals()")
        assert text.splitlines() == [
            "[the session was restarted: the previous code ended its interpreter, and its "
            "variables were lost]",
            "false",
        ]
        failed, _, parts = await call(session, "run_python", source="print('x' * 5000)")
        assert failed and parts["error"]["code"] == "output_limit"
        # Only one session is kept: a new one replaces it.
        await call(session, "run_python", source="x = 1")
        await call(session, "run_python", source="x = 2", session="b")
        assert (await call(session, "run_python", source="x"))[0]


async def test_cancelled_call_stops_its_guest() -> None:
    async with client("--cpu-timeout", "100s", "--timeout", "100s") as session:
        await call(session, "run_python", source="x = 1")
        with anyio.move_on_after(0.3) as scope:
            await call(session, "run_python", source="while True: pass")
        assert scope.cancelled_caught
        # The guest was stopped, so the session is free long before its time limit.
        with anyio.fail_after(60):
            _, text, _ = await call(session, "run_python", source="1 + 1", restart=True)
        assert text.endswith("2\n")


async def test_invalid_calls_are_refused_with_a_reason() -> None:
    async with client() as session:
        bad: list[tuple[str, dict[str, Any], str]] = [
            ("run_ruby", {"source": "1"}, "use run_python or run_javascript"),
            ("run_python", {}, "source is missing"),
            ("run_python", {"source": 5}, "source is not a string"),
            ("run_python", {"source": "1", "session": ""}, "session must be a string"),
            ("run_python", {"source": "1", "restart": "no"}, "restart must be true or false"),
            ("run_python", {"source": "1", "colour": "red"}, 'unknown argument "colour"'),
        ]
        for tool, arguments, why in bad:
            with pytest.raises(Exception, match=why):
                await session.call_tool(tool, arguments)
