"""`AsyncSandbox` against a real server with real sandboxes."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from isorun import (
    AsyncSandbox,
    AsyncShell,
    ExecResult,
    IsorunError,
    IsorunTimeoutError,
    Sandbox,
    Shell,
)


async def test_sample_prints_the_output_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    async with AsyncSandbox("host") as sb:
        result = await sb.exec("python3 -c 'print(42)'")
        print(result.stdout)
    assert capsys.readouterr().out == "42\n\n"


async def test_async_sandbox_runs_commands_and_transfers_files(tmp_path: Path) -> None:
    sb = AsyncSandbox("host", env={"NAME": "value"})
    info = await sb.create()
    assert info.id == sb.id
    chunks: list[str] = []

    async def slow(chunk: str) -> None:
        await asyncio.sleep(0)
        chunks.append(chunk)

    result = await sb.exec_stream("echo $NAME; echo oops >&2", on_stdout=slow, on_stderr=print)
    assert result == ExecResult(0, "value\n", "oops\n") and chunks == ["value\n"]
    local = tmp_path / "local"
    local.write_bytes(b"\x00\xff" * 1_000_000)
    await sb.upload_file(local, "/job/file")
    assert await sb.download("/job/file") == local.read_bytes()
    await sb.write_text("/job/text", "text")
    assert await sb.ls("/job") == ["file", "text"]
    await sb.set_timeout(60)
    for run in (sb.exec, sb.exec_stream):
        with pytest.raises(IsorunTimeoutError) as caught:
            await run("echo begun; sleep 100", timeout=0.3)
        assert (caught.value.code, caught.value.stdout) == (504, "begun\n")
    stats = await sb.destroy()
    assert stats.cpu_ms > 0 and await sb.destroy() is stats
    with pytest.raises(IsorunError, match="is destroyed"):
        await sb.exec("true")


async def test_the_error_of_a_large_upload_is_that_of_the_server() -> None:
    async with AsyncSandbox("host") as sb:
        assert sb.id is not None
        again = await AsyncSandbox.connect(sb.id)
        await sb.destroy()
        with pytest.raises(IsorunError) as caught:
            await again.write_bytes("/tmp/file", bytes(64 << 20))
        assert (caught.value.code, caught.value.kind) == (404, "run_destroyed")


async def test_commands_run_at_the_same_time() -> None:
    async with AsyncSandbox("host") as sb:
        calls = [sb.exec(f"sleep 0.2; echo {n}") for n in range(100)]
        results = await asyncio.gather(*calls)
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(100)]


async def test_cancelling_kills_the_command() -> None:
    async with AsyncSandbox("host") as sb:
        task = asyncio.create_task(sb.exec("exec sleep 1000", timeout=0))
        assert (await sb.exec("while ! pgrep -x sleep; do sleep 0.05; done")).ok
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await sb.exec("while pgrep -x sleep; do sleep 0.05; done")).ok


def test_sync_and_async_classes_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, found in vars(kind).items()
            for member in [getattr(found, "__func__", found)]
            if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
        }

    assert surface(Sandbox) == surface(AsyncSandbox)
    assert surface(Shell) == surface(AsyncShell)
