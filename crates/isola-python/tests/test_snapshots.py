"""Snapshots and forks of sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest

import isola
import isola.sync

SCRIPTS = {
    "python": """
from sandbox.asyncio import hostcall
n = 0
def items():
    yield from range(9)
pending = items()
def step(by=1):
    global n
    n += by
    return [n, next(pending)]
async def who():
    return await hostcall("who", None)
""",
    "js": """
let n = 0;
function* items() { for (let i = 0; i < 9; i++) yield i }
const pending = items();
const step = (by = 1) => [n += by, pending.next().value];
const who = () => hostcall('who', null);
""",
}


async def loaded(template: isola.SandboxTemplate, name: str = "parent") -> isola.Sandbox:
    async def who(_: object) -> str:
        return name

    sandbox = await template.instantiate(hostcalls={"who": who})
    await sandbox.start()
    await sandbox.load_script(SCRIPTS[template.runtime])
    return sandbox


async def test_forks_continue_independently(
    python: isola.SandboxTemplate, javascript: isola.SandboxTemplate
) -> None:
    for template in (python, javascript):
        parent = await loaded(template)
        assert await parent.run("step") == [1, 0]
        children = await parent.fork(3)
        for number, child in enumerate(children):
            async with child:  # does not start it again
                assert await child.run("step", 10 * number) == [1 + 10 * number, 1]
                assert await child.run("who") == "parent"
            assert child.closed
        assert await parent.run("step") == [2, 1]
        assert await parent.fork(0) == []
        parent.close()


async def test_a_snapshot_is_restored_with_other_options(
    python: isola.SandboxTemplate, javascript: isola.SandboxTemplate, tmp_path: Path
) -> None:
    async def who(_: object) -> str:
        return "child"

    for template in (python, javascript):
        parent = await loaded(template)
        await parent.run("step", 5)
        snapshot = await parent.snapshot()
        assert snapshot.runtime == template.runtime
        assert 0 < snapshot.resident_size <= snapshot.memory_size
        parent.close()

        path = tmp_path / template.runtime
        assert await snapshot.save(path) == path.stat().st_size
        assert path.stat().st_mode & 0o077 == 0
        for source in (snapshot, path, str(path), await template.load_snapshot(path)):
            sandbox = await template.restore(source, hostcalls={"who": who})
            assert await sandbox.run("step") == [6, 1]
            assert await sandbox.run("who") == "child"
            with pytest.raises(isola.IsolaError, match="not in pending state"):
                await sandbox.start()
            sandbox.close()


async def test_incompatible_and_damaged_snapshots_are_refused(
    python: isola.SandboxTemplate, javascript: isola.SandboxTemplate, tmp_path: Path
) -> None:
    parent = await loaded(javascript)
    path = tmp_path / "a.snapshot"
    snapshot = await parent.snapshot()
    await snapshot.save(path)
    with pytest.raises(isola.SnapshotError, match="for the runtime js"):
        await python.load_snapshot(path)
    with pytest.raises(isola.InvalidArgumentError, match="of js"):
        await python.restore(snapshot)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(isola.SnapshotError, match="damaged") as caught:
        await javascript.restore(path)
    assert caught.value.code == "snapshot_refused"
    with pytest.raises(isola.InvalidArgumentError, match="path"):
        await snapshot.save(7)  # type: ignore[arg-type]
    with pytest.raises(isola.InvalidArgumentError, match="count"):
        await parent.fork(-1)
    with pytest.raises(isola.InvalidArgumentError, match="max_memory"):
        await javascript.restore(snapshot, max_memory=1 << 20)
    parent.close()
    with pytest.raises(isola.SandboxClosedError):
        await parent.snapshot()
    pending = await python.instantiate()
    with pytest.raises(isola.IsolaError, match="not running"):
        await pending.fork()


def test_sync_api_forks_and_restores_sandboxes(tmp_path: Path) -> None:
    template = isola.sync.build_template("js")
    with template.create() as sandbox:
        sandbox.load_script("let n = 0; const step = () => ++n")
        sandbox.run("step")
        with sandbox.fork(1)[0] as child:
            assert child.run("step") == 2
        snapshot = sandbox.snapshot()
        assert snapshot.runtime == "js"
        assert snapshot.resident_size <= snapshot.memory_size
        path = tmp_path / "a.snapshot"
        assert snapshot.save(path) == path.stat().st_size
    for source in (snapshot, path, template.load_snapshot(path)):
        with template.restore(source) as restored:
            assert restored.run("step") == 2
