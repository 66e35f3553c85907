"""The adapter to mini-SWE-agent, with its scripted model."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments import get_environment
from minisweagent.exceptions import Submitted
from minisweagent.models.test_models import DeterministicModel, make_output

from isorun import IsorunConnectionError, IsorunError, Sandbox
from isorun.integrations.mini_swe_agent import IsorunEnvironment

SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"

AGENT: dict[str, Any] = {
    "system_template": "You work on {{system}} {{machine}}.",
    "instance_template": "{{task}}",
    "cost_limit": 0,
}


def agent_of(environment: IsorunEnvironment, commands: list[str], **config: Any) -> DefaultAgent:
    """Returns an agent whose model gives these commands."""
    outputs = [make_output("thought", [{"command": command}]) for command in commands]
    model: Any = DeterministicModel
    return DefaultAgent(model(outputs=outputs), environment, **AGENT, **config)


@pytest.mark.usefixtures("live_sandboxes")
def test_agent_mends_a_program(images: dict[str, str], tmp_path: Path) -> None:
    saved = tmp_path / "trajectory.json"
    with IsorunEnvironment(
        image=images["user"], options={"mem_mib": 300, "credentials": {"OPENAI_API_KEY": "hidden"}}
    ) as environment:
        agent = agent_of(
            environment,
            [
                "printf 'def add(a, b):\\n    return a - b\\n' > calc.py",
                "python3 -B -c 'import calc; assert calc.add(2, 2) == 4'",
                "sed -i 's/a - b/a + b/' calc.py && python3 -B -c 'import calc; print(calc.add(2, 2))'",
                f"echo {SUBMIT} && cat calc.py",
            ],
            output_path=saved,
        )
        end = agent.run("Mend calc.py.")
        assert end == {
            "exit_status": "Submitted",
            "submission": "def add(a, b):\n    return a + b\n",
        }
        assert environment.sandbox.ls("/home/agent") == ["calc.py"]
        assert environment.sandbox.info is not None and environment.sandbox.info.mem_mib == 300
    contents = [message["content"] for message in agent.messages]
    assert contents[0] == "You work on Linux x86_64."
    observed = [content for content in contents if "<returncode>" in content]
    assert "<returncode>1<" in observed[1] and "AssertionError" in observed[1]
    assert "<returncode>0<" in observed[2] and "\n4\n" in observed[2]
    text = saved.read_text()
    config = json.loads(text)["info"]["config"]
    assert config["environment_type"] == "isorun.integrations.mini_swe_agent.IsorunEnvironment"
    assert config["environment"]["options"] == {"mem_mib": 300}
    # Neither secrets nor the variables of this process are in prompts and trajectories.
    assert "hidden" not in text and "hidden" not in str(agent.get_template_vars())
    assert "PYTHONPATH" not in agent.get_template_vars()


def test_environment_is_found_by_its_name(images: dict[str, str]) -> None:
    environment: Any = get_environment(
        {
            "environment_class": "isorun.integrations.mini_swe_agent.IsorunEnvironment",
            "image": images["root"],
            "cwd": "/srv/new",
        }
    )
    assert environment.execute({"command": "pwd"})["output"] == "/srv/new\n"
    environment.cleanup()


def test_commands(images: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED", "outer")
    monkeypatch.setenv("OTHER", "not forwarded")
    with IsorunEnvironment(
        image=images["user"],
        env={"ADDED": "1"},
        forward_env=["FORWARDED", "UNSET", "ADDED"],
        timeout=1,
    ) as environment:

        def run(command: str, **options: Any) -> dict[str, Any]:
            return environment.execute({"command": command}, **options)

        result = run("echo $FORWARDED $ADDED $OTHER; echo oops >&2; echo $0; exit 3")
        assert result == {"output": "outer 1\noops\nbash\n", "returncode": 3, "exception_info": ""}
        assert run("pwd", cwd="/usr")["output"] == "/usr\n"
        started = time.monotonic()
        late = run("echo begun; sleep 1000")
        assert time.monotonic() - started < 20
        assert (late["output"], late["returncode"]) == ("begun\n", -1)
        assert "timeout of 1 s" in late["exception_info"]
        assert late["extra"]["exception_type"] == "IsorunTimeoutError"
        assert run("sleep 1.2; echo done", timeout=60)["output"] == "done\n"
        refused = run("true", cwd="/missing")
        assert refused["returncode"] == -1 and "/missing" in refused["exception_info"]
        long = run("yes | head -c 20000000", timeout=60)
        assert long["returncode"] == 0 and "end of the output is missing" in long["exception_info"]
        # Only a command that succeeds submits.
        assert run(f"echo {SUBMIT}; exit 1")["returncode"] == 1
        with pytest.raises(Submitted) as submitted:
            run(f"echo; echo {SUBMIT}; echo answer")
        assert submitted.value.messages[0]["content"] == "answer\n"


@pytest.mark.usefixtures("live_sandboxes")
def test_sandbox_is_destroyed_with_the_environment(
    images: dict[str, str], live_sandboxes: Any
) -> None:
    environment = IsorunEnvironment(image=images["user"])
    created = environment.sandbox.id
    assert created in live_sandboxes.ids()
    environment.cleanup()
    environment.cleanup()
    assert created not in live_sandboxes.ids()
    with pytest.raises(IsorunError, match="cleaned up"):
        environment.execute({"command": "true"})
    environment = IsorunEnvironment(image=images["user"])
    created = environment.sandbox.id
    del environment
    gc.collect()
    assert created not in live_sandboxes.ids()


@pytest.mark.usefixtures("live_sandboxes")
def test_agent_ends_when_its_sandbox_is_gone(images: dict[str, str], tmp_path: Path) -> None:
    environment = IsorunEnvironment(image=images["user"])
    assert environment.sandbox.id is not None
    Sandbox.connect(environment.sandbox.id).destroy()
    saved = tmp_path / "trajectory.json"
    agent = agent_of(environment, ["true"] * 5, output_path=saved)
    with pytest.raises(IsorunError, match="destroyed"):
        agent.run("Do nothing.")
    assert json.loads(saved.read_text())["info"]["model_stats"]["api_calls"] == 1
    environment.cleanup()


@pytest.mark.usefixtures("live_sandboxes")
def test_directory_that_cannot_be_created_is_an_error(images: dict[str, str]) -> None:
    with pytest.raises(IsorunError, match="'/etc/new' cannot be created"):
        IsorunEnvironment(image=images["user"], cwd="/etc/new")


@pytest.mark.usefixtures("no_server")
def test_server_away_is_an_error_of_the_constructor() -> None:
    with pytest.raises(IsorunConnectionError, match="isorun serve"):
        IsorunEnvironment()


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown options memory.*mem_mib"):
        IsorunEnvironment(options={"memory": 1})


def test_import_without_the_framework_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['minisweagent'] = None; import isorun.integrations.mini_swe_agent"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "isorun[mini-swe-agent]"' in done.stderr
