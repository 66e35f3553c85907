"""The adapter to Inspect in evaluations, with the scripted model of the framework."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import bash, python
from inspect_ai.util import (
    OutputLimitExceededError,
    SandboxEnvironmentSpec,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandbox,
)

from isorun import AsyncSandbox, IsorunConnectionError, IsorunError
from isorun.integrations.inspect_ai import IsorunSandboxConfig, IsorunSandboxEnvironment

# Evaluations leave streams and sockets of the framework itself open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects them in the test that left them."""
    yield
    gc.collect()


def scripted(*calls: tuple[str, dict[str, Any]], answer: str) -> Model:
    """Returns a model that calls tools in this order, and then answers."""
    outputs = [ModelOutput.for_tool_call("mockllm/model", name, given) for name, given in calls]
    # The framework also asks at the end of each sample.
    outputs += [ModelOutput.from_content("mockllm/model", answer) for _ in range(10)]
    for output in outputs:
        # Otherwise it is counted, with a tokenizer from the network.
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return get_model("mockllm/model", custom_outputs=outputs)


def spec(image: str) -> SandboxEnvironmentSpec:
    return SandboxEnvironmentSpec("isorun", IsorunSandboxConfig(image=image))


def evaluate(task: Task, model: Model, tmp_path: Path, **options: Any) -> EvalLog:
    (log,) = eval(task, model=model, log_dir=str(tmp_path), display="none", **options)
    return log


def tool_results(log: EvalLog) -> list[str]:
    assert log.samples
    messages = [message for message in log.samples[0].messages if message.role == "tool"]
    return [message.text if message.error is None else message.error.type for message in messages]


def test_model_uses_the_tools_in_a_sandbox(
    images: dict[str, str], tmp_path: Path, live_sandboxes: Any
) -> None:
    config = IsorunSandboxConfig(
        image=images["root"],
        working_dir="/work",
        env={"GREETING": "hello"},
        credentials={"OPENAI_API_KEY": "hidden"},
    )
    task = Task(
        dataset=[
            Sample("Add the numbers.", target="42", files={"numbers": "1\n2\n39\n"},
                   setup="echo $GREETING > greeting"),
        ],
        solver=[use_tools(bash(timeout=20), python(timeout=1)), generate()],
        scorer=includes(),
        sandbox=SandboxEnvironmentSpec("isorun", config),
    )  # fmt: skip
    model = scripted(
        ("bash", {"command": "pwd; cat greeting; ls /nowhere"}),
        ("python", {"code": "print(sum(map(int, open('numbers'))))"}),
        ("python", {"code": "import time; time.sleep(1000)"}),
        answer="It is 42.",
    )
    log = evaluate(task, model, tmp_path)
    assert log.status == "success", log.error
    assert log.results is not None and log.results.scores[0].metrics["accuracy"].value == 1
    first, second, third = tool_results(log)
    assert "/work\nhello\n" in first and "/nowhere" in first
    assert second == "42\n"
    assert third == "timeout"
    # The configuration is in the log, without the secrets.
    assert log.eval.sandbox is not None
    assert log.eval.sandbox.config.image == images["root"]
    (path,) = tmp_path.glob("*.eval")
    shown = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "log", "dump", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert images["root"] in shown.stdout and "hidden" not in shown.stdout


