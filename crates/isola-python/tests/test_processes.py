"""Event loops, threads, forks, and memory leaks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import uvloop

import isola

SCRIPT = """
from sandbox.asyncio import hostcall

def add(a, b): return a + b
async def ask(x): return await hostcall('ask', x)
def spin():
    while True: pass
"""


async def _use(template: isola.SandboxTemplate) -> None:
    async def ask(x: object) -> object:
        await asyncio.sleep(0)
        return [x, threading.current_thread().name]

    async with template.create(hostcalls={"ask": ask}) as sandbox:
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("add", 1, 2) == 3
        assert await sandbox.run("ask", 1) == [1, threading.current_thread().name]
        events = [event async for event in sandbox.run_stream("ask", 2)]
        assert events == [isola.EndEvent([2, threading.current_thread().name])]


def test_uvloop(python: isola.SandboxTemplate) -> None:
    uvloop.run(_use(python))


def test_sandboxes_work_in_many_event_loops_and_threads(python: isola.SandboxTemplate) -> None:
    for _ in range(3):
        asyncio.run(_use(python))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(_use(python))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_sandbox_can_be_used_from_several_event_loops(python: isola.SandboxTemplate) -> None:
    async def ask(_: object) -> int:
        return id(asyncio.get_running_loop())

    async def first() -> isola.Sandbox:
        sandbox = await python.instantiate(hostcalls={"ask": ask})
        await sandbox.start()
        await sandbox.load_script(SCRIPT)
        return sandbox

    async def second(sandbox: isola.Sandbox) -> None:
        assert await sandbox.run("ask", 0) == id(asyncio.get_running_loop())

    sandbox = asyncio.run(first())
    asyncio.run(second(sandbox))
    asyncio.run(second(sandbox))


async def test_the_event_loop_is_never_blocked(python: isola.SandboxTemplate) -> None:
    """Only a running event loop can stop a guest that spins forever."""
    async with python.create() as one, python.create() as two:
        for sandbox in (one, two):
            await sandbox.load_script(SCRIPT)
        spinning = [asyncio.create_task(sandbox.run("spin")) for sandbox in (one, two)]
        ticks = 0
        async with python.create() as third:
            await third.load_script(SCRIPT)
            for _ in range(20):
                await asyncio.sleep(0.001)
                assert await third.run("add", ticks, 1) == ticks + 1
                ticks += 1
        for task in spinning:
            task.cancel()
        outcomes = await asyncio.gather(*spinning, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


async def test_gil_is_released_while_a_guest_runs(
    python: isola.SandboxTemplate,
) -> None:
    counted = threading.Event()

    def count() -> None:
        for _ in range(1000):
            pass
        counted.set()

    async with python.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        spinning = asyncio.create_task(sandbox.run("spin"))
        await asyncio.sleep(0.01)
        threading.Thread(target=count).start()
        # This blocks the event loop; the thread can run only if the guest does not hold the GIL.
        assert counted.wait(60)
        spinning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spinning


def _python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_fork_after_use_is_refused() -> None:
    done = _python(
        """
        import asyncio, os, warnings
        import isola, isola.sync
        warnings.simplefilter("ignore")

        async def make():
            template = await isola.build_template("python")
            sandbox = await template.instantiate()
            await sandbox.start()
            return template, sandbox

        template, sandbox = asyncio.run(make())
        child = os.fork()
        if child == 0:
            for attempt in (
                lambda: asyncio.run(sandbox.run("f")),
                lambda: asyncio.run(template.instantiate()),
                lambda: asyncio.run(isola.build_template("python")),
                lambda: isola.sync.build_template("python"),
                lambda: sandbox.close(),
            ):
                try:
                    attempt()
                except isola.InternalError as error:
                    print(type(error).__name__, "before the fork" in str(error), flush=True)
            # Objects of the parent are dropped without a hang.
            del attempt, sandbox, template
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        sandbox.close()
        """
    )
    assert done.stderr == "", done.stderr
    assert done.stdout.splitlines() == ["InternalError True"] * 5
    assert done.returncode == 0


def test_a_fork_before_use_works() -> None:
    done = _python(
        """
        import os
        import isola.sync as isola

        child = os.fork()
        template = isola.build_template("python")
        with template.create() as sandbox:
            sandbox.load_script("def f(): return 1")
            assert sandbox.run("f") == 1
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("both")
        """
    )
    assert (done.stdout, done.returncode) == ("both\n", 0), done.stderr


def test_program_exits_while_a_guest_runs() -> None:
    done = _python(
        """
        import asyncio, isola

        async def main():
            template = await isola.build_template("python")
            sandbox = await template.instantiate()
            await sandbox.start()
            await sandbox.load_script("def f():\\n    while True: pass")
            task = asyncio.create_task(sandbox.run("f"))
            await asyncio.sleep(0.01)
            print("leaving")

        asyncio.run(main())
        """
    )
    assert (done.stdout, done.returncode) == ("leaving\n", 0), done.stderr


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_closed_sandboxes_free_their_memory(python: isola.SandboxTemplate) -> None:
    """The long run, over 10,000 cycles, is `cargo xtask bench python`."""

    async def ask(x: object) -> object:
        return x

    async def cycle() -> None:
        async with python.create(hostcalls={"ask": ask}) as sandbox:
            await sandbox.load_script(SCRIPT)
            await sandbox.run("ask", 1)

    for _ in range(50):
        await cycle()
    before = _resident()
    for _ in range(200):
        await cycle()
    # One sandbox takes more than 1.5 MB.
    assert _resident() - before < 16 << 20
