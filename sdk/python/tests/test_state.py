"""Forks, hibernation, snapshots and shells against a real server."""

from __future__ import annotations

import asyncio
import time

import pytest

from isorun import AsyncSandbox, IsorunError, IsorunTimeoutError, Sandbox


def test_fork_inherits_state_and_is_independent() -> None:
    with Sandbox("host", mem_mib=300, env={"WHO": "me"}) as sb:
        sb.write_text("/job/file", "original")
        sb.exec("nohup setsid sleep 1000 >/dev/null 2>&1 & echo $! > /job/pid")
        children = sb.fork(count=3)
        assert len({sb.id, *(child.id for child in children)}) == 4
        for child in children:
            assert child.info is not None and child.info.mem_mib == 300
            assert child.exec("kill -0 $(cat /job/pid) && echo $WHO").stdout == "me\n"
            child.write_text("/job/file", f"of {child.id}")
        for child in children:
            assert child.download("/job/file") == f"of {child.id}".encode()
        grandchild = children[0].fork()[0]
        assert sb.download("/job/file") == b"original"
        sb.destroy()
        assert grandchild.download("/job/file") == f"of {children[0].id}".encode()
        for child in [*children, grandchild]:
            assert child.destroy().uptime_ms > 0


def test_sandbox_can_be_hibernated_repeatedly() -> None:
    with Sandbox("host") as sb:
        name = sb.id
        with sb.shell() as sh:
            sh.run("cd /tmp; N=0")
            for count in range(1, 4):
                assert sh.run("N=$((N + 1)); echo $N").stdout == f"{count}\n"
                sb.hibernate()
                with pytest.raises(IsorunError, match="hibernated") as caught:
                    sb.exec("true")
                assert (caught.value.code, caught.value.kind) == (409, "run_hibernated")
                with pytest.raises(IsorunError, match="hibernated"):
                    sh.run("echo lost")
                sb.resume()
                assert sb.id == name
                # The same shell, attached to again.
                assert sh.run("echo $N $PWD").stdout == f"{count} /tmp\n"
        sb.hibernate()


def test_request_resumes_a_hibernated_sandbox(server: object) -> None:
    with Sandbox("host", auto_resume=True, on_idle="hibernate", sandbox_timeout=0) as sb:
        sb.write_text("/job/file", "kept")
        sb.hibernate()
        assert sb.download("/job/file") == b"kept"


def test_snapshots() -> None:
    with Sandbox("host") as sb:
        sb.write_text("/job/file", "then")
        # Incompressible data.
        assert sb.exec("head -c 2000000 /dev/urandom > /job/random").exit_code == 0
        snap_id = sb.checkpoint()
        sb.write_text("/job/file", "later")
    for _ in range(2):
        new_sb = Sandbox.restore(snap_id)
        assert new_sb.download("/job/file") == b"then"
        assert new_sb.info is not None and new_sb.info.image == "host"
        new_sb.destroy()
    (found,) = [snapshot for snapshot in Sandbox.snapshots() if snapshot.id == snap_id]
    assert found.run_id == sb.id and found.size_bytes > 2_000_000
    Sandbox.delete_snapshot(snap_id)
    with pytest.raises(IsorunError, match="does not exist") as caught:
        Sandbox.restore(snap_id)
    assert caught.value.code == 404


def test_shell_keeps_its_state() -> None:
    with Sandbox("host") as sb, sb.shell() as sh:
        sh.run("cd /tmp && export FOO=bar; f() { echo in $1; }")
        assert sh.run("echo $FOO $PWD; f x").stdout == "bar /tmp\nin x\n"
        result = sh.run("echo out; echo err >&2; (exit 3)")
        assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
        chunks: list[str] = []
        sh.run("for i in 1 2; do echo $i; sleep 0.2; done", on_stdout=chunks.append)
        assert "".join(chunks) == "1\n2\n" and len(chunks) == 2
        assert sh.run("cat <<EOF\nzeile \u00e9\U0001f600\nEOF").stdout == "zeile \u00e9\U0001f600\n"
        assert len(sh.run("yes | head -c 3000000").stdout) == 3_000_000
        with pytest.raises(IsorunTimeoutError) as caught:
            sh.run("echo begun; sleep 1000", timeout=0.3)
        assert (caught.value.stdout, caught.value.code) == ("begun\n", 504)
        assert sh.run("echo $FOO").stdout == "bar\n"
        with pytest.raises(ZeroDivisionError):
            sh.run("echo go; sleep 1000", timeout=0, on_stdout=lambda _: 1 // 0)
        assert sh.run("echo $FOO").stdout == "bar\n"


def test_ended_shell_returns_its_exit_code_and_is_closed() -> None:
    with Sandbox("host") as sb:
        with sb.shell() as sh:
            result = sh.run("echo bye; exit 42")
            assert (result.exit_code, result.stdout, sh.closed) == (42, "bye\n", True)
            for _ in range(2):
                with pytest.raises(IsorunError, match="Shell is closed"):
                    sh.run("true")
        # Killed from outside: the next command returns the exit code.
        sh = sb.shell()
        pid = sh.run("echo $$").stdout.strip()
        sb.exec(f"kill -9 {pid}; while kill -0 {pid}; do sleep 0.01; done")
        time.sleep(0.3)
        assert sh.run("echo on").exit_code == 137
        with pytest.raises(IsorunError, match="Shell is closed"):
            sh.run("true")


def test_a_fork_inherits_shells() -> None:
    with Sandbox("host") as sb, sb.shell() as sh:
        sh.run("cd /usr; SECRET=7")
        child = sb.fork()[0]
        with child.shell(session=sh.session) as inherited:
            assert inherited.run("echo $SECRET $PWD").stdout == "7 /usr\n"
            inherited.run("SECRET=8")
        assert sh.run("echo $SECRET").stdout == "7\n"
        child.destroy()


async def test_async_shells_forks_and_snapshots_work() -> None:
    async with AsyncSandbox("host") as sb:
        async with sb.shell() as sh:
            await sh.run("cd /tmp; export FOO=bar")
            assert (await sh.run("echo $FOO $PWD")).stdout == "bar /tmp\n"
            with pytest.raises(IsorunTimeoutError):
                await sh.run("sleep 1000", timeout=0.2)
            task = asyncio.create_task(sh.run("sleep 1000", timeout=0))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await sh.run("echo $FOO")).stdout == "bar\n"
            children = await sb.fork(count=2)
            results = await asyncio.gather(*(child.exec("hostname") for child in children))
            names = [result.stdout.strip() for result in results]
            assert len(set(names)) == 2 and not {c.id for c in children} & set(names), names
            await asyncio.gather(*(child.destroy() for child in children))
            assert (await sh.run("exit 5")).exit_code == 5
            with pytest.raises(IsorunError, match="Shell is closed"):
                await sh.run("true")
        # Two shells at the same time.
        one, two = sb.shell(), sb.shell()
        answers = await asyncio.gather(one.run("X=1; echo $X"), two.run("echo x$X"))
        assert [answer.stdout for answer in answers] == ["1\n", "x\n"]
        snap_id = await sb.checkpoint()
        await sb.hibernate()
        await sb.resume()
        restored = await AsyncSandbox.restore(snap_id)
        assert (await restored.exec("echo on")).ok
        await restored.destroy()
        assert snap_id in [snapshot.id for snapshot in await AsyncSandbox.snapshots()]
        await AsyncSandbox.delete_snapshot(snap_id)
