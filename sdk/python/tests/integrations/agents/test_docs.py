"""The samples of the manual run as they are printed, except for the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_deepagents
import test_inspect_ai
import test_mini_swe_agent
import test_pydantic_ai
from agents.testing import ScriptedModel, assistant_message, function_call
from minisweagent.models.test_models import DeterministicModel, make_output
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.function import FunctionModel

PAGES = Path(__file__).parents[5] / "docs" / "integrations"

# The line of a sample that chooses the model, which needs a network and a key.
MODEL = re.compile(r"^model = .*$", re.M)

PROGRAM = "print(sum(range(101)))"


def pydantic_ai() -> Any:
    return FunctionModel(
        test_pydantic_ai.Script(
            ToolCallPart("run", {"command": f"python3 -c '{PROGRAM}'"}),
            answer=lambda output: f"The sum is {output.split()[0]}.",
        )
    )


def deepagents() -> Any:
    return test_deepagents.Script(
        calls=[
            ("write_file", {"file_path": "/srv/sum.py", "content": PROGRAM}),
            ("execute", {"command": "python3 /srv/sum.py"}),
        ],
        answer="The sum is {}.",
    )


def inspect_ai() -> Any:
    command = {"command": f"python3 -c '{PROGRAM}'"}
    return test_inspect_ai.scripted(("bash", command), answer="The sum is 5050.")


def openai_agents() -> Any:
    call = function_call("exec_command", {"cmd": f"python3 -c '{PROGRAM}'"}, call_id="call")
    return ScriptedModel([[call], [assistant_message("The sum is 5050.")]])


def mini_swe_agent() -> Any:
    model: Any = DeterministicModel
    commands = (
        f"python3 -c '{PROGRAM}' > answer",
        f"echo {test_mini_swe_agent.SUBMIT}; cat answer",
    )
    return model(outputs=[make_output("thought", [{"command": each}]) for each in commands])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("images", "live_sandboxes")
@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("pydantic-ai.md", pydantic_ai),
        ("deepagents.md", deepagents),
        ("inspect-ai.md", inspect_ai),
        ("openai-agents.md", openai_agents),
        ("mini-swe-agent.md", mini_swe_agent),
    ],
)
def test_sample_prints_the_documented_output(
    page: str,
    model: Callable[[], Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Evaluations write their logs to the current directory.
    monkeypatch.chdir(tmp_path)
    text = (PAGES / page).read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    code, count = MODEL.subn("model = scripted()", code)
    assert count == 1, f"{page} does not choose a model"
    exec(compile(code, page, "exec"), {"__name__": "__main__", "scripted": model})
    expected = re.findall(r"print\(.*\)  # (.*)$", code, re.M)
    printed = capsys.readouterr().out.splitlines()
    # mini-SWE-agent logs to the standard output.
    assert expected and [line for line in printed if ": INFO: " not in line] == expected
