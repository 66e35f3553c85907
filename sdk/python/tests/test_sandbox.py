"""`Sandbox` against a real server with real sandboxes."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import Server

from isorun import (
    DestroyStats,
    ExecResult,
    IsorunConnectionError,
    IsorunError,
    IsorunTimeoutError,
    Sandbox,
    SandboxInfo,
)


def test_sandbox_is_created_used_and_destroyed() -> None:
    sb = Sandbox("host", vcpus=2, mem_mib=512, disk_mib=100, env={"NAME": "value"})
    assert sb.id is None
    with pytest.raises(IsorunError, match="not created"):
        sb.exec("true")
    info = sb.create()
    assert isinstance(info, SandboxInfo)
    assert (info.image, info.vcpus, info.mem_mib, info.disk_mib) == ("host", 2, 512, 100)
    assert info.create_ms > 0 and info.id == sb.id and info.id.startswith("run")
    with pytest.raises(IsorunError, match="created already"):
        sb.create()
    result = sb.exec("echo $NAME; echo oops >&2; exit 3")
    assert result == ExecResult(3, "value\n", "oops\n")
    assert not result.ok and sb.exec(["printf", "%s", "a b"]).stdout == "a b"
    stats = sb.destroy()
    assert isinstance(stats, DestroyStats)
    assert stats.cpu_ms > 0 and stats.mem_peak_bytes > 0 and stats.uptime_ms > 0
    assert stats.disk_used_bytes >= 0
    assert sb.destroy() is stats
    with pytest.raises(IsorunError, match="is destroyed") as caught:
        sb.exec("true")
    assert caught.value.code == 404


def test_context_manager_always_destroys_the_sandbox(server: Server) -> None:
    outer = Sandbox("host")
    with pytest.raises(ZeroDivisionError), outer:
        raise ZeroDivisionError
    assert outer.destroy().uptime_ms > 0
    # Destroyed inside the block, by itself or by the server.
    with Sandbox("host") as sb:
        sb.destroy()
    with Sandbox("host", sandbox_timeout=0.2) as sb:
        server.wait_until_gone(sb.id)
        with pytest.raises(IsorunError, match="idle") as caught:
            sb.exec("true")
    assert (caught.value.code, caught.value.kind) == (404, "run_destroyed")


def test_output_arrives_while_the_command_runs() -> None:
    with Sandbox("host") as sb:
        first = threading.Event()
        chunks: list[str] = []
        errors: list[str] = []

        def on_stdout(chunk: str) -> None:
            chunks.append(chunk)
            if "first" in "".join(chunks):
                first.set()

        def go() -> None:
            assert first.wait(30)
            sb.write_text("/tmp/go", "")

        helper = threading.Thread(target=go)
        helper.start()
        # The command continues only after its first line has arrived here.
        result = sb.exec_stream(
            "echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done;"
            " echo caf\u00e9; echo oops >&2; exit 4",
            on_stdout=on_stdout,
            on_stderr=errors.append,
        )
        helper.join()
        assert result == ExecResult(4, "first\ncaf\u00e9\n", "oops\n")
        assert ("".join(chunks), "".join(errors)) == (result.stdout, result.stderr)
        assert sb.exec_stream("echo quiet").stdout == "quiet\n"


def test_a_callback_that_raises_kills_the_command() -> None:
    def stop(_: str) -> None:
        raise KeyError("enough")

    with Sandbox("host") as sb:
        with pytest.raises(KeyError, match="enough"):
            sb.exec_stream("echo; exec sleep 1000", on_stdout=stop, timeout=0)
        assert sb.exec("while pgrep -x sleep; do sleep 0.05; done").ok


def test_timeout_error_contains_the_previous_output() -> None:
    with Sandbox("host", timeout=0.5) as sb:
        for run in (sb.exec, sb.exec_stream):
            start = time.monotonic()
            with pytest.raises(IsorunTimeoutError, match=r"0\.5 s") as caught:
                run("echo begun; echo oops >&2; sleep 100")
            assert time.monotonic() - start < 5
            error = caught.value
            assert (error.code, error.kind) == (504, "exec_timeout")
            assert (error.stdout, error.stderr) == ("begun\n", "oops\n")
        # The timeout of a single call.
        assert sb.exec("sleep 1; echo done", timeout=10).stdout == "done\n"
        assert sb.exec("sleep 1; echo done", timeout=-1).stdout == "done\n"
        with pytest.raises(IsorunError, match="timeout") as refused:
            sb.exec("true", timeout=-2)
        assert refused.value.code == 400 and not isinstance(refused.value, IsorunTimeoutError)


def test_files(tmp_path: Path) -> None:
    every = bytes(range(256)) * 20_000
    local = tmp_path / "local.bin"
    local.write_bytes(every)
    with Sandbox("host") as sb:
        sb.upload_file(str(local), "/remote/path/file.bin")
        sb.upload_file(local, "/remote/path/again.bin")
        assert sb.download("/remote/path/file.bin") == every
        for mode in ("755", "640", "711"):
            local.chmod(int(mode, 8))
            sb.upload_file(local, "/remote/program")
            assert sb.exec("stat -c %a /remote/program").stdout == f"{mode}\n"
        sb.write_text("/remote/path/hello.txt", "hi \u20ac\n")
        assert sb.exec("cat /remote/path/hello.txt").stdout == "hi \u20ac\n"
        assert sb.ls("/remote/path/") == ["again.bin", "file.bin", "hello.txt"]
        sb.write_text("/tmp/empty", "")
        assert sb.download("/tmp/empty") == b""
        odd = os.fsdecode(b"caf\xe9 & \xff")
        sb.write_text(f"/tmp/odd/{odd}", "not UTF-8")
        sb.write_text("/tmp/odd/caf\u00e9", "UTF-8")
        assert sb.ls("/tmp/odd") == ["caf\u00e9", odd]
        assert sb.download(f"/tmp/odd/{odd}") == b"not UTF-8"
        for read in (sb.download, sb.ls):
            with pytest.raises(IsorunError) as caught:
                read("/nothing")
            assert (caught.value.code, caught.value.kind) == (404, "file_not_found")
        with pytest.raises(IsorunError, match=r"`\.\.`") as caught:
            sb.write_text("/tmp/../etc/passwd", "")
        assert caught.value.code == 400
        with pytest.raises(FileNotFoundError):
            sb.upload_file(tmp_path / "nothing", "/tmp/nothing")


def test_many_threads_share_a_sandbox() -> None:
    with Sandbox("host") as sb, ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda n: sb.exec(f"sleep 0.1; echo {n}"), range(100)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(100)]


def test_invalid_parameters_are_refused_with_a_reason() -> None:
    for arguments, code, text in [
        ({"image": "no-such/image"}, 404, "no-such/image"),
        ({"image": "host", "vcpus": 0}, 400, "vcpus"),
        ({"image": "host", "mem_mib": 10**9}, 400, "mem_mib"),
        ({"image": "host", "credentials": {"MINE": "sk"}}, 400, "credentials"),
        ({"image": "host", "allow": ["example.com:80"]}, 400, "network.allow"),
        ({"image": "host", "network_profile": "open"}, 400, "network_profile"),
    ]:
        sb = Sandbox(**arguments)  # type: ignore[arg-type]
        with pytest.raises(IsorunError, match=text) as caught:
            sb.create()
        assert caught.value.code == code, arguments
        assert sb.id is None


def test_set_timeout(server: Server) -> None:
    with Sandbox("host") as sb:
        sb.set_timeout(-1)
        sb.set_timeout(0.1)
        server.wait_until_gone(sb.id)
        with pytest.raises(IsorunError, match="idle"):
            sb.exec("true")


def test_unreachable_server_raises_a_connection_error(server: Server) -> None:
    sb = Sandbox("host", api_url="http://127.0.0.1:1", api_key=server.key)
    with pytest.raises(IsorunConnectionError, match="isorun serve") as caught:
        sb.create()
    assert caught.value.code is None


def test_wrong_api_key_is_refused(server: Server) -> None:
    for key in ("nonsense", server.key[:-1] + ("1" if server.key[-1] == "0" else "0")):
        with pytest.raises(IsorunError, match="API key") as caught:
            Sandbox("host", api_key=key).create()
        assert (caught.value.code, caught.value.kind) == (401, "unauthorized")


def test_command_gets_environment_directory_and_input() -> None:
    with Sandbox("host", env={"A": "of the sandbox"}) as sb:
        script = 'printf \'%s,%s,\' "$A" "$PWD"; cat'
        result = sb.exec(["sh", "-c", script], env={"A": "mine"}, cwd="/tmp", stdin="caf\u00e9\n")
        assert result.stdout == "mine,/tmp,caf\u00e9\n"
        assert sb.exec("echo $A").stdout == "of the sandbox\n"
        result = sb.exec_stream("echo $A; pwd; cat", env={"A": "b"}, cwd="/usr", stdin="c")
        assert result.stdout == "b\n/usr\nc"
        with pytest.raises(IsorunError) as caught:
            sb.exec("true", cwd="/missing")
        assert caught.value.kind == "command_not_found"


def test_bytes_are_exact() -> None:
    every = bytes(range(256))
    with Sandbox("host") as sb:
        sb.write_bytes("/job/every", every, mode=0o750)
        assert sb.download("/job/every") == every
        result = sb.exec_bytes("cat every; cat every >&2; exit 3", cwd="/job")
        assert (result.exit_code, result.ok) == (3, False)
        assert (result.stdout, result.stderr) == (every, every)
        assert sb.download("/job/every", max_bytes=256) == every
        with pytest.raises(IsorunError, match="more than 255 bytes") as large:
            sb.download("/job/every", max_bytes=255)
        assert large.value.kind == "too_large"
        # Permissions are kept, and the target of a link is replaced.
        assert sb.exec("ln -s every /job/link").ok
        sb.write_bytes("/job/link", b"new")
        assert sb.exec("cat every; stat -c %a every", cwd="/job").stdout == "new750\n"
        with pytest.raises(IsorunTimeoutError) as caught:
            sb.exec_bytes("echo begun; sleep 1000", timeout=0.3)
        assert caught.value.stdout == "begun\n"


def test_existing_sandbox_is_used_by_its_id() -> None:
    with Sandbox("host", mem_mib=300) as sb:
        sb.write_text("/job/file", "kept")
        assert sb.id is not None
        other = Sandbox.connect(sb.id)
        assert other.info == sb.info
        assert other.download("/job/file") == b"kept"
        other.close()
        # Only the connections were closed.
        assert other.exec("echo still").stdout == "still\n"
        with other:
            pass
        with pytest.raises(IsorunError) as caught:
            Sandbox.connect(sb.id)
        assert caught.value.kind == "run_destroyed"
    for unknown in ("run0123456789abcdef", "../snapshots"):
        with pytest.raises(IsorunError) as caught:
            Sandbox.connect(unknown)
        assert caught.value.code == 404
