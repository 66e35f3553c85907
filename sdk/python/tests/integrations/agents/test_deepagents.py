"""The adapter to Deep Agents, with LangChain's suite and a scripted model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepagents import create_deep_agent
from deepagents.backends.protocol import (
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_tests.integration_tests import SandboxIntegrationTests

from isorun import IsorunConnectionError, IsorunError, Sandbox
from isorun.integrations.deepagents import IsorunBackend

# Cases of the suite that contradict `BaseSandbox` of the release of deepagents that is tested.
# They fail for every backend that inherits these methods: a test below shows it.
CONTRADICTED = {
    "test_write_existing_file_fails": "write() replaces files since its documentation says so",
    "test_glob": "glob() returns absolute paths",
    "test_glob_basic_pattern": "glob() returns absolute paths",
    "test_glob_with_directories": "glob() returns regular files only",
    "test_glob_hidden_files_explicitly": "glob() returns absolute paths",
    "test_glob_with_character_class": "glob() returns absolute paths",
    "test_glob_with_question_mark": "glob() returns absolute paths",
}


@pytest.fixture(scope="module")
def workspace(images: dict[str, str]) -> Iterator[Sandbox]:
    with Sandbox(images["user"]) as sandbox:
        yield sandbox


# Fixtures of the suite that pytest 10 will not accept.
@pytest.mark.filterwarnings("ignore:Class-scoped fixtures:pytest.PytestRemovedIn10Warning")
class TestSuite(SandboxIntegrationTests):
    """The suite of LangChain."""

    @pytest.fixture(scope="class")
    def sandbox(self, workspace: Sandbox) -> IsorunBackend:
        return IsorunBackend(workspace)

    @pytest.fixture(autouse=True)
    def expect_contradicted(self, request: pytest.FixtureRequest) -> None:
        if reason := CONTRADICTED.get(request.node.originalname):
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))


class LocalBackend(BaseSandbox):
    """The least that `BaseSandbox` needs, without a sandbox."""

    id = "local"

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        return ExecuteResponse(done.stdout + done.stderr, done.returncode)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        for path, content in files:
            Path(path).write_bytes(content)
        return [FileUploadResponse(path) for path, _ in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        return [FileDownloadResponse(path, Path(path).read_bytes()) for path in paths]


@pytest.mark.parametrize("case", CONTRADICTED)
def test_contradicted_case_fails_without_the_adapter(case: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        getattr(SandboxIntegrationTests, case)(TestSuite(), LocalBackend(), str(tmp_path))


class Script(BaseChatModel):
    """A model that calls tools in this order, and then gives its answer, in which `{}` is the
    first word that the last tool returned."""

    calls: list[tuple[str, dict[str, Any]]]
    answer: str = "done"

    @property
    def _llm_type(self) -> str:
        return "script"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        done = sum(isinstance(message, ToolMessage) for message in messages)
        calls = [
            {"name": name, "args": arguments, "id": f"call{done}"}
            for name, arguments in self.calls[done : done + 1]
        ]
        words = str(messages[-1].content).split()
        answer = AIMessage("" if calls else self.answer.format(words[0]), tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("write_file", {"file_path": "/home/agent/sum.py", "content": "print(sum([1, 2, 39]))\n"}),
    ("execute", {"command": "python3 sum.py; ls /nowhere; echo after"}),
    ("edit_file", {"file_path": "/home/agent/sum.py", "old_string": "39", "new_string": "40"}),
    ("execute", {"command": "python3 sum.py && exit 3", "timeout": 20}),
    ("read_file", {"file_path": "/home/agent/sum.py"}),
    ("execute", {"command": "seq 200000"}),
]


@pytest.mark.parametrize("is_async", [False, True])
def test_agent_works_in_a_sandbox(images: dict[str, str], is_async: bool) -> None:
    with Sandbox(images["user"]) as sandbox:
        agent = create_deep_agent(model=Script(calls=CALLS), backend=IsorunBackend(sandbox))
        request: Any = {"messages": [{"role": "user", "content": "Add the numbers."}]}
        state = asyncio.run(agent.ainvoke(request)) if is_async else agent.invoke(request)
        results = [message for message in state["messages"] if isinstance(message, ToolMessage)]
        texts = [str(message.content) for message in results]
        assert [message.status for message in results] == ["success"] * len(CALLS)
        first = texts[1].splitlines()
        # Errors are at their place in the output.
        assert first[0] == "42" and "/nowhere" in first[1] and first[2] == "after"
        assert texts[3].startswith("43\n") and "exit code 3" in texts[3]
        assert results[3].artifact["exit_code"] == 3
        assert "sum([1, 2, 40])" in texts[4]
        # The long output stayed in the sandbox.
        saved = results[5].artifact["output_file"]
        assert "lines truncated" in texts[5] and len(texts[5]) < 10_000
        assert sandbox.exec(["tail", "-n", "1", saved]).stdout == "200000\n"
        assert sandbox.download("/home/agent/sum.py") == b"print(sum([1, 2, 40]))\n"


def test_commands_have_a_directory_and_timeouts(workspace: Sandbox) -> None:
    backend = IsorunBackend(workspace, working_dir="/tmp", timeout=1)
    assert backend.id == workspace.id
    assert backend.execute("pwd").output == "/tmp\n"
    started = time.monotonic()
    late = backend.execute("echo begun; sleep 1000")
    assert time.monotonic() - started < 20
    assert late.exit_code == 124
    assert late.output.startswith("begun\nError: the command took longer than its timeout of 1 s")
    assert backend.execute("sleep 1.5; echo done", timeout=0).output == "done\n"
    for execute in (
        lambda: backend.execute("true", timeout=-1),
        lambda: IsorunBackend(workspace, timeout=-1),
    ):
        with pytest.raises(ValueError, match="timeout is -1"):
            execute()
    refused = backend.execute("a\0b")
    assert refused.exit_code == 126 and "NUL" in refused.output
    unparsed = backend.execute("echo fine\nif")
    assert unparsed.exit_code == 2 and unparsed.output.startswith("fine\n")
    cut = backend.execute("yes | head -c 20000000")
    assert cut.truncated and cut.exit_code == 0


async def test_cancelling_a_task_kills_its_command(workspace: Sandbox) -> None:
    backend = IsorunBackend(workspace)
    task = asyncio.create_task(backend.aexecute("echo $$ > /tmp/pid; exec sleep 1000"))
    while not (pid := (await backend.aexecute("cat /tmp/pid 2>/dev/null || true")).output):
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        if (await backend.aexecute(f"kill -0 {pid}")).exit_code != 0:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the command still runs")


@pytest.mark.parametrize("is_async", [False, True])
def test_file_errors_have_the_names_of_the_framework(workspace: Sandbox, is_async: bool) -> None:
    backend = IsorunBackend(workspace)
    workspace.exec("mkdir -p dir; touch file; mkfifo -m 600 pipe; touch no; chmod 0 no")
    home = "/home/agent"
    writes = {
        f"{home}/dir": "is_directory",
        f"{home}/file/below": "invalid_path",
        f"{home}/pipe": "Not a regular file",
        f"{home}/no": "permission_denied",
        "/etc/new/file": "permission_denied",
        f"{home}/../agent/x": "invalid_path",
        "/nul\0": "invalid_path",
        f"{home}/new/file": None,
    }
    reads = {
        f"{home}/dir": "is_directory",
        f"{home}/missing": "file_not_found",
        f"{home}/file/below": "invalid_path",
        f"{home}/pipe": "Not a regular file",
        f"{home}/no": "permission_denied",
        "/private/file": "permission_denied",
    }
    files = [(path, b"\xff") for path in writes]
    if is_async:
        written = asyncio.run(backend.aupload_files(files))
        read = asyncio.run(backend.adownload_files([*reads, f"{home}/new/file"]))
    else:
        written = backend.upload_files(files)
        read = backend.download_files([*reads, f"{home}/new/file"])
    assert written == [FileUploadResponse(path, reason) for path, reason in writes.items()]
    assert read == [
        *(FileDownloadResponse(path, None, reason) for path, reason in reads.items()),
        FileDownloadResponse(f"{home}/new/file", b"\xff"),
    ]


def test_sandbox_that_is_gone_is_an_error_of_the_agent(images: dict[str, str]) -> None:
    sandbox = Sandbox(images["user"])
    with pytest.raises(ValueError, match="not created"):
        IsorunBackend(sandbox)
    sandbox.create()
    with pytest.raises(ValueError, match="absolute"):
        IsorunBackend(sandbox, working_dir="work")
    backend = IsorunBackend(sandbox)
    assert sandbox.id is not None
    Sandbox.connect(sandbox.id).destroy()
    with pytest.raises(IsorunError) as caught:
        backend.execute("true")
    assert caught.value.kind == "run_destroyed"
    with pytest.raises(IsorunError):
        asyncio.run(backend.adownload_files(["/etc/passwd"]))
    agent = create_deep_agent(model=Script(calls=CALLS), backend=backend)
    with pytest.raises(IsorunError, match="destroyed"):
        agent.invoke({"messages": [{"role": "user", "content": "Add the numbers."}]})


def test_server_away_is_an_error_of_the_agent(
    workspace: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Sandbox("", api_url="http://127.0.0.1:9", api_key="none")
    away.id = workspace.id
    backend = IsorunBackend(away)
    with pytest.raises(IsorunConnectionError, match="isorun serve"):
        backend.execute("true")
    with pytest.raises(IsorunConnectionError, match="isorun serve"):
        asyncio.run(backend.aexecute("true"))


def test_import_without_the_framework_says_what_to_install() -> None:
    code = "import sys; sys.modules['deepagents'] = None; import isorun.integrations.deepagents"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "isorun[deepagents]"' in done.stderr
