"""The code executor of Google ADK, on its own runner with a scripted model."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import isola
import pytest
from google.adk.agents import LlmAgent
from google.adk.agents.invocation_context import InvocationContext
from google.adk.code_executors.code_execution_utils import (
    CodeExecutionInput,
    CodeExecutionResult,
    File,
)
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types
from isola.integrations.google_adk import IsolaCodeExecutor

pytestmark = pytest.mark.filterwarnings("ignore:.*EXPERIMENTAL.*:UserWarning")

ROOT = Path(__file__).parents[5]

# The executor uses nothing of it.
NO_CONTEXT = cast(InvocationContext, None)


@pytest.fixture
def executor() -> Iterator[IsolaCodeExecutor]:
    executor = IsolaCodeExecutor()
    yield executor
    executor.close()


@pytest.fixture
def session() -> Iterator[IsolaCodeExecutor]:
    executor = IsolaCodeExecutor(stateful=True, max_sessions=2)
    yield executor
    executor.close()


def run(
    executor: IsolaCodeExecutor, code: str, *files: File, session: str | None = None
) -> CodeExecutionResult:
    code_input = CodeExecutionInput(code=code, input_files=list(files), execution_id=session)
    return executor.execute_code(NO_CONTEXT, code_input)


class ScriptedModel(BaseLlm):
    """A model that says given texts in order, and sees what the code in them printed."""

    model: str = "scripted"
    texts: list[str]
    seen: list[str] = []

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self.seen.append("".join(p.text or "" for p in llm_request.contents[-1].parts or []))
        text = self.texts.pop(0) if self.texts else f"The answer: {self.seen[-1]}"
        part = types.Part(text=text)
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


# Code.


def test_code_returns_its_output(executor: IsolaCodeExecutor) -> None:
    done = run(executor, "import sys\nprint('a')\nprint('warning', file=sys.stderr)\n1 + 1")
    # Any standard error counts as a failure in ADK.
    assert done == CodeExecutionResult(stdout="a\n", stderr="", exit_code=0)


def test_an_exception_is_in_the_standard_error(executor: IsolaCodeExecutor) -> None:
    done = run(executor, "import sys\nprint('a')\nprint('b', file=sys.stderr)\n1 / 0")
    assert (done.stdout, done.exit_code) == ("a\n", 1)
    assert done.stderr.startswith("b\n")
    assert done.stderr.count("ZeroDivisionError: division by zero") == 1
    assert "\x1b" not in done.stderr
    assert "SyntaxError" in run(executor, "def").stderr
    code = "class E(Exception):\n  pass\nraise E('two\\nlines')"
    assert run(executor, code).stderr.endswith("raise E('two\\nlines')\nE: two\nlines\n")


def test_code_may_exit(executor: IsolaCodeExecutor) -> None:
    assert run(executor, "print('a')\nraise SystemExit") == CodeExecutionResult("a\n", exit_code=0)
    assert run(executor, "import sys\nsys.exit(0)").exit_code == 0
    done = run(executor, "import sys\nsys.exit(3)")
    assert (done.exit_code, done.stderr) == (3, "The code exited with 3.\n")
    assert run(executor, "import sys\nsys.exit(-1)").exit_code == 255
    assert run(executor, "raise SystemExit('9' * 6000)").exit_code == 1
    done = run(executor, "raise SystemExit('a reason')")
    assert (done.exit_code, done.stderr) == (1, "a reason\n")


def test_code_is_the_main_module(executor: IsolaCodeExecutor) -> None:
    assert run(executor, "if __name__ == '__main__':\n    print('main')").stdout == "main\n"


def test_each_piece_of_code_has_its_own_sandbox(executor: IsolaCodeExecutor) -> None:
    run(executor, "x = 1\nopen('f', 'w').close()")
    done = run(executor, "import os\nprint('x' in globals(), os.listdir())")
    assert done.stdout == "False []\n"


def test_code_has_nothing_of_the_process(
    executor: IsolaCodeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "a secret")
    assert "secret" not in run(executor, "import os\nprint(dict(os.environ))").stdout
    done = run(executor, f"print(open({__file__!r}).read())")
    assert "FileNotFoundError" in done.stderr
    done = run(executor, "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')")
    assert done.exit_code == 1


def test_options_reach_the_sandbox() -> None:
    executor = IsolaCodeExecutor(
        template_options={"env": {"A": "1"}},
        sandbox_options={"env": {"B": "2"}, "hostcalls": {"double": lambda n: 2 * n}},
    )
    code = (
        "import os\nfrom sandbox.asyncio import hostcall\n"
        "print(os.environ['A'], os.environ['B'], await hostcall('double', 21))"
    )
    assert run(executor, code).stdout == "1 2 42\n"
    with pytest.raises(isola.InvalidArgumentError, match="no_such_option"):
        run(IsolaCodeExecutor(sandbox_options={"no_such_option": 1}), "1")
    with pytest.raises(ValueError, match="pandas"):
        IsolaCodeExecutor(optimize_data_file=True)


# Limits.


def test_code_is_interrupted_after_its_timeout() -> None:
    executor = IsolaCodeExecutor(timeout_seconds=1)
    started = time.monotonic()
    done = run(executor, "print('a')\nwhile True: pass")
    assert time.monotonic() - started < 30
    assert (done.stdout, done.exit_code) == ("a\n", 1)
    assert "line 2, in <module>" in done.stderr
    assert "\nTimeoutError: " in done.stderr


def test_code_that_cannot_be_interrupted_is_stopped() -> None:
    executor = IsolaCodeExecutor(timeout_seconds=1)
    code = "print('a')\nwhile True:\n  try:\n    while True: pass\n  except BaseException: pass"
    done = run(executor, code)
    assert (done.stdout, done.exit_code) == ("a\n", None)
    assert "time" in done.stderr


def test_limits_are_in_the_standard_error() -> None:
    executor = IsolaCodeExecutor(cpu_timeout_seconds=0.5, sandbox_options={"max_memory": 64 << 20})
    done = run(executor, "print('a')\nwhile True: pass")
    assert (done.stdout, done.exit_code) == ("a\n", None)
    assert "CPU" in done.stderr
    done = run(executor, "x = bytearray(1 << 30)")
    assert done.exit_code != 0
    assert "emory" in done.stderr


def test_output_is_limited(executor: IsolaCodeExecutor) -> None:
    small = IsolaCodeExecutor(sandbox_options={"limits": isola.Limits(max_output_size=10_000)})
    done = run(small, "while True: print('x' * 99)")
    assert len(done.stdout) <= 10_000
    assert done.exit_code is None
    assert "output" in done.stderr


# Files.


def test_code_has_the_input_files(executor: IsolaCodeExecutor) -> None:
    data = bytes(range(256))
    done = run(
        executor,
        "print(list(open('raw', 'rb').read()) == list(range(256)))\n"
        "print(open('sub/data.csv').read(), end='')",
        File("raw", data, "application/octet-stream"),
        File("sub/data.csv", base64.b64encode(b"a,b\n1,2\n").decode(), "text/csv"),
    )
    # They are not output files.
    assert done == CodeExecutionResult(stdout="True\na,b\n1,2\n", exit_code=0)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".", "a\0b"])
def test_a_name_of_an_input_file_is_checked(executor: IsolaCodeExecutor, name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        run(executor, "1", File(name, b""))


def test_the_content_of_an_input_file_is_checked(executor: IsolaCodeExecutor) -> None:
    with pytest.raises(ValueError, match="'data.csv' is a text that is not base64"):
        run(executor, "1", File("data.csv", "a,b\n1,2\n"))


def test_files_that_code_writes_are_returned(executor: IsolaCodeExecutor) -> None:
    code = (
        "import os\nos.makedirs('out/deep')\n"
        "open('out/deep/plot.png', 'wb').write(bytes(range(256)))\n"
        "open('in.txt', 'a').write('more')\n"
        "open('module.py', 'w').write('x = 1')\nimport module\n"
        "open('/tmp/other', 'w').write('not in the home')\n"
        "os.symlink('/tmp/other', 'link')"
    )
    files = (File("in.txt", b"text "), File("same.txt", b"same"))
    found = {file.name: file for file in run(executor, code, *files).output_files}
    assert found == {
        "out/deep/plot.png": File("out/deep/plot.png", bytes(range(256)), "image/png"),
        "in.txt": File("in.txt", b"text more", "text/plain"),
        "module.py": File("module.py", b"x = 1", "text/x-python"),
    }


def test_code_cannot_write_artifacts_of_other_sessions(executor: IsolaCodeExecutor) -> None:
    done = run(executor, "open('user:profile', 'w').close()\nopen('a:b', 'w').close()")
    assert sorted(file.name for file in done.output_files) == ["a:b", "user_profile"]


def test_files_are_returned_after_a_failure(executor: IsolaCodeExecutor) -> None:
    done = run(executor, "open('partial', 'w').write('x')\n1 / 0")
    assert [file.name for file in done.output_files] == ["partial"]
    stopped = IsolaCodeExecutor(cpu_timeout_seconds=0.5)
    done = run(stopped, "with open('partial', 'w') as f: f.write('x')\nwhile True: pass")
    assert [file.name for file in done.output_files] == ["partial"]


def test_the_size_of_output_files_is_limited() -> None:
    executor = IsolaCodeExecutor(max_output_bytes=1000)
    done = run(executor, "open('a', 'wb').write(bytes(1000))")
    assert (len(done.output_files), done.exit_code) == (1, 0)
    done = run(executor, "open('a', 'wb').write(bytes(1001))")
    assert (done.output_files, done.exit_code) == ([], 1)
    assert "more than 1000 bytes" in done.stderr


# Sessions.


def test_a_session_keeps_variables_and_files(session: IsolaCodeExecutor) -> None:
    first = run(session, "x = 20\nopen('f', 'w').write('kept')", session="a")
    assert [file.name for file in first.output_files] == ["f"]
    second = run(session, "print(x + 1, open('f').read())", session="a")
    # Files of earlier code are not output again.
    assert second == CodeExecutionResult(stdout="21 kept\n", exit_code=0)
    assert "NameError" in run(session, "x", session="b").stderr
    assert run(session, "x += 1\n1 / 0", session="a").exit_code == 1
    assert run(session, "print(x)", session="a").stdout == "21\n"


def test_a_session_continues_after_a_limit_without_its_variables() -> None:
    executor = IsolaCodeExecutor(stateful=True, cpu_timeout_seconds=0.5)
    run(executor, "x = 1", session="a")
    done = run(executor, "while True: pass", session="a")
    assert "The variables and files of earlier code are lost." in done.stderr
    assert "NameError" in run(executor, "x", session="a").stderr
    executor.close()


def test_the_number_of_sessions_is_limited(session: IsolaCodeExecutor) -> None:
    for name in ("a", "b"):
        run(session, f"x = {name!r}", session=name)
    assert run(session, "print(x)", session="a").stdout == "a\n"
    # It takes the place of the session that was not used for the longest time.
    run(session, "x = 'c'", session="c")
    assert run(session, "print(x)", session="a").stdout == "a\n"
    assert "NameError" in run(session, "x", session="b").stderr


def test_closing_stops_the_code_of_a_session(session: IsolaCodeExecutor) -> None:
    outcomes: list[object] = []

    def wait() -> None:
        try:
            outcomes.append(run(session, "import time\ntime.sleep(1000)", session="a"))
        except isola.IsolaError as error:
            outcomes.append(error)

    run(session, "x = 1", session="a")
    thread = threading.Thread(target=wait)
    thread.start()
    while not session._sessions["a"].users:
        time.sleep(0.01)
    time.sleep(0.2)
    session.close()
    thread.join(30)
    assert not thread.is_alive()
    (outcome,) = outcomes
    assert isinstance(outcome, isola.ClosedError)
    assert "NameError" in run(session, "x", session="a").stderr


def test_code_of_several_threads(session: IsolaCodeExecutor) -> None:
    run(session, "total = 0", session="a")
    outcomes: list[CodeExecutionResult] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(run(session, "total += 1", session="a")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [outcome.exit_code for outcome in outcomes] == [0] * 8
    assert run(session, "print(total)", session="a").stdout == "8\n"


# An agent.


async def converse(executor: IsolaCodeExecutor, model: ScriptedModel, *questions: str) -> Any:
    """Runs an agent, and returns its last answer and the names of its artifacts."""
    agent = LlmAgent(name="analyst", model=model, code_executor=executor)
    runner = InMemoryRunner(agent=agent)
    try:
        events = await runner.run_debug(list(questions), quiet=True)
        content = events[-1].content
        answer = "".join(part.text or "" for part in (content and content.parts) or [])
        names = await cast(Any, runner.artifact_service).list_artifact_keys(
            app_name=runner.app_name, user_id="debug_user_id", session_id="debug_session_id"
        )
        return answer, names
    finally:
        await runner.close()


async def test_an_agent_runs_code() -> None:
    model = ScriptedModel(
        texts=[
            "Let me see.\n```python\nprint(total)\n```",
            "I forgot to sum.\n```python\ntotal = sum(range(11))\nprint(total)\n"
            "open('sum.txt', 'w').write(str(total))\n```",
        ]
    )
    executor = IsolaCodeExecutor()
    answer, artifacts = await converse(executor, model, "Sum the numbers up to ten.")
    assert "NameError" in model.seen[1]
    assert "55" in model.seen[2]
    assert "55" in answer
    assert artifacts == ["sum.txt"]


async def test_an_agent_with_a_session_continues() -> None:
    model = ScriptedModel(
        texts=["```python\nx = 6 * 7\n```", "Done.", "```python\nprint(x)\n```"],
    )
    executor = IsolaCodeExecutor(stateful=True)
    answer, _ = await converse(executor, model, "Compute.", "What was it?")
    executor.close()
    assert "42" in answer


def test_the_sample_of_the_page() -> None:
    page = (ROOT / "docs/integrations/google-adk.md").read_text("utf-8")
    samples = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (sample,) = [code for code in samples if "IsolaCodeExecutor" in code]
    assert re.search(r'^model = ".*"$', sample, re.M)
    program = "print([n for n in range(2, 30) if all(n % d for d in range(2, n))])"
    model = ScriptedModel(texts=[f"```python\n{program}\n```"])
    # The page names a model of a provider; the test has no network.
    code = re.sub(r'^model = ".*$', "", sample, flags=re.M)
    printed: list[str] = []
    exec(code, {"model": model, "print": lambda value: printed.append(str(value))})
    assert "23, 29]" in printed[-1]


def test_the_import_says_what_to_install() -> None:
    code = """
import sys
sys.modules["google.adk"] = None
try:
    import isola.integrations.google_adk
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'pip install "isola[google-adk]"' in done.stdout
