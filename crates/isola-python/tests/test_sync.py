"""The synchronous API."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Generator
from operator import attrgetter
from typing import Any

import pytest

import isola as asynchronous
import isola.sync as isola
from isola import _options


@pytest.fixture(scope="module")
def template() -> isola.SandboxTemplate:
    return isola.build_template("python")


def test_sync_api_has_the_same_names() -> None:
    for name in asynchronous.__all__:
        # A handler may be a plain function here, so it has another type.
        if name not in ("HostcallHandler", "HttpHandler"):
            assert name in isola.__all__, name
    for kind in (
        "SandboxContext",
        "SandboxTemplate",
        "Sandbox",
        "SandboxPool",
        "Snapshot",
        "Executor",
        "Files",
        "Contexts",
    ):
        for name, member in inspect.getmembers(getattr(asynchronous, kind)):
            if not name.startswith("_") and name != "aclose":
                assert hasattr(getattr(isola, kind), name), f"{kind}.{name}"
                assert member.__doc__
                assert getattr(getattr(isola, kind), name).__doc__
        if hasattr(getattr(asynchronous, kind), "aclose"):
            assert hasattr(getattr(isola, kind), "close"), kind


@pytest.mark.parametrize(
    "name",
    ["evaluate", "Executor", "Executor.evaluate", "Sandbox.start", "Sandbox.load_script"]
    + ["Sandbox.run", "Sandbox.run_stream", "Sandbox.evaluate", "Sandbox.evaluate_stream"]
    + ["Sandbox.run_code", "Contexts.create", "Files.write", "Files.list"]
    + ["resolve_runtime", "Snapshot.save", "SandboxPool", "SandboxContext.build_template"],
)
def test_sync_api_has_the_same_parameters(name: str) -> None:
    there, here = (attrgetter(name)(module) for module in (asynchronous, isola))
    for parameter in inspect.signature(there).parameters.values():
        mine = inspect.signature(here).parameters[parameter.name]
        assert (mine.kind, mine.default) == (parameter.kind, parameter.default), name


def test_typed_options_match_the_parameters() -> None:
    """Typed dictionaries list the options of `build_template`, `resolve_runtime` and `create`."""
    pairs: list[tuple[Callable[..., Any], type]] = [
        (asynchronous.build_template, _options.TemplateOptions),
        (asynchronous.resolve_runtime, _options.SourceOptions),
        (asynchronous.SandboxTemplate.create, _options.SandboxOptions),
        (asynchronous.SandboxTemplate.create, _options.SyncSandboxOptions),
    ]
    for function, options in pairs:
        parameters = inspect.signature(function).parameters
        named = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert named == set(options.__annotations__), options.__name__


def test_calls_return_results_and_events(template: isola.SandboxTemplate) -> None:
    assert template.runtime == "python"
    threads = []

    def plain(n: int) -> int:
        threads.append(threading.current_thread())
        return n + 1

    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n + 2

    def http(request: isola.HttpRequest) -> isola.HttpResponse:
        return isola.HttpResponse(200, body=request.url.encode())

    handlers = {"plain": plain, "later": later}
    with template.create(hostcalls=handlers, http=http) as sandbox:
        assert sandbox.runtime == "python"
        sandbox.load_script(
            "from sandbox.asyncio import hostcall\n"
            "from sandbox.http import fetch\n"
            "async def ask(name, n): return await hostcall(name, n)\n"
            "def get(url):\n"
            "    with fetch('GET', url) as response: return response.text()\n"
            "def items(xs):\n"
            "    for x in xs: yield x\n"
        )
        assert sandbox.run("ask", "plain", 1) == 2
        assert sandbox.run("ask", "later", n=isola.Arg(1)) == 3
        assert threads[0] is not threading.main_thread()
        assert sandbox.run("get", "http://a.test/") == "http://a.test/"
        stream = isola.StreamArg.from_iterable([1, 2])
        assert list(sandbox.run_stream("items", stream)) == [
            isola.ResultEvent(1),
            isola.ResultEvent(2),
            isola.EndEvent(None),
        ]
        with pytest.raises(isola.GuestError, match="^NameError"):
            sandbox.run("nope")
        assert sandbox.evaluate("n = 20\nn + 1") == 21
        assert list(sandbox.evaluate_stream("print(n)\nn")) == [
            isola.StdoutEvent("20\n"),
            isola.EndEvent(20),
        ]
        with pytest.raises(isola.LimitError):
            sandbox.load_script("while True: pass", cpu_timeout=0.05)
        assert sandbox.closed


def test_instantiated_sandbox_is_started_and_closed(template: isola.SandboxTemplate) -> None:
    sandbox = template.instantiate()
    with pytest.raises(isola.NotRunningError, match="not running"):
        sandbox.run("f")
    sandbox.start(cpu_timeout=10)
    sandbox.close()
    assert repr(sandbox) == "<Sandbox python, closed>"
    with pytest.raises(isola.ClosedError):
        sandbox.run("f")
    with pytest.raises(isola.InvalidArgumentError, match="unknown option 'colour'"):
        template.instantiate(colour="red")  # type: ignore[call-arg]


def test_closing_a_stream_early_closes_the_sandbox(template: isola.SandboxTemplate) -> None:
    with template.create() as sandbox:
        sandbox.load_script("def f():\n    yield 1\n    while True: pass")
        events = sandbox.run_stream("f")
        assert next(events) == isola.ResultEvent(1)
        events.close()
        assert sandbox.closed


def test_contexts_pools_and_executors_are_usable(template: isola.SandboxTemplate) -> None:
    assert isola.resolve_runtime("python").runtime == "python"
    with isola.SandboxContext() as context:
        built = context.build_template("python")
    with pytest.raises(isola.ClosedError, match="context is closed"):
        context.build_template("python")
    with built.create() as sandbox:
        sandbox.load_script("def f(): return 2")
        assert sandbox.run("f") == 2
    with isola.SandboxPool(template, 2, script="def f(): return 1") as pool:
        assert pool.ready == 2
        with pool.sandbox() as sandbox:
            assert sandbox.run("f") == 1
        assert sandbox.closed
        pool.warm()
        assert pool.ready == 2
    with isola.Executor(template) as executor:
        executor.evaluate("x = 1")
        assert executor.evaluate("x + 1").value == 2
        executor.reset()
        assert not executor.evaluate("x").ok
    assert isola.evaluate("1 + 1", template=template).value == 2


def test_an_exception_in_a_block_closes_its_sandbox(template: isola.SandboxTemplate) -> None:
    with pytest.raises(KeyError, match="mine"), template.create() as sandbox:
        raise KeyError("mine")
    assert sandbox.closed
    with isola.SandboxPool(template, 1) as pool:
        with pytest.raises(KeyboardInterrupt), pool.sandbox() as sandbox:
            raise KeyboardInterrupt
        assert sandbox.closed

    def generate() -> Generator[isola.Sandbox, None, None]:
        with template.create() as created:
            yield created

    sandboxes = generate()
    sandbox = next(sandboxes)
    assert not sandbox.closed
    # A generator that is closed raises `GeneratorExit` in the block.
    sandboxes.close()
    assert sandbox.closed


async def test_sync_api_works_within_a_running_event_loop(template: isola.SandboxTemplate) -> None:
    """Runs inside an event loop, as in a notebook."""
    with template.create() as sandbox:
        sandbox.load_script("def f(): return 1")
        assert sandbox.run("f") == 1
