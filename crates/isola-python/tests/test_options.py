"""Options of templates and sandboxes, and the lifecycle of a sandbox."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

import isola

SPIN = "def spin():\n    while True: pass\n\ndef ok(): return 1\n"


async def test_the_runtime_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(isola.__file__).parent / "runtimes" / "python.wasm"
    monkeypatch.delenv("ISOLA_RUNTIME_DIR", raising=False)
    found = await isola.resolve_runtime("python")
    assert found == isola.RuntimeConfig("python", isola.__version__, shipped)
    assert (await isola.resolve_runtime("python", version=isola.__version__)) == found
    given = await isola.resolve_runtime("python", runtime_path=shipped)
    assert given.runtime_path == shipped
    monkeypatch.setenv("ISOLA_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(isola.InvalidArgumentError, match="was not found in .*ISOLA_RUNTIME_DIR"):
        await isola.resolve_runtime("python")
    with pytest.raises(
        isola.InvalidArgumentError, match='unknown runtime "ruby": use .*"python-data"'
    ):
        await isola.resolve_runtime("ruby")  # type: ignore[arg-type]


async def test_options_of_a_template_apply_to_its_sandboxes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("template")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("sandbox")
    cache = tmp_path / "cache"
    template = await isola.build_template(
        "js",
        version=isola.__version__,
        runtime_lib_dir=tmp_path,
        cache_dir=cache,
        max_memory=64 << 20,
        reuse_memory=False,
        prelude="const answer = () => 42;",
        env={"A": "template", "B": "template"},
    )
    assert list(cache.glob("*.cwasm"))
    async with template.create(env={"B": "sandbox"}) as sandbox:
        assert await sandbox.run("answer") == 42

    template = await isola.build_template(
        "python",
        prelude="import os\ndef env(): return dict(os.environ)\n"
        "def read(): return open('/data/a.txt').read()\n"
        "def write(): open('/data/b.txt', 'w').write('x')\n",
        mounts=[isola.MountConfig(tmp_path / "data", "/data")],
        env={"A": "template", "B": "template"},
    )
    async with template.create(env={"B": "sandbox"}) as sandbox:
        assert await sandbox.run("env") == {"A": "template", "B": "sandbox"}
        assert await sandbox.run("read") == "template"
        with pytest.raises(isola.GuestError, match="PermissionError|OSError"):
            await sandbox.run("write")
    writable = isola.MountConfig(str(tmp_path / "other"), "/data", "read-write", "read-write")
    async with template.create(mounts=[writable]) as sandbox:
        assert await sandbox.run("read") == "sandbox"
        await sandbox.run("write")
    assert (tmp_path / "other" / "b.txt").read_text() == "x"


async def test_template_is_built_without_a_cache(
    python: isola.SandboxTemplate, tmp_path: Path
) -> None:
    """Uses the smaller runtime, because it is compiled again without a cache."""
    template = await isola.build_template("js", cache_dir=None)
    async with template.create() as sandbox:
        await sandbox.load_script("const f = () => 1;")
        assert await sandbox.run("f") == 1


async def test_invalid_options_are_named(python: isola.SandboxTemplate, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    build: list[tuple[dict[str, Any], str]] = [
        ({"colour": "red"}, "unknown option 'colour' of build_template: the options are version"),
        ({"max_memory": 0}, "max_memory is 0"),
        ({"max_memory": True}, "max_memory is True"),
        ({"mounts": [("a", "b")]}, r"mounts\[0\] is a tuple"),
        ({"env": {"A": 1}}, r"env\['A'\]"),
        ({"env": {"A=B": "1"}}, "environment variable"),
        ({"mounts": [isola.MountConfig(file, "/x")]}, "file"),
        ({"runtime_path": tmp_path}, "was not found"),
        ({"runtime_path": file}, "is not a runtime"),
        ({"runtime_lib_dir": file}, "the library directory"),
        ({"limits": {"max_memory": 1}}, "limits is a dict: use Limits"),
    ]
    for options, why in build:
        with pytest.raises(isola.InvalidArgumentError, match=why):
            await isola.build_template("python", **options)
    create: list[tuple[dict[str, Any], str]] = [
        ({"timeout": 5}, "unknown option 'timeout' of a sandbox: the options are max_memory"),
        ({"max_memory": 1}, "max_memory of 1 bytes is less"),
        ({"limits": 5}, "limits is a int"),
        ({"http": "yes"}, "http is 'yes'"),
        ({"http": True, "http_handler": True}, "the same option"),
        ({"hostcalls": {"f": 5}}, r"hostcalls\['f'\] is not callable"),
        ({"hostcalls": {"isola.stream": print}}, "reserved for StreamArg"),
        ({"mounts": [isola.MountConfig(tmp_path, "relative")]}, "relative"),
    ]
    for options, why in create:
        with pytest.raises(isola.InvalidArgumentError, match=why):
            async with python.create(**options):
                pass
    wrong_limits: list[tuple[dict[str, Any], str]] = [
        ({"timeout": 0}, "timeout is 0: give a number of seconds"),
        ({"cpu_timeout": "1"}, "cpu_timeout is '1'"),
        ({"max_output_size": -1}, "max_output_size is -1: give a number of bytes"),
        ({"max_requests": 1.5}, "max_requests is 1.5: give an integer"),
        ({"max_recursion": 1 << 32}, "max_recursion is 4294967296"),
        ({"max_memory": 1 << 63}, "max_memory is 9223372036854775808"),
    ]
    for options, why in wrong_limits:
        with pytest.raises(isola.InvalidArgumentError, match=why):
            isola.Limits(**options)
    with pytest.raises(isola.InvalidArgumentError, match="dir_perms is 'execute'"):
        isola.MountConfig("/tmp", "/x", "execute")  # type: ignore[arg-type]


async def test_calls_are_refused_while_pending_busy_or_closed(
    python: isola.SandboxTemplate,
) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def wait(_: object) -> None:
        begun.set()
        await finish.wait()

    sandbox = await python.instantiate(hostcalls={"wait": wait})
    with pytest.raises(isola.NotRunningError, match="^sandbox is not running$") as caught:
        await sandbox.run("f")
    assert caught.value.code == "not_running"
    await sandbox.start()
    with pytest.raises(isola.NotPendingError, match="^sandbox is not in pending state$"):
        await sandbox.start()
    await sandbox.load_script(
        "from sandbox.asyncio import hostcall\nasync def f(): await hostcall('wait', 0)\n"
    )
    running = asyncio.create_task(sandbox.run("f"))
    await begun.wait()
    for second in (
        lambda: sandbox.run("f"),
        lambda: sandbox.load_script("x = 1"),
        lambda: sandbox.evaluate("1"),
        lambda: anext(sandbox.run_stream("f")),
        lambda: anext(sandbox.evaluate_stream("1")),
    ):
        with pytest.raises(isola.BusyError, match="^sandbox is busy$") as refused:
            await second()
        assert refused.value.code == "busy"
    finish.set()
    assert await running is None
    await sandbox.aclose()
    assert sandbox.closed
    assert "closed" in repr(sandbox)
    await sandbox.aclose()
    with pytest.raises(isola.SandboxClosedError, match="its owner closed it"):
        await sandbox.run("f")


async def test_time_limits_of_a_call_are_enforced(python: isola.SandboxTemplate) -> None:
    limits: list[tuple[str, str]] = [
        ("cpu_timeout", "cpu_time_limit"),
        ("timeout", "wall_time_limit"),
    ]
    for limit, code in limits:
        short: dict[str, Any] = {limit: 0.05}
        async with python.create() as sandbox:
            await sandbox.load_script(SPIN)
            assert await sandbox.run("ok", **{limit: 60}) == 1
            with pytest.raises(isola.LimitError) as caught:
                await sandbox.run("spin", **short)
            assert caught.value.code == code
            assert sandbox.closed
        async with python.create() as sandbox:
            with pytest.raises(isola.LimitError):
                await sandbox.load_script("while True: pass", **short)
        async with python.create() as sandbox:
            await sandbox.load_script(SPIN)
            events = [event async for event in sandbox.run_stream("spin", **short)]
            assert isinstance(events[-1], isola.ErrorEvent)
            assert events[-1].error.code == code
            bads: list[Any] = [0, -1, float("nan"), "1", True]
            for bad in bads:
                with pytest.raises(isola.InvalidArgumentError, match=limit):
                    await sandbox.run("ok", **{limit: bad})


async def test_memory_limit_is_enforced(python: isola.SandboxTemplate) -> None:
    async with python.create(max_memory=48 << 20) as sandbox:
        await sandbox.load_script("def bomb(): return len(bytearray(200 << 20))")
        with pytest.raises(isola.LimitError) as caught:
            await sandbox.run("bomb")
        assert caught.value.code == "memory_limit"
        assert caught.value.exception is not None
        assert caught.value.exception.name == "MemoryError"


LIMITED = """
import sys
from sandbox.asyncio import hostcall
import asyncio

