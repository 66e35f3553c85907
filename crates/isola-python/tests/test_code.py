"""Code that runs as in a notebook: results, listeners, contexts, interrupts."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any

import pytest

import isola
import isola.sync

# A PNG of one pixel.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)

PICTURE = f"""
import base64

class Picture:
    def _repr_png_(self):
        return base64.b64decode({PNG!r})
    def _repr_html_(self):
        return '<img>'
    def _repr_json_(self):
        return {{'width': 1}}
    def __repr__(self):
        return 'a picture'

print('before')
display(Picture())
Picture()
"""


async def test_results_have_all_representations(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        execution = await sandbox.run_code(PICTURE)
        assert execution.error is None
        assert execution.logs == isola.Logs(["before\n"], [])
        shown, main = execution.results
        assert (shown.is_main_result, main.is_main_result) == (False, True)
        for result in (shown, main):
            assert set(result.formats()) == {
                "application/json",
                "image/png",
                "text/html",
                "text/plain",
            }
            assert result.png is not None
            assert base64.b64decode(result.png).startswith(b"\x89PNG")
            assert (result.html, result.text) == ("<img>", "a picture")
            assert result.json == {"width": 1}
            assert (result.svg, result.latex, result.chart) == (None, None, None)
        assert execution.text == "a picture"
        assert execution.execution_count == 1
        as_json = json.loads(execution.to_json())
        assert as_json["results"][1]["data"]["image/png"] == PNG
        assert as_json["error"] is None and as_json["execution_count"] == 1


async def test_an_exception_is_in_the_execution(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        execution = await sandbox.run_code("x = 1\n1 / 0")
        assert execution.error is not None
        assert execution.error.name == "ZeroDivisionError"
        assert execution.error.value == "division by zero"
        assert execution.error.traceback.startswith("Traceback")
        assert execution.text is None
        execution = await sandbox.run_code("x + 1")
        assert (execution.text, execution.execution_count) == ("2", 2)
        await sandbox.load_script("def get(): return x")
        assert await sandbox.run("get") == 1


async def test_listeners_get_events_while_the_code_runs(python: isola.SandboxTemplate) -> None:
    seen: list[tuple[str, object]] = []
    arrived = asyncio.Event()

    async def wait(_: object) -> None:
        await arrived.wait()

    async def on_result(result: isola.Result) -> None:
        await asyncio.sleep(0)
        seen.append(("result", result.text))

    def on_stdout(text: str) -> None:
        seen.append(("stdout", text))
        # The code continues only after its first line was received.
        arrived.set()

    async with python.create(hostcalls={"wait": wait}) as sandbox:
        execution = await sandbox.run_code(
            "import sys\n"
            "from sandbox.asyncio import hostcall\n"
            "print('out')\n"
            "await hostcall('wait', None)\n"
            "print('err', file=sys.stderr)\n"
            "display(1)\n"
            "raise ValueError('no')",
            on_stdout=on_stdout,
            on_stderr=lambda text: seen.append(("stderr", text)),
            on_result=on_result,
            on_error=lambda error: seen.append(("error", error.name)),
        )
        assert seen == [
            ("stdout", "out\n"),
            ("stderr", "err\n"),
            ("result", "1"),
            ("error", "ValueError"),
        ]
        assert execution.logs == isola.Logs(["out\n"], ["err\n"])
        assert execution.error is not None and execution.error.value == "no"


async def test_code_is_interrupted_if_a_listener_raises(python: isola.SandboxTemplate) -> None:
    def on_stdout(text: str) -> None:
        raise KeyError(text)

    async with python.create() as sandbox:
        with pytest.raises(KeyError, match="1"):
            await sandbox.run_code(
                "count = 0\nwhile True:\n    count += 1\n    print(count)", on_stdout=on_stdout
            )
        execution = await sandbox.run_code("count > 0")
        assert execution.text == "True"


async def test_contexts_have_their_own_state(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.files.make_dir("/data")
        context = await sandbox.contexts.create(cwd="/data")
        assert (context.language, context.cwd) == ("python", "/data")
        await sandbox.run_code("x = 1")
        assert (await sandbox.run_code("x = 2; x", context=context)).text == "2"
        assert (await sandbox.run_code("x")).text == "1"
        assert (await sandbox.run_code("import os; os.getcwd()", context=context.id)).text == (
            "'/data'"
        )
        listed = await sandbox.contexts.list()
        assert [(each.id, each.execution_count) for each in listed] == [
            ("default", 2),
            (context.id, 2),
        ]
        # Copies have them, too.
        [child] = await sandbox.fork()
        async with child:
            assert (await child.run_code("x", context=context)).text == "2"
        assert (await sandbox.contexts.restart(context)).execution_count == 0
        missing = await sandbox.run_code("x", context=context)
        assert missing.error is not None and missing.error.name == "NameError"
        assert not await sandbox.contexts.interrupt(context)
        await sandbox.contexts.remove(context)
        with pytest.raises(isola.InvalidArgumentError):
            await sandbox.run_code("x", context=context)
        with pytest.raises(isola.InvalidArgumentError):
            await sandbox.contexts.remove("default")


async def test_code_is_interrupted_and_keeps_its_state(python: isola.SandboxTemplate) -> None:
    running = asyncio.Event()
    async with python.create() as sandbox:
        assert not sandbox.interrupt()
        loop = "print('running')\ncount = 0\nwhile True:\n    count += 1"
        task = asyncio.create_task(sandbox.run_code(loop, on_stdout=lambda _: running.set()))
        await running.wait()
        with pytest.raises(isola.BusyError):
            await sandbox.run_code("1")
        assert not await sandbox.contexts.interrupt("other")
        assert await sandbox.contexts.interrupt("default")
        execution = await task
        assert execution.error is not None and execution.error.name == "KeyboardInterrupt"
        execution = await sandbox.run_code("while True: pass", timeout=0.05)
        assert execution.error is not None and execution.error.name == "TimeoutError"
        assert (await sandbox.run_code("count > 0")).text == "True"
        with pytest.raises(isola.LimitError) as limited:
            await sandbox.run_code("while True: pass", cpu_timeout=0.05)
        assert limited.value.code == "cpu_time_limit"
        assert sandbox.closed


async def test_wrong_arguments_are_named(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        wrong: list[tuple[Any, str]] = [
            (sandbox.run_code(5), "code is a int"),  # type: ignore[arg-type]
            (sandbox.run_code("1", language="ruby"), "this sandbox runs python, not `ruby`"),
            (sandbox.run_code("1", language=5), "language is 5"),  # type: ignore[arg-type]
            (sandbox.run_code("1", context=5), "context is 5"),  # type: ignore[arg-type]
            (sandbox.run_code("1", context="a b"), "not an id of a context: `a b`"),
            (sandbox.run_code("1", on_result=5), "on_result is 5"),  # type: ignore[arg-type]
            (sandbox.run_code("1", timeout=0), "timeout is 0"),
            (sandbox.contexts.create("javascript"), "this sandbox runs python, not `javascript`"),
            (sandbox.contexts.create(cwd=5), "cwd is 5"),  # type: ignore[arg-type]
            (sandbox.contexts.create(cwd="/none"), "/none"),
            (sandbox.contexts.restart("none"), "none"),
        ]
        for operation, why in wrong:
            with pytest.raises(isola.InvalidArgumentError, match=why):
                await operation
        assert (await sandbox.run_code("1", language="python")).text == "1"


async def test_javascript_runs_in_contexts(javascript: isola.SandboxTemplate) -> None:
    async with javascript.create() as sandbox:
        context = await sandbox.contexts.create("javascript")
        await sandbox.run_code("const x = 1", context=context)
        execution = await sandbox.run_code(
            "console.log('out'); display({'text/html': '<b>'}); [x]", context=context
        )
        assert execution.logs.stdout == ["out\n"]
        assert execution.results[0].html == "<b>"
        assert execution.text == "[ 1 ]"
        failed = await sandbox.run_code("x")
        assert failed.error is not None and failed.error.name == "ReferenceError"


def test_code_without_await() -> None:
    template = isola.sync.build_template("python")
    with template.create() as sandbox:
        threads: list[threading.Thread] = []
        read: list[bytes] = []

        def on_stdout(_: str) -> None:
            threads.append(threading.current_thread())
            # A listener may use the synchronous API.
            read.append(sandbox.files.read("x"))
            sandbox.interrupt()

        execution = sandbox.run_code(
            "open('x', 'w').write('1')\nprint('running')\nwhile True: pass", on_stdout=on_stdout
        )
        assert execution.error is not None and execution.error.name == "KeyboardInterrupt"
        assert read == [b"1"]
        assert threads[0] is not threading.current_thread()
        context = sandbox.contexts.create()
        assert sandbox.run_code("6 * 7", context=context).text == "42"
        assert [each.id for each in sandbox.contexts.list()] == ["default", context.id]
