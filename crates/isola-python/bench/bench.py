"""Benchmarks of the Python package and of other ways to run Python, as one table.

`cargo xtask bench python` runs this on the optimized wheel. `pydantic-monty` runs a
subset of Python without classes or the standard library; only code that it can run
is measured with it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pydantic_monty

import isola

SCRIPT = "def add(a, b):\n    return a + b\n"
CALLS = 10_000
CYCLES = 10_000
CONCURRENT = 100
# The work of each concurrent sandbox or process.
WORK = "def work(n):\n    t = 0\n    for i in range(n):\n        t += i * i\n    return t\n"
STEPS = 20_000


def row(name: str, value: str) -> None:
    print(f"{name:<58} {value:>14}", flush=True)


def add(a: int, b: int) -> int:
    return a + b


def work(n: int) -> int:
    t = 0
    for i in range(n):
        t += i * i
    return t


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def median(times: int, once: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await once()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


async def first_result(template: isola.SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("add", 2, 3) == 5


def subprocess_result() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{SCRIPT}print(add(2, 3))"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"5\n"


async def main() -> None:
    template = await isola.build_template("python")
    await first_result(template)

    print("create, load, first result; median")
    row("  isola", f"{await median(200, lambda: first_result(template)) * 1e3:.2f} ms")
    row(
        "  python3 subprocess",
        f"{await median(20, lambda: asyncio.to_thread(subprocess_result)) * 1e3:.2f} ms",
    )

    async def pool_result() -> None:
        with ProcessPoolExecutor(1) as pool:
            assert pool.submit(add, 2, 3).result() == 5

    row("  ProcessPoolExecutor of one worker", f"{await median(10, pool_result) * 1e3:.2f} ms")

    with pydantic_monty.Monty() as monty:

        async def monty_result() -> None:
            with monty.checkout() as session:
                session.feed_run(SCRIPT)
                assert session.feed_run("add(2, 3)") == 5

        row("  pydantic-monty, a warm worker", f"{await median(50, monty_result) * 1e3:.2f} ms")

    print(f"{CALLS:,} warm calls; each")
    async with template.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        for _ in range(1_000):
            await sandbox.run("add", 2, 3)
        start = time.perf_counter()
        for _ in range(CALLS):
            await sandbox.run("add", 2, 3)
        each = (time.perf_counter() - start) * 1e6 / CALLS
    row("  isola", f"{each:.1f} us")
    if "ISOLA_RUST_CALLS" in os.environ:
        lines = os.environ["ISOLA_RUST_CALLS"].splitlines()
        rust = float(dict(line.split() for line in lines)["python"])
        row("  the same in Rust", f"{rust:.1f} us")
        row("  overhead of the binding", f"{each - rust:.1f} us")
    with pydantic_monty.Monty() as monty, monty.checkout() as session:
        session.feed_run(SCRIPT)
        start = time.perf_counter()
        for _ in range(CALLS):
            session.feed_run("add(2, 3)")
        row("  pydantic-monty", f"{(time.perf_counter() - start) * 1e6 / CALLS:.1f} us")
    with ProcessPoolExecutor(1) as pool:
        pool.submit(add, 2, 3).result()
        start = time.perf_counter()
        for _ in range(CALLS):
            pool.submit(add, 2, 3).result()
        row("  ProcessPoolExecutor", f"{(time.perf_counter() - start) * 1e6 / CALLS:.1f} us")

    print(f"{CONCURRENT} concurrent sandboxes or processes of {STEPS:,} steps; total")

    async def one() -> None:
        async with template.create() as sandbox:
            await sandbox.load_script(WORK)
            assert await sandbox.run("work", STEPS) == work(STEPS)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(CONCURRENT)))

    row("  isola", f"{await median(3, all_of_them) * 1e3:.0f} ms")

    async def processes() -> None:
        limit = asyncio.Semaphore(os.cpu_count() or 1)

        async def process() -> None:
            async with limit:
                running = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-c", f"{WORK}work({STEPS})"
                )
                assert await running.wait() == 0

        await asyncio.gather(*(process() for _ in range(CONCURRENT)))

    row("  python3 subprocesses", f"{await median(3, processes) * 1e3:.0f} ms")

    async def pool_of_all() -> None:
        with ProcessPoolExecutor() as pool:
            list(pool.map(work, [STEPS] * CONCURRENT))

    row("  ProcessPoolExecutor (no isolation)", f"{await median(3, pool_of_all) * 1e3:.0f} ms")

    print(f"{CYCLES:,} times create, load, call, close")
    for _ in range(100):
        await first_result(template)
    before = resident()
    for _ in range(CYCLES):
        await first_result(template)
    row("  memory that was not freed", f"{(resident() - before) / 1e6:.1f} MB")


if __name__ == "__main__":
    asyncio.run(main())
