"""The adapter to Google ADK, on its own runner with a scripted model."""

from __future__ import annotations

import asyncio
import pickle
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.environment import BaseEnvironment, ExecutionResult
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.environment import EnvironmentToolset
from google.genai import types
from isorun import AsyncSandbox, IsorunConnectionError, IsorunError, Sandbox
from isorun.integrations.google_adk import IsorunEnvironment
from support import IMPORT_WITHOUT, relayed

# ADK says so for the interface itself, and for features of its runner.
pytestmark = pytest.mark.filterwarnings("ignore:.*EXPERIMENTAL.*:UserWarning")

ROOT = Path(__file__).parents[5]

BINARY = bytes(range(256)) * 40


class ScriptedModel(BaseLlm):
    """A model that calls tools in a given order, and says at last what they returned."""

    model: str = "scripted"
    calls: list[tuple[str, dict[str, Any]]]
    results: list[dict[str, Any]] = []
    tool_names: list[str] = []
    instruction: str = ""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self.tool_names = list(llm_request.tools_dict)
        self.instruction = str(llm_request.config.system_instruction)
        for part in llm_request.contents[-1].parts or []:
            if part.function_response and part.function_response.response is not None:
                self.results.append(part.function_response.response)
        if self.calls:
            name, arguments = self.calls.pop(0)
            part = types.Part.from_function_call(name=name, args=arguments)
        else:
            part = types.Part(text=str(self.results[-1]))
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


async def converse(environment: BaseEnvironment, model: ScriptedModel) -> str:
    """Runs an agent with the tools of an environment, and returns its answer."""
    tools = EnvironmentToolset(environment=environment)
    agent = LlmAgent(name="coder", model=model, tools=[tools])
    runner = InMemoryRunner(agent=agent)
    try:
        events = await runner.run_debug("Do it.", quiet=True)
    finally:
        await runner.close()
    content = events[-1].content
    return "".join(part.text or "" for part in (content and content.parts) or [])


# Commands.


async def test_a_command_returns_its_output_and_exit_code(configured: None) -> None:
    async with IsorunEnvironment("host") as environment:
        done = await environment.execute("pwd; echo err >&2; exit 42")
        assert done == ExecutionResult(42, "/workspace\n", "err\n")
        assert (await environment.execute("kill -9 $$")).exit_code == 137


async def test_a_command_has_the_variables_of_the_environment(configured: None) -> None:
    async with IsorunEnvironment("host", env={"NAME": "it's $HOME"}, working_dir="/a/b/") as other:
        assert (await other.execute('echo "$NAME"; pwd')).stdout == "it's $HOME\n/a/b\n"
        # Variables of the agent's own process are not in the sandbox.
        assert "ISORUN_COMMAND" not in (await other.execute("env")).stdout


async def test_a_command_is_killed_after_its_timeout(configured: None) -> None:
    async with IsorunEnvironment("host") as environment:
        done = await environment.execute("echo out; echo err >&2; sleep 60 & sleep 60", timeout=0.7)
        assert done == ExecutionResult(124, "out\n", "err\n", timed_out=True)
        assert "sleep" not in (await environment.execute("cat /proc/[0-9]*/cmdline")).stdout
        with pytest.raises(ValueError, match="more than 0 seconds"):
            await environment.execute("true", timeout=0)


async def test_no_timeout_is_no_timeout(configured: None) -> None:
    async with IsorunEnvironment(Sandbox("host", timeout=0.5)) as environment:
        assert (await environment.execute("sleep 1; echo done")).stdout == "done\n"


