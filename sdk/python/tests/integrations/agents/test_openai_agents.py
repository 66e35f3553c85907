"""The adapter to the OpenAI Agents SDK, with its scripted model."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agents import Runner, set_tracing_disabled
from agents.run_config import RunConfig, SandboxRunConfig
from agents.sandbox.entries import File
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortUnavailableError,
    InvalidManifestPathError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.manifest import Environment, Manifest
from agents.sandbox.sandbox_agent import SandboxAgent
from agents.sandbox.session.sandbox_session import SandboxSession
from agents.sandbox.session.sandbox_session_state import SandboxSessionState
from agents.sandbox.snapshot import LocalSnapshotSpec, NoopSnapshot
from agents.testing import ScriptedModel, assistant_message, function_call

from isorun import AsyncSandbox, IsorunConnectionError
from isorun.integrations.openai_agents import (
    IsorunSandboxClient,
    IsorunSandboxClientOptions,
    IsorunSandboxSession,
)

set_tracing_disabled(True)
pytestmark = pytest.mark.anyio


@pytest.fixture
async def session(images: dict[str, str]) -> AsyncIterator[SandboxSession]:
    """A started session, which is deleted at the end."""
    client = IsorunSandboxClient()
    options = IsorunSandboxClientOptions(image=images["root"], exposed_ports=(8000,))
    manifest = Manifest(
        entries={"notes/a.txt": File(content=b"first\n")},
        environment=Environment(value={"GREETING": "hello"}),
    )
    session = await client.create(manifest=manifest, options=options)
    await session.start()
    yield session
    await client.delete(session)


def inner(session: SandboxSession) -> IsorunSandboxSession:
    found = session._inner
    assert isinstance(found, IsorunSandboxSession)
    return found


async def test_agent_works_in_a_sandbox(images: dict[str, str], live_sandboxes: Any) -> None:
    manifest = Manifest(entries={"sum.py": File(content=b"print(sum([1, 2]))\n")})
    agent = SandboxAgent(name="worker", instructions="Work.", default_manifest=manifest)
    script = [
        [function_call("exec_command", {"cmd": "python3 sum.py; pwd"}, call_id="a")],
        [function_call("exec_command", {"cmd": "sed -i 's/2]/2, 39]/' sum.py"}, call_id="c")],
        [function_call("exec_command", {"cmd": "python3 sum.py && exit 3"}, call_id="d")],
        [assistant_message("done")],
    ]
    model = ScriptedModel(script)
    agent.model = model
    config = SandboxRunConfig(
        client=IsorunSandboxClient(), options=IsorunSandboxClientOptions(image=images["root"])
    )
    result = await Runner.run(agent, "Add the numbers.", run_config=RunConfig(sandbox=config))
    assert result.final_output == "done"
    model.assert_complete()
    outputs = [
        str(item.output) for item in result.new_items if item.type == "tool_call_output_item"
    ]
    assert "3\n/workspace" in outputs[0]
    assert "42" in outputs[2] and "exited with code 3" in outputs[2]


async def test_files_commands_and_environment(session: SandboxSession) -> None:
    result = await session.exec("echo $GREETING; pwd; cat notes/a.txt; echo oops >&2; exit 3")
    assert (result.stdout, result.stderr) == (b"hello\n/workspace\nfirst\n", b"oops\n")
    assert result.exit_code == 3
    every = bytes(range(256)) * 4000
    await session.write(Path("new/every"), io.BytesIO(every))
    assert (await session.read(Path("new/every"))).read() == every
    assert await session.read_bounded(Path("new/every"), max_bytes=300) == every[:300]
    assert (await session.exec("cat", "new/every", shell=False)).stdout == every
    assert sorted(Path(entry.path).name for entry in await session.ls("new")) == ["every"]
    await session.mkdir("dir/deep", parents=True)
    await session.mv("new/every", "dir/moved")
    await session.rm("new", recursive=True)
    with pytest.raises(WorkspaceReadNotFoundError):
        await session.read(Path("new/every"))
    with pytest.raises(WorkspaceArchiveWriteError):
        await session.write(Path("dir"), io.BytesIO(b""))
    # Paths that leave the workspace are refused, also through a link.
    await session.exec("ln -s /etc link")
    for path in ("../etc/passwd", "link/passwd"):
        with pytest.raises(InvalidManifestPathError):
            await session.read(Path(path))
    assert (await session.exec("no-such-program", shell=False)).exit_code == 127


async def test_other_users(session: SandboxSession) -> None:
    assert (
        await session.exec("id -un; echo $HOME", user="agent")
    ).stdout == b"agent\n/home/agent\n"
    await session.exec("chmod 777 .; umask 077; echo secret > private")
    with pytest.raises(Exception, match="private"):
        await session.read(Path("private"), user="agent")
    await session.write(Path("mine/file"), io.BytesIO(b"x"), user="agent")
    assert (await session.exec("stat -c %U mine/file; ls -A /tmp")).stdout.startswith(b"agent\n")
    assert (await session.read(Path("mine/file"), user="agent")).read() == b"x"


async def test_only_root_becomes_another_user(images: dict[str, str], live_sandboxes: Any) -> None:
    client = IsorunSandboxClient()
    manifest = Manifest(root="/home/agent/work")
    options = IsorunSandboxClientOptions(image=images["user"])
    session = await client.create(manifest=manifest, options=options)
    await session.start()
    assert (await session.exec("id -un", user="agent")).stdout == b"agent\n"
    with pytest.raises(ExecTransportError, match="'root': the user of the image is not root"):
        await session.exec("id -un", user="root")
    await client.delete(session)


async def test_timeouts_and_cancelling_kill_commands(session: SandboxSession) -> None:
    started = time.monotonic()
    with pytest.raises(ExecTimeoutError):
        await session.exec("sleep 1000", timeout=0.5)
    assert time.monotonic() - started < 20
    task = asyncio.create_task(session.exec("echo $$ > pid; exec sleep 1000"))
    while not (pid := (await session.exec("cat pid 2>/dev/null")).stdout.strip()):
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        if (await session.exec(f"kill -0 {pid.decode()}")).exit_code != 0:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the command still runs")


async def test_closed_session_is_hibernated_and_resumed(
    session: SandboxSession, live_sandboxes: Any
) -> None:
    client = IsorunSandboxClient()
    # Processes survive, too.
    await session.exec("nohup setsid sleep 1000 >/dev/null 2>&1 & echo $! > pid")
    await session.aclose()
    sandbox_id = inner(session).state.sandbox_id
    assert live_sandboxes.status(sandbox_id) == "hibernated"
    assert await session.running() is False
    state = client.deserialize_session_state(
        json.loads(json.dumps(client.serialize_session_state(session.state)))
    )
    resumed = await client.resume(state)
    await resumed.start()
    assert inner(resumed).state.sandbox_id == sandbox_id
    assert await resumed.running() is True
    assert (await resumed.exec("kill -0 $(cat pid) && cat notes/a.txt")).stdout == b"first\n"
    await inner(resumed).sandbox.close()


async def test_lost_sandbox_is_replaced_from_the_snapshot(
    images: dict[str, str], tmp_path: Path, live_sandboxes: Any
) -> None:
    client = IsorunSandboxClient()
    session = await client.create(
        snapshot=LocalSnapshotSpec(base_path=tmp_path),
        options=IsorunSandboxClientOptions(image=images["root"]),
    )
    await session.start()
    await session.exec("mkdir d; printf '\\377' > d/kept; ln -s d/kept link; chmod 750 d/kept")
    await session.aclose()
    payload = client.serialize_session_state(session.state)
    await client.delete(session)
    resumed = await client.resume(client.deserialize_session_state(payload))
    await resumed.start()
    assert inner(resumed).state.sandbox_id != inner(session).state.sandbox_id
    assert (await resumed.exec("cat link; stat -c %a d/kept")).stdout == b"\xff750\n"
    await client.delete(resumed)


async def test_errors(session: SandboxSession, images: dict[str, str]) -> None:
    with pytest.raises(ExposedPortUnavailableError, match="8001"):
        await session.resolve_exposed_port(8001)
    # The server of the tests has no domain for its URLs.
    with pytest.raises(ExposedPortUnavailableError) as caught:
        await session.resolve_exposed_port(8000)
    assert "domain" in str(caught.value.context)
    long = await session.exec("yes | head -c 20000000")
    assert b"end of the output is missing" in long.stderr
    other = await AsyncSandbox.connect(inner(session).state.sandbox_id)
    await other.destroy()
    with pytest.raises(ExecTransportError, match="destroyed") as gone:
        await session.exec("true")
    assert gone.value.retryable is False
    assert await session.running() is False
    foreign = SandboxSessionState(type="other", manifest=Manifest(), snapshot=NoopSnapshot(id="a"))
    with pytest.raises(TypeError, match="not one of this client"):
        await IsorunSandboxClient().resume(foreign)


@pytest.mark.usefixtures("no_server")
async def test_server_away_is_an_error_of_create() -> None:
    with pytest.raises(IsorunConnectionError, match="isorun serve"):
        await IsorunSandboxClient().create(options=IsorunSandboxClientOptions())


async def test_import_without_the_framework_says_what_to_install() -> None:
    code = "import sys; sys.modules['agents'] = None; import isorun.integrations.openai_agents"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "isorun[openai-agents]"' in done.stderr
