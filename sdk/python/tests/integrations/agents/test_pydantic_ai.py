"""The adapter to Pydantic AI, with its own suite and a scripted model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.workspaces import (
    ReadOnlyWorkspace,
    Workspace,
    WorkspaceBackend,
    WorkspaceOutputLimitError,
    WorkspaceRef,
    WorkspaceTimeoutError,
    WorkspaceUnavailableError,
)
from pydantic_ai.workspaces.conformance import WorkspaceBackendSuite

from isorun import AsyncSandbox, IsorunConnectionError, IsorunError, Sandbox
from isorun.integrations.pydantic_ai import IsorunWorkspace, IsorunWorkspaceBackend


@pytest.fixture(scope="module", params=["root", "user"])
def shared(request: pytest.FixtureRequest, images: dict[str, str]) -> Iterator[str]:
    """The id of a sandbox, for the tests that do not destroy it."""
    with Sandbox(images[request.param]) as sandbox:
        assert sandbox.id is not None
        yield sandbox.id


class TestConformance(WorkspaceBackendSuite):
    """The suite of the framework, as root and as a user without privileges."""

    @pytest.fixture
    def backend(self, shared: str) -> WorkspaceBackend:
        return IsorunWorkspaceBackend(ref=WorkspaceRef(provider="isorun", id=shared))

    @pytest.fixture
    async def created(self) -> AsyncIterator[list[IsorunWorkspaceBackend]]:
        backends: list[IsorunWorkspaceBackend] = []
        yield backends
        for backend in backends:
            await backend.destroy()

    @pytest.fixture
    def fresh_backend(
        self, images: dict[str, str], created: list[IsorunWorkspaceBackend]
    ) -> Callable[[], WorkspaceBackend]:
        def create() -> WorkspaceBackend:
            created.append(IsorunWorkspaceBackend(images["user"]))
            return created[-1]

        return create

    @pytest.fixture
    def attach_backend(self) -> Callable[[WorkspaceRef], WorkspaceBackend]:
        return lambda ref: IsorunWorkspaceBackend(ref=ref)

    @pytest.fixture
    def destroy_environment(self) -> Callable[[WorkspaceBackend], Awaitable[None]]:
        async def destroy(backend: WorkspaceBackend) -> None:
            assert backend.ref is not None
            sandbox = await AsyncSandbox.connect(backend.ref.id)
            await sandbox.destroy()

        return destroy


class Script:
    """A model that calls tools in this order, and answers with what the last one returned."""

    def __init__(self, *calls: ToolCallPart, answer: Callable[[str], str] = str) -> None:
        self.calls = list(calls)
        self.answer = answer
        self.returned: list[str] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        for part in messages[-1].parts:
            if isinstance(part, ToolReturnPart):
                self.returned.append(str(part.content))
        if self.calls:
            return ModelResponse(parts=[self.calls.pop(0)])
        return ModelResponse(parts=[TextPart(self.answer(self.returned[-1]))])


def workspace_agent(capability: IsorunWorkspace[None]) -> Agent[None, str]:
    """Returns an agent whose tools work in its workspace."""
    agent: Agent[None, str] = Agent(capabilities=[capability])

    @agent.tool
    async def write_file(ctx: RunContext[None], path: str, content: str) -> str:
        await ctx.workspace.write_text(path, content)
        return "written"

    @agent.tool
    async def run(ctx: RunContext[None], command: str) -> str:
        result = await ctx.workspace.run(command, shell=True, timeout=30)
        return f"{result.exit_code}: {result.stdout}{result.stderr}"

    return agent


async def test_agent_works_in_a_sandbox_and_continues_in_it(
    images: dict[str, str], live_sandboxes: Any
) -> None:
    agent = workspace_agent(IsorunWorkspace(images["user"]))
    program = "import sys; print(sum(map(int, open('numbers'))), file=sys.stderr); sys.exit(3)"
    script = Script(
        ToolCallPart("write_file", {"path": "numbers", "content": "1\n2\n39\n"}),
        ToolCallPart("write_file", {"path": "sum.py", "content": program}),
        ToolCallPart("run", {"command": "python3 sum.py"}),
    )
    first = await agent.run("Add the numbers.", model=FunctionModel(script))
    assert first.output == "3: 42\n"
    assert script.returned == ["written", "written", "3: 42\n"]
    # A later run continues in the same sandbox, though it was hibernated meanwhile.
    ref = first.workspace.ref
    assert ref is not None and ref.provider == "isorun"
    backend = IsorunWorkspaceBackend(ref=ref)
    async with backend.sandbox() as sandbox:
        await sandbox.hibernate()
    assert live_sandboxes.status(ref.id) == "hibernated"
    script = Script(ToolCallPart("run", {"command": "cat numbers; rm numbers; pwd"}))
    second = await agent.run(
        "Go on.", model=FunctionModel(script), message_history=first.all_messages()
    )
    assert second.output == "0: 1\n2\n39\n/home/agent\n"
    assert second.workspace.ref == ref
    await backend.destroy()
    # Destroying it again is not an error.
    await backend.destroy()


async def test_workspace_can_be_forked(images: dict[str, str]) -> None:
    backend = IsorunWorkspaceBackend(images["root"], working_dir="/srv/a b/../work")
    workspace = Workspace(backend)
    await workspace.write_text("file", "before")
    assert await workspace.working_dir() == "/srv/work"
    async with backend.sandbox() as sandbox:
        (fork,) = await sandbox.fork()
        copy = IsorunWorkspaceBackend(
            ref=WorkspaceRef(provider="isorun", id=str(fork.id)), working_dir="/srv/work"
        )
        await fork.close()
    await workspace.write_text("file", "after")
    assert await Workspace(copy).read_text("file") == "before"
    await copy.destroy()
    await backend.destroy()


async def test_options_and_policies_of_the_capability(images: dict[str, str]) -> None:
    ctx: RunContext[None] = None  # type: ignore[assignment]
    capability: IsorunWorkspace[None] = IsorunWorkspace(
        images["user"],
        options={"mem_mib": 200, "env": {"GREETING": "hello"}},
        read_only=True,
        authority="none",
    )
    assert capability.get_workspace(ctx, ref=WorkspaceRef(provider="local", id="/")) is None
    workspace = capability.get_workspace(ctx, ref=None)
    assert isinstance(workspace, Workspace)
    assert workspace.authority == "none" and workspace.read_only
    backend = workspace.backend
    assert isinstance(backend, IsorunWorkspaceBackend)
    assert isinstance(ReadOnlyWorkspace(Workspace(backend)), Workspace)
    result = await backend.run("echo $GREETING $MORE", shell=True, env={"MORE": "world"})
    assert result.stdout == "hello world\n"
    async with backend.sandbox() as sandbox:
        (fork,) = await sandbox.fork()
        assert fork.info is not None and fork.info.mem_mib == 200
        await fork.destroy()
    await backend.destroy()


async def test_names_need_not_be_utf8(images: dict[str, str]) -> None:
    backend = IsorunWorkspaceBackend(images["user"])
    workspace = Workspace(backend)
    name = b"caf\xe9 'x' $y".decode("utf-8", "surrogateescape")
    await workspace.make_dir(name)
    await workspace.write_bytes(f"{name}/-n\n", b"\x00\xff")
    (entry,) = await workspace.list_dir(name)
    assert (entry.name, entry.is_dir) == ("-n\n", False)
    assert await workspace.read_bytes(entry.path) == b"\x00\xff"
    assert [entry.name for entry in await workspace.list_dir(".")] == [name]
    assert (await workspace.stat(f"{name}/-n\n")).size == 2
    await workspace.remove(name)
    assert not await workspace.exists(name)
    await backend.destroy()


async def test_errors_are_those_of_the_framework(images: dict[str, str]) -> None:
    backend = IsorunWorkspaceBackend(images["user"])
    workspace = Workspace(backend)
    with pytest.raises(WorkspaceOutputLimitError, match="exceeds the limit") as limited:
        await workspace.run("yes | head -c 20000000", shell=True)
    assert limited.value.stdout.startswith("y\ny\n")
    with pytest.raises(WorkspaceTimeoutError, match="longer than 0.5 s") as late:
        await workspace.run("echo begun; sleep 1000", shell=True, timeout=0.5)
    assert late.value.stdout == "begun\n"
    # The shortest timeout is not the same as none.
    with pytest.raises(WorkspaceTimeoutError):
        await workspace.run(["sleep", "1000"], timeout=1e-9)
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout"):
            await backend.run(["true"], timeout=timeout)
    for command in ([], ["a\0b"]):
        with pytest.raises(ValueError, match="the command"):
            await backend.run(command)
    with pytest.raises(ValueError, match="refused"):
        await backend.run(["true"], env={"A=B": "c"})
    await workspace.write_text("script", "true")
    result = await workspace.run(["./script"])
    assert result.exit_code == 126 and "ermission denied" in result.stderr
    for name in ("relative", "/a\0b"):
        with pytest.raises(ValueError, match="path"):
            await backend.read_bytes(name)
    # The user of the sandbox may not write there, though the server could.
    for operation in (workspace.write_text("/etc/new/file", ""), workspace.make_dir("/etc/new")):
        with pytest.raises(PermissionError):
            await operation
    with pytest.raises(PermissionError):
        await workspace.read_bytes("/private/file")
    await workspace.run(["mkfifo", "pipe"])
    with pytest.raises(OSError, match="regular file"):
        await workspace.write_text("pipe", "")
    await workspace.run(["ln", "-s", "loop", "loop"])
    with pytest.raises(OSError):
        await workspace.read_bytes("loop")
    await backend.destroy()
    with pytest.raises(WorkspaceUnavailableError, match="is gone"):
        await workspace.read_bytes("file")
    with pytest.raises(WorkspaceUnavailableError, match="is gone"):
        await workspace.run(["true"])
    with pytest.raises(WorkspaceUnavailableError, match="is gone"):
        await workspace.exists("file")


async def test_ref_is_kept_when_the_caller_is_cancelled(images: dict[str, str]) -> None:
    backend = IsorunWorkspaceBackend(images["user"])
    first = asyncio.create_task(backend.working_dir())
    await asyncio.sleep(0)
    while not first.done() and backend._creating is None:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    end = time.monotonic() + 30
    while backend.ref is None:
        assert time.monotonic() < end, "the ref of the sandbox is lost"
        await asyncio.sleep(0.01)
    ref = backend.ref
    assert await backend.working_dir() == "/home/agent"
    assert backend.ref == ref
    await backend.destroy()


def test_backend_is_used_from_several_event_loops(images: dict[str, str]) -> None:
    backend = IsorunWorkspaceBackend(images["user"])
    for number in range(3):
        result = asyncio.run(backend.run(f"echo {number} >> log; cat log", shell=True))
    assert result.stdout == "0\n1\n2\n"
    asyncio.run(backend.destroy())


@pytest.mark.usefixtures("no_server")
async def test_server_away_is_an_error_that_can_be_retried() -> None:
    backend = IsorunWorkspaceBackend("python:3.12")
    for _ in range(2):
        with pytest.raises(IsorunConnectionError, match="isorun serve"):
            await backend.working_dir()
    assert backend.ref is None


async def test_invalid_configurations_are_refused(images: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="'local'"):
        IsorunWorkspaceBackend(ref=WorkspaceRef(provider="local", id="/"))
    with pytest.raises(ValueError, match="absolute"):
        IsorunWorkspaceBackend(working_dir="work")
    backend = IsorunWorkspaceBackend("no/such:image")
    with pytest.raises(IsorunError) as caught:
        await backend.working_dir()
    assert caught.value.kind == "image_not_found"
    backend = IsorunWorkspaceBackend(images["user"], working_dir="/etc/passwd")
    with pytest.raises(IsorunError, match="/etc/passwd cannot be used"):
        await backend.working_dir()
    await backend.destroy()


def test_import_without_the_framework_says_what_to_install() -> None:
    code = "import sys; sys.modules['pydantic_ai'] = None; import isorun.integrations.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "isorun[pydantic-ai]"' in done.stderr
