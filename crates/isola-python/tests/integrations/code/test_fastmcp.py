"""`isola.integrations.fastmcp` with FastMCP's code mode, server and client."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.experimental.transforms.code_mode import CodeMode, SandboxProvider
from hostile import HOST_ENVIRONMENT, HOST_FILES, HOST_NETWORK, HOST_PROCESSES

import isola
from isola.integrations.fastmcp import IsolaSandboxProvider


@pytest.fixture(scope="module")
def provider(python: isola.SandboxTemplate) -> IsolaSandboxProvider:
    return IsolaSandboxProvider(python)


async def failure(running: Any) -> str:
    with pytest.raises(ToolError) as caught:
        await running
    return str(caught.value)


async def test_the_value_is_that_of_return_or_of_the_last_expression(
    provider: SandboxProvider,
) -> None:
    assert await provider.run("x = 20\nreturn x + 1") == 21
    assert await provider.run("x = 20\nx + 1") == 21
    assert await provider.run("for i in range(9):\n    if i == 4: return i") == 4
    assert await provider.run("x = 1") is None
    assert await provider.run("") is None
    assert await provider.run("print('a')\nprint('b')") == "a\nb\n"
    assert await provider.run("print('a')\nreturn 1") == 1
    assert (
        await provider.run("import asyncio\nawait asyncio.sleep(0.01)\nreturn 'slept'") == "slept"
    )
    source = "def f(n): return 1 if n < 2 else n * f(n - 1)\nreturn f(30)"
    assert await provider.run(source) == 265252859812191058636308480000000


async def test_values_keep_their_types(provider: SandboxProvider) -> None:
    value = {
        "a": [None, True, 1.5, "é"],
        "t": (1, (2,)),
        "s": {1, 2},
        "b": b"\0\xff",
        "d": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "n": {1: "one", (2, 3): "pair"},
        "f": float("inf"),
        "$isola": "not a tag",
    }
    assert await provider.run("return v", inputs={"v": value}) == value
    assert "object cannot leave the sandbox" in await failure(provider.run("return object()"))
    with pytest.raises(isola.InvalidArgumentError, match="'v': a value of type object"):
        await provider.run("return v", inputs={"v": object()})


async def test_functions_are_awaited_and_run_concurrently(provider: SandboxProvider) -> None:
    running = most = 0

    async def double(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return n * 2

    def plain(a: int, *, b: int) -> list[int]:
        return [a, b]

    source = """
import asyncio
doubled = await asyncio.gather(*(double(n) for n in range(8)))
return doubled, await plain(1, b=2)
"""
    functions: dict[str, Callable[..., Any]] = {"double": double, "plain": plain}
    result = await provider.run(source, external_functions=functions)
    assert result == ([0, 2, 4, 6, 8, 10, 12, 14], [1, 2])
    assert most == 8


async def test_errors_of_functions_can_be_caught(provider: SandboxProvider) -> None:
    class StrangeError(Exception):
        pass

    async def fail(kind: str) -> None:
        raise {"value": ValueError("no such thing"), "strange": StrangeError("odd")}[kind]

    source = """
caught = []
for kind in ("value", "strange"):
    try:
        await fail(kind)
    except ValueError as error:
        caught.append(str(error))
    except RuntimeError as error:
        caught.append(str(error))