def spin():
    while True: pass
def big(n): return "x" * n
def talk(n): print("x" * n)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
async def ask(n): return await asyncio.gather(*(hostcall("never", "x") for _ in range(n)))
async def tell(n): return await hostcall("never", "x" * n)
def open_many(n): return [open("/data/file") for _ in range(n)]
async def fetch_many(n):
    from sandbox.http import fetch
    async def one():
        async with fetch("GET", "http://a.test/") as response: return response.status
    return await asyncio.gather(*(one() for _ in range(n)))
"""


@pytest.mark.parametrize(
    ("limits", "call", "code", "message"),
    [
        (isola.Limits(cpu_timeout=0.05), ("spin",), "cpu_time_limit", "50ms"),
        (isola.Limits(timeout=0.05), ("spin",), "wall_time_limit", "50ms"),
        (isola.Limits(max_memory=48 << 20), ("big", 200 << 20), "memory_limit", "memory"),
        (isola.Limits(max_value_size=2000), ("big", 2000), "value_size_limit", "2000"),
        (isola.Limits(max_output_size=1000), ("talk", 1000), "output_limit", "1000"),
        (isola.Limits(max_recursion=100), ("deep", 100), "recursion_limit", "100"),
        (isola.Limits(max_pending_hostcalls=3), ("ask", 4), "hostcall_failed", "3"),
        (isola.Limits(max_held_memory=1000), ("tell", 1000), "hostcall_failed", "1000"),
        (isola.Limits(max_handles=100), ("open_many", 100), "handle_limit", "100"),
        (isola.Limits(max_requests=3), ("fetch_many", 4), "guest_exception", "3"),
    ],
)
async def test_each_limit_of_a_sandbox_and_of_a_template_is_enforced(
    python: isola.SandboxTemplate,
    tmp_path: Path,
    limits: isola.Limits,
    call: tuple[Any, ...],
    code: str,
    message: str,
) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    (tmp_path / "file").write_text("")
    options: dict[str, Any] = {
        "hostcalls": {"never": never},
        "http": never,
        "mounts": [isola.MountConfig(tmp_path, "/data")],
    }
    template = await isola.build_template("python", limits=limits)
    for sandbox in (template.create(**options), python.create(limits=limits, **options)):
        async with sandbox as started:
            await started.load_script(LIMITED)
            with pytest.raises(isola.IsolaError, match=message) as caught:
                await started.run(*call)
            assert caught.value.code == code
    # Each limit of a sandbox overrides that of its template.
    roomy = isola.Limits(timeout=math.inf, cpu_timeout=math.inf, max_recursion=500)
    async with template.create(limits=roomy, max_memory=128 << 20) as started:
        await started.load_script(LIMITED)
        assert await started.run("deep", 200) == 200


async def test_cancelling_stops_the_guest(python: isola.SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(SPIN)
        # After quick calls the next one starts on the event loop's own thread.
        for _ in range(10):
            assert await sandbox.run("ok") == 1
        running = asyncio.create_task(sandbox.run("spin"))
        await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The guest has stopped by now, not some time later.
        assert sandbox.closed
        with pytest.raises(isola.SandboxClosedError, match="a call was cancelled half-way"):
            await sandbox.run("ok")


async def test_closing_stops_a_call(python: isola.SandboxTemplate) -> None:
    sandbox = await python.instantiate()
    async with sandbox:
        await sandbox.load_script(SPIN)
        running = asyncio.create_task(sandbox.run("spin"))
        await asyncio.sleep(0.02)
        sandbox.close()
        with pytest.raises(isola.SandboxClosedError, match="its owner closed it"):
            await running


async def test_error_in_the_prelude_is_raised() -> None:
    template = await isola.build_template("python", prelude="1 / 0")
    with pytest.raises(isola.GuestError, match="^ZeroDivisionError"):
        async with template.create():
            pass


async def test_closed_context_refuses_to_build_templates() -> None:
    async with isola.SandboxContext() as context:
        template = await context.build_template("python")
        sandbox = await template.instantiate()
        parent = await template.instantiate()
        await parent.start()
        snapshot = await parent.snapshot()
    with pytest.raises(isola.ClosedError, match="^the context is closed: its owner") as caught:
        await context.build_template("python")
    assert caught.value.code == "closed"
    context.close()
    # Its templates and their sandboxes remain usable.
    async with sandbox, template.create() as created, await template.restore(snapshot) as restored:
        for each in (sandbox, created, restored, parent):
            await each.load_script(SPIN)
            assert await each.run("ok") == 1
    await parent.aclose()


async def test_closing_a_context_fails_a_running_build() -> None:
    context = isola.SandboxContext()
    building = asyncio.create_task(context.build_template("js"))
    # The task runs up to its first wait.
    await asyncio.sleep(0)
    context.close()
    with pytest.raises(isola.ClosedError, match="the context is closed"):
        await building