def test_provider_is_found_by_the_entry_point(images: dict[str, str], tmp_path: Path) -> None:
    # Nothing imports the adapter: the entry point of the installed package does. The
    # configuration is in the directory of the task.
    (tmp_path / "isorun.yaml").write_text(f"image: {images['user']}\n")
    program = """
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash

call = ModelOutput.for_tool_call("mockllm/model", "bash", {"command": "id -un"})
end = ModelOutput.from_content("mockllm/model", "done")
call.usage = end.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
model = get_model("mockllm/model", custom_outputs=[call, end, end])
task = Task([Sample("Who?")], [use_tools(bash()), generate()], sandbox="isorun")
(log,) = eval(task, model=model, log_dir="logs", display="none")
print(log.status, log.error and log.error.message, [m.text for m in log.samples[0].messages if m.role == "tool"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "success None ['agent\\n']\n", done.stderr


def test_each_sample_has_a_sandbox_of_its_own(
    images: dict[str, str], tmp_path: Path, live_sandboxes: Any
) -> None:
    @solver
    def write_and_list() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            environment = sandbox()
            await environment.write_file(f"file{state.sample_id}", "x")
            state.metadata["files"] = (await environment.exec(["ls"])).stdout
            return state

        return solve

    samples = [Sample("Go on.", id=number) for number in (1, 2, 3)]
    task = Task(samples, write_and_list(), sandbox=spec(images["user"]))
    log = evaluate(task, scripted(answer=""), tmp_path)
    assert log.status == "success" and log.samples is not None, log.error
    assert [sample.metadata["files"] for sample in log.samples] == ["file1\n", "file2\n", "file3\n"]


@pytest.mark.parametrize("keep", [False, True])
def test_sandbox_of_an_interrupted_sample(
    images: dict[str, str],
    tmp_path: Path,
    live_sandboxes: Any,
    keep: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @solver
    def fail() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            raise RuntimeError("the solver failed")

        return solve

    before = live_sandboxes.ids()
    task = Task([Sample("Go on.")], fail(), sandbox=spec(images["user"]))
    log = evaluate(task, scripted(answer=""), tmp_path, sandbox_cleanup=not keep)
    assert log.status == "error"
    left = live_sandboxes.ids() - before
    assert len(left) == (1 if keep else 0)
    for sandbox_id in left:
        assert f"inspect sandbox cleanup isorun {sandbox_id}" in caplog.text
        done = subprocess.run(
            [sys.executable, "-m", "inspect_ai", "sandbox", "cleanup", "isorun", sandbox_id],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
async def environment(images: dict[str, str]) -> AsyncIterator[IsorunSandboxEnvironment]:
    environment = await IsorunSandboxEnvironment.create(IsorunSandboxConfig(image=images["root"]))
    yield environment
    await IsorunSandboxEnvironment.sample_cleanup("task", None, {"default": environment}, False)


@pytest.mark.anyio
async def test_commands_of_other_users(environment: IsorunSandboxEnvironment) -> None:
    script = 'id -u; id -g; id -G; echo "$HOME $A"; pwd; cat; exec ./program'
    command = ["sh", "-c", script]
    await environment.write_file("/tmp/program", "#!/bin/sh\n")
    with pytest.raises(PermissionError, match="denied"):
        await environment.exec(command, input="in\n", cwd="/tmp", env={"A": "b"}, user="agent")
    await environment.exec(["chmod", "755", "/tmp/program"])
    expected = "1000\n1000\n1000\n/home/agent b\n/tmp\nin\n"
    for user in ("agent", "1000"):
        result = await environment.exec(
            command, input="in\n", cwd="/tmp", env={"A": "b"}, user=user
        )
        assert (result.stdout, result.stderr) == (expected, "")
    # A number without an entry in /etc/passwd.
    assert (await environment.exec(["id", "-u"], user="4321")).stdout == "4321\n"
    # Input that a request cannot transport, which the user could not read.
    large = "x" * 2_000_000
    assert (await environment.exec(["wc", "-c"], large, user="agent")).stdout == "2000000\n"
    assert (await environment.exec(["ls", "-A", "/tmp"])).stdout == "program\n"
    for user in ("root", "0"):
        assert (await environment.exec(["id", "-u"], user=user)).stdout == "0\n"
    # A program of the same name in the image's search path is not run as root.
    await environment.write_file("/usr/local/bin/setpriv", "#!/bin/sh\necho planted\n")
    await environment.exec(["chmod", "755", "/usr/local/bin/setpriv"])
    assert (await environment.exec(["id", "-un"], user="agent")).stdout == "agent\n"
    await environment.exec(["rm", "/usr/bin/setpriv"])
    with pytest.raises(SandboxUserUnsupportedError, match="no `setpriv`"):
        await environment.exec(["id"], user="agent")


@pytest.mark.anyio
async def test_errors_of_commands(environment: IsorunSandboxEnvironment) -> None:
    missing = await environment.exec(["no-such-program"])
    assert (missing.success, missing.returncode) == (False, 127)
    assert "not found" in missing.stderr
    missing = await environment.exec(["true"], cwd="/no/such/directory")
    assert missing.returncode == 127 and "/no/such/directory" in missing.stderr
    with pytest.raises(OutputLimitExceededError, match="was exceeded") as limited:
        await environment.exec(["sh", "-c", "yes | head -c 20000000"])
    assert str(limited.value.truncated_output).startswith("y\ny\n")
    with pytest.raises(ValueError, match="NUL"):
        await environment.exec(["a\0b"])


@pytest.mark.anyio
async def test_cancelling_kills_the_command(environment: IsorunSandboxEnvironment) -> None:
    started = time.monotonic()
    with anyio.move_on_after(1):
        await environment.exec(["sh", "-c", "echo $$ > /tmp/pid; exec sleep 1000"])
    assert time.monotonic() - started < 20
    pid = (await environment.read_file("/tmp/pid")).strip()
    with anyio.fail_after(20):
        while (await environment.exec(["sh", "-c", f"kill -0 {pid}"])).success:
            await anyio.sleep(0.05)


@pytest.mark.anyio
async def test_connection_is_a_shell(environment: IsorunSandboxEnvironment) -> None:
    connection = await environment.connection()
    assert (connection.type, connection.container) == ("isorun", environment.sandbox.id)
    command, *words = connection.command.split()
    assert command == "isorun"
    opened = " ".join([os.environ["ISORUN_COMMAND"], *words])
    with subprocess.Popen(
        ["script", "-qec", opened, "/dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as terminal:
        assert terminal.stdin is not None and terminal.stdout is not None
        try:
            # The prompt of the shell ends with `# `.
            while terminal.stdout.read(1) != b"#":
                assert terminal.poll() is None
            terminal.stdin.write(b"echo $((6 * 7))\nexit\n")
            terminal.stdin.flush()
            output = await anyio.to_thread.run_sync(terminal.stdout.read)
        finally:
            terminal.kill()
    assert b"\r\n42\r\n" in output
    with pytest.raises(NotImplementedError, match="root"):
        await environment.connection(user="agent")


@pytest.mark.anyio
async def test_sandbox_that_is_gone_is_unavailable(environment: IsorunSandboxEnvironment) -> None:
    other = await AsyncSandbox.connect(str(environment.sandbox.id))
    await other.destroy()
    with pytest.raises(SandboxUnavailableError, match="destroyed"):
        await environment.exec(["true"])
    with pytest.raises(SandboxUnavailableError):
        await environment.read_file("file")
    with pytest.raises(SandboxUnavailableError):
        await environment.write_file("file", "")
    with pytest.raises(ConnectionError):
        await environment.connection()
    # It is not an error that it is gone already.
    await IsorunSandboxEnvironment.sample_cleanup("task", None, {"default": environment}, False)


@pytest.mark.usefixtures("no_server")
def test_server_away_is_an_error_of_the_sample(tmp_path: Path) -> None:
    task = Task([Sample("Go on.")], generate(), sandbox="isorun")
    log = evaluate(task, scripted(answer=""), tmp_path)
    assert log.status == "error" and log.error is not None
    assert "isorun serve" in log.error.message


async def test_image_that_cannot_be_used_leaves_no_sandbox(
    images: dict[str, str], live_sandboxes: Any
) -> None:
    for config, message in (
        (IsorunSandboxConfig(image="no/such:image"), "no/such:image"),
        (IsorunSandboxConfig(image=images["user"], working_dir="/etc/passwd"), "cannot be used"),
    ):
        with pytest.raises(IsorunError, match=message) as caught:
            await IsorunSandboxEnvironment.create(config)
        assert not isinstance(caught.value, IsorunConnectionError)
    with pytest.raises(TypeError, match="IsorunSandboxConfig"):
        await IsorunSandboxEnvironment.create(Sample("x"))


async def test_configuration_files(tmp_path: Path) -> None:
    path = tmp_path / "isorun.yaml"
    with pytest.raises(PrerequisiteError, match="there is no configuration"):
        await IsorunSandboxEnvironment.create(str(path))
    for text, message in (
        ("image: [", "not a valid configuration"),
        ("memory: 100", "memory"),
        ("- image", "not a valid configuration"),
    ):
        path.write_text(text)
        with pytest.raises(PrerequisiteError, match=message):
            await IsorunSandboxEnvironment.create(str(path))


def test_import_without_the_framework_says_what_to_install() -> None:
    code = "import sys; sys.modules['inspect_ai'] = None; import isorun.integrations.inspect_ai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "isorun[inspect-ai]"' in done.stderr