return caught
"""
    functions = {"fail": fail}
    assert await provider.run(source, external_functions=functions) == [
        "no such thing",
        "StrangeError: odd",
    ]
    message = await failure(provider.run("await fail('value')", external_functions=functions))
    assert "ValueError: no such thing" in message
    assert "await fail('value')" in message
    assert "test_fastmcp" not in message, "the host's traceback must not be in it"


async def test_errors_say_what_failed_and_where(provider: SandboxProvider) -> None:
    message = await failure(provider.run("print('before')\ndef f():\n    return 1 / 0\nf()"))
    assert "ZeroDivisionError: division by zero" in message
    assert "line 3, in f" in message and "It had printed:\nbefore" in message
    assert "isola" not in message.lower()
    assert "SyntaxError" in await failure(provider.run("return ("))
    assert "SyntaxError" in await failure(provider.run("yield 1"))
    with pytest.raises(isola.InvalidArgumentError, match="'not a name'"):
        await provider.run("1", inputs={"not a name": 1})


async def test_runs_share_nothing(provider: SandboxProvider) -> None:
    await provider.run("import builtins\nbuiltins.leak = 1\nopen('leak', 'w').write('x')")
    source = "import builtins, os\nreturn [hasattr(builtins, 'leak'), os.path.exists('leak')]"
    assert await provider.run(source) == [False, False]


async def test_concurrent_runs_do_not_mix(provider: SandboxProvider) -> None:
    async def one(n: int) -> Any:
        async def echo(value: int) -> int:
            await asyncio.sleep(0.01)
            return value + n

        source = "return [await echo(i) for i in range(5)]"
        return await provider.run(source, external_functions={"echo": echo})

    results = await asyncio.gather(*(one(n * 100) for n in range(12)))
    assert results == [[n * 100 + i for i in range(5)] for n in range(12)]


async def test_limits_stop_code_with_advice(python: isola.SandboxTemplate) -> None:
    limits = isola.Limits(max_memory=64 << 20, max_output_size=100_000)
    limited = IsolaSandboxProvider(python, limits=limits)
    message = await failure(IsolaSandboxProvider(python, cpu_timeout=0.3).run("while True: pass"))
    assert "CPU time" in message and "check that loops end" in message
    message = await failure(limited.run("x = []\nwhile True: x.append('x' * 1_000_000)"))
    assert "MemoryError" in message or "memory" in message
    message = await failure(limited.run("while True: print('x' * 1000)"))
    assert "Print less" in message
    assert len(message) < 10_000
    begun = time.monotonic()
    short = IsolaSandboxProvider(python, timeout=1)
    message = await failure(short.run("import asyncio\nawait asyncio.sleep(60)"))
    assert "longer than 1 s" in message
    assert time.monotonic() - begun < 20
    # Later runs are not affected.
    assert await limited.run("return 1") == 1
    with pytest.raises(isola.InvalidArgumentError, match="cpu_timeout is 0"):
        IsolaSandboxProvider(python, cpu_timeout=0)


async def test_code_cannot_reach_the_host(
    provider: SandboxProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "xyzzy")
    connected = False

    async def connect(reader: object, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected = True
        writer.close()

    listener = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        assert await provider.run(HOST_FILES) == []
        assert "xyzzy" not in json.dumps(await provider.run(HOST_ENVIRONMENT))
        assert await provider.run(HOST_PROCESSES) == 3
        assert await provider.run(HOST_NETWORK.replace("PORT", str(port))) == 2
    assert not connected
    source = "from sandbox.asyncio import hostcall\nreturn await hostcall('isola.tool', X)"
    for payload in ("None", "[]", "{'name': '__import__', 'args': ['os'], 'kwargs': {}}"):
        answer = await provider.run(source.replace("X", payload))
        assert answer["error"]["type"] in ("LookupError", "ValueError")


async def test_forged_outcomes_are_only_errors(provider: SandboxProvider) -> None:
    source = "from sandbox.asyncio import hostcall\nawait hostcall('isola.outcome', X)\nimport os\nos._exit(0)"
    for payload in ("None", "{'kind': 'final'}", "{'kind': 'value', 'value': {'$isola': 'x'}}"):
        message = await failure(provider.run(source.replace("X", payload)))
        assert "test_fastmcp" not in message
    deep = "x = 1\nfor _ in range(100_000): x = [x]\nreturn x"
    assert "Error" in await failure(provider.run(deep))


async def test_cancelling_stops_the_guest_and_its_functions(provider: SandboxProvider) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    running = asyncio.create_task(provider.run("await wait()", external_functions={"wait": wait}))
    await asyncio.wait_for(started.wait(), 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set(), "the function's `finally` must have run"

    begun = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(provider.run("while True: pass"), 0.3)
    assert time.monotonic() - begun < 10


def make_server(**options: Any) -> FastMCP:
    server = FastMCP("shop", transforms=[CodeMode(**options)])
    prices = {"apple": 3, "pear": 5}

    @server.tool
    def price(name: str) -> int:
        """Returns the price of a fruit in cents."""
        if name not in prices:
            raise ToolError(f"there is no fruit {name!r}")
        return prices[name]

    @server.tool
    async def order(name: str, count: int, ctx: Context) -> dict[str, Any]:
        """Orders a number of fruits."""
        await ctx.info(f"ordering {count} {name}")
        return {"name": name, "total": prices[name] * count}

    return server


async def test_a_client_discovers_tools_and_chains_them(provider: IsolaSandboxProvider) -> None:
    """The client takes the turns of a model: search, schema, execute, repair."""
    async with Client(make_server(sandbox_provider=provider)) as client:
        names = [tool.name for tool in await client.list_tools()]
        assert names == ["search", "get_schema", "execute"]
        found = await client.call_tool("search", {"query": "price of a fruit"})
        assert "price" in found.content[0].text
        schema = await client.call_tool("get_schema", {"tools": ["order"]})
        assert "count" in schema.content[0].text

        source = """