async def test_a_cancelled_command_is_killed(configured: None) -> None:
    async with IsorunEnvironment("host") as environment:
        running = asyncio.create_task(environment.execute("touch started; sleep 61"))
        await until_exists(environment, "started")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        for _ in range(200):
            done = await environment.execute("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
            if "61" not in done.stdout.splitlines():
                return
            await asyncio.sleep(0.05)
        pytest.fail("the command was not killed")


async def test_the_output_of_a_result_is_limited(configured: None) -> None:
    async with IsorunEnvironment("host", max_output=1000) as environment:
        done = await environment.execute("head -c 500000 /dev/zero | tr '\\0' x; echo end >&2")
        assert done.stdout == "x" * 1000
        assert done.stderr.startswith("end\n[isorun: the end of standard output is missing")


async def test_a_working_directory_that_was_removed_is_the_result(configured: None) -> None:
    async with IsorunEnvironment("host") as environment:
        await environment.execute("rmdir /workspace")
        done = await environment.execute("echo started")
        assert (done.exit_code, done.stdout) == (127, "")
        assert "/workspace" in done.stderr


# Files.


async def test_files_keep_their_bytes(configured: None) -> None:
    async with IsorunEnvironment("host") as environment:
        # The tools pass strings, and other callers paths.
        for path in ("deep/er/it's a $file", Path("/workspace/other"), Path("third")):
            await environment.write_file(path, BINARY)
            assert await environment.read_file(path) == BINARY
        await environment.write_file("text", "h\u00e9llo\r\n")
        assert await environment.read_file("/workspace/text") == "h\u00e9llo\r\n".encode()
        await environment.execute("chmod 755 text")
        await environment.write_file("text", b"")
        assert (await environment.execute("stat -c %a%s text")).stdout == "7550\n"


async def test_files_that_cannot_be_read_or_written(configured: None) -> None:
    async with IsorunEnvironment("host", max_file_bytes=100_000) as environment:
        with pytest.raises(FileNotFoundError, match="/workspace/none"):
            await environment.read_file(Path("none"))
        with pytest.raises(OSError, match="directory"):
            await environment.read_file("/usr")
        with pytest.raises(OSError, match="/proc/none"):
            await environment.write_file("/proc/none", "x")
        await environment.execute("truncate -s 4G huge")
        with pytest.raises(OSError, match="more than 100000 bytes"):
            await environment.read_file("huge")


# The life of the sandbox.


async def test_the_sandbox_is_created_and_destroyed(server: Any) -> None:
    environment = IsorunEnvironment("host")
    assert not environment.is_initialized
    with pytest.raises(IsorunError, match="not created"):
        await environment.execute("true")
    # Agents that run at the same time may share an environment.
    await asyncio.gather(*(environment.initialize() for _ in range(4)))
    first = environment.id
    assert environment.is_initialized
    assert environment.working_dir == Path("/workspace")
    await environment.close()
    await environment.close()
    assert not environment.is_initialized
    server.wait_until_gone(first)
    await environment.initialize()
    assert environment.id not in (None, first)
    await environment.close()


async def test_a_sandbox_that_exists_is_left_alone(server: Any) -> None:
    async with AsyncSandbox("host") as existing:
        async with IsorunEnvironment(existing) as environment:
            assert environment.id == existing.id
            await environment.write_file("kept", "x")
        assert await existing.download("/workspace/kept") == b"x"


async def test_a_hibernated_sandbox_continues(server: Any) -> None:
    options = AsyncSandbox("host", on_idle="hibernate", auto_resume=True)
    async with IsorunEnvironment(options) as environment:
        await environment.write_file("note", "before")
        assert environment.id is not None
        same = await AsyncSandbox.connect(environment.id)
        await same.hibernate()
        await same.close()
        assert await environment.read_file("note") == b"before"
        assert (await environment.execute("cat note")).stdout == "before"


async def test_an_environment_is_copied_before_it_is_used(server: Any) -> None:
    copy = pickle.loads(pickle.dumps(IsorunEnvironment("host", working_dir="/job")))
    async with copy:
        assert (await copy.execute("pwd")).stdout == "/job\n"
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(copy)
    with pytest.raises(ValueError, match="absolute"):
        IsorunEnvironment("host", working_dir="job")


# Failures.


async def test_no_server_is_reached(configured: None) -> None:
    away = AsyncSandbox("host", api_url="http://127.0.0.1:9", api_key="isorun_live_x")
    environment = IsorunEnvironment(away)
    with pytest.raises(IsorunConnectionError, match="isorun serve"):
        await environment.initialize()
    assert not environment.is_initialized


async def test_the_server_goes_away(server: Any) -> None:
    async with relayed(server.url) as relay:
        options = AsyncSandbox("host", api_url=relay.url, api_key=server.key)
        environment = IsorunEnvironment(options)
        await environment.initialize()
        running = asyncio.create_task(environment.execute("touch started; sleep 60"))
        await until_exists(environment, "started")
        await relay.stop()
        with pytest.raises(IsorunConnectionError):
            await running
        with pytest.raises(ConnectionError, match=re.escape(relay.url)):
            await environment.read_file("started")
        with pytest.raises(ConnectionError, match=re.escape(relay.url)):
            await environment.write_file("x", b"")
        with pytest.raises(IsorunConnectionError):
            await environment.close()
    assert environment.id is not None
    Sandbox.connect(environment.id).destroy()


async def test_the_sandbox_is_destroyed_while_it_is_used(server: Any) -> None:
    async with IsorunEnvironment("host") as environment:
        running = asyncio.create_task(environment.execute("touch started; sleep 60"))
        await until_exists(environment, "started")
        assert environment.id is not None
        await (await AsyncSandbox.connect(environment.id)).destroy()
        with pytest.raises(IsorunError, match="destroyed"):
            await running
        with pytest.raises(OSError, match="destroyed"):
            await environment.read_file("started")


# An agent.


async def test_an_agent_works_in_the_environment(server: Any) -> None:
    environment = IsorunEnvironment("host")
    program = "import sys\nprint(sum(range(int(sys.argv[1]))))\n"
    model = ScriptedModel(
        calls=[
            ("WriteFile", {"path": "sum.py", "content": program}),
            ("Execute", {"command": "python3 sum.py 11 && ls"}),
            ("EditFile", {"path": "sum.py", "old_string": "sum(", "new_string": "2 * sum("}),
            ("ReadFile", {"path": "/workspace/sum.py"}),
            ("ReadFile", {"path": "none"}),
            ("Execute", {"command": "python3 sum.py x"}),
            ("Execute", {"command": "python3 sum.py 11"}),
        ]
    )
    answer = await converse(environment, model)
    written, first, edited, read, missing, failed, last = model.results
    assert model.tool_names == ["Execute", "ReadFile", "EditFile", "WriteFile"]
    assert "/workspace/" in model.instruction
    assert written["status"] == edited["status"] == "ok"
    assert first == {"status": "ok", "stdout": "55\nsum.py\n"}
    assert "2 * sum(" in read["content"]
    assert missing == {"status": "error", "error": "File not found: none"}
    assert failed["exit_code"] == 1
    assert "ValueError" in failed["stderr"]
    assert last == {"status": "ok", "stdout": "110\n"}
    assert "110" in answer
    # The runner has closed the tools, and they the environment.
    assert environment.id is None


async def test_an_agent_is_cancelled_while_it_runs_a_command(server: Any) -> None:
    with Sandbox("host") as existing:
        environment = IsorunEnvironment(existing)
        model = ScriptedModel(calls=[("Execute", {"command": "touch started; sleep 64"})])
        running = asyncio.create_task(converse(environment, model))
        while "started" not in existing.exec("ls /workspace").stdout:
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        for _ in range(200):
            cmdlines = existing.exec("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'").stdout
            if "64" not in cmdlines.splitlines():
                return
            await asyncio.sleep(0.05)
        pytest.fail("the command was not killed")


async def test_an_agent_sees_that_the_sandbox_is_gone(server: Any) -> None:
    async with AsyncSandbox("host") as existing:
        environment = IsorunEnvironment(existing)
        await environment.initialize()
        await existing.destroy()
        model = ScriptedModel(
            calls=[("Execute", {"command": "true"}), ("ReadFile", {"path": "/etc/hostname"})]
        )
        tools = EnvironmentToolset(environment=environment)
        tools._environment_initialized = True
        runner = InMemoryRunner(agent=LlmAgent(name="coder", model=model, tools=[tools]))
        await runner.run_debug("Do it.", quiet=True)
        for result in model.results:
            assert result["status"] == "error"
            assert "destroyed" in result["error"]
            assert server.key not in str(result)
        assert len(model.results) == 2


def test_the_sample_of_the_page(server: Any) -> None:
    page = (ROOT / "docs/integrations/google-adk.md").read_text("utf-8")
    samples = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (sample,) = [code for code in samples if "IsorunEnvironment" in code]
    assert re.search(r'^model = ".*"$', sample, re.M)
    program = "print([n for n in range(2, 30) if all(n % d for d in range(2, n))])"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("WriteFile", {"path": "primes.py", "content": program}),
        ("Execute", {"command": "python3 primes.py"}),
    ]
    model = ScriptedModel(calls=calls)
    # The page names a model of a provider; the test has no network.
    code = re.sub(r'^model = ".*$', "", sample, flags=re.M)
    printed: list[str] = []
    exec(code, {"model": model, "print": lambda value: printed.append(str(value))})
    assert "23, 29]" in printed[-1]


def test_the_import_says_what_to_install() -> None:
    code = IMPORT_WITHOUT.format(missing=["google.adk"], module="isorun.integrations.google_adk")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'pip install "isorun[google-adk]"' in done.stdout


async def until_exists(environment: IsorunEnvironment, name: str) -> None:
    """Waits until a file exists in the working directory."""
    while name not in (await environment.execute("ls")).stdout.split():
        await asyncio.sleep(0.05)