import asyncio
names = ["apple", "pear"]
prices = await asyncio.gather(*(call_tool("price", {"name": name}) for name in names))
cheapest = min(zip((p["result"] for p in prices), names))[1]
return await call_tool("order", {"name": cheapest, "count": 4})
"""
        done = await client.call_tool("execute", {"code": source})
        assert json.loads(done.content[0].text) == {"name": "apple", "total": 12}

        wrong = {"code": 'await call_tool("price", {"name": "plum"})'}
        with pytest.raises(ToolError, match="there is no fruit 'plum'"):
            await client.call_tool("execute", wrong)
        wrong = {"code": 'await call_tool("price", {"fruit": "apple"})'}
        with pytest.raises(ToolError, match=r"Valid parameters for price .*: name\*"):
            await client.call_tool("execute", wrong)
        wrong = {"code": 'await call_tool("nothing", {})'}
        with pytest.raises(ToolError, match="Unknown tool: nothing"):
            await client.call_tool("execute", wrong)


async def test_the_limits_of_code_mode_apply(provider: IsolaSandboxProvider) -> None:
    options = {"max_tool_calls": 2, "wall_clock_timeout_secs": 1.0}
    async with Client(make_server(sandbox_provider=provider, **options)) as client:
        loop = 'for _ in range(3): await call_tool("price", {"name": "apple"})'
        with pytest.raises(ToolError, match="at most 2"):
            await client.call_tool("execute", {"code": loop})
        with pytest.raises(ToolError, match="wall-clock limit of 1.0 seconds"):
            await client.call_tool("execute", {"code": "while True: pass"})
        done = await client.call_tool("execute", {"code": "return 2"})
        assert done.content[0].text == "2"


async def test_a_masked_server_still_shows_errors_of_code(provider: IsolaSandboxProvider) -> None:
    server = FastMCP(
        "masked", transforms=[CodeMode(sandbox_provider=provider)], mask_error_details=True
    )
    async with Client(server) as client:
        with pytest.raises(ToolError, match="NameError: name 'x' is not defined"):
            await client.call_tool("execute", {"code": "x"})


async def test_without_a_template_one_is_built() -> None:
    assert await IsolaSandboxProvider().run("return 6 * 7") == 42
    javascript: Any = await isola.build_template("js")
    with pytest.raises(isola.InvalidArgumentError, match='runtime "js"'):
        IsolaSandboxProvider(javascript)


def test_the_import_says_what_to_install(without: Callable[[str, str], str]) -> None:
    error = without("isola.integrations.fastmcp", "fastmcp")
    assert 'pip install "isola[fastmcp]"' in error and "ImportError" in error


def test_the_samples_of_the_page_run(run_page: Callable[[str, Path], int], tmp_path: Path) -> None:
    assert run_page("fastmcp.md", tmp_path) >= 1
