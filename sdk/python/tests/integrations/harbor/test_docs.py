"""The task and the sample of the manual, as they are printed, except for the agent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripted import scripted

PAGE = Path(__file__).parents[5] / "docs/integrations/harbor.md"

# The line of the sample that chooses the agent, which needs a network and a key.
AGENT = re.compile(r"^agent = .*$", re.M)


def block(page: str, language: str) -> str:
    """Returns the only block of code in a language."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)
    return str(code)


# The framework uses a deprecated property of its own.
@pytest.mark.filterwarnings("ignore:Task.checksum will be deprecated:DeprecationWarning")
@pytest.mark.usefixtures("images", "live_sandboxes")
def test_the_sample_prints_the_documented_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text("utf-8")
    task = tmp_path / "sum-numbers"
    for name, language in (
        ("task.toml", "toml"),
        ("instruction.md", "text"),
        ("tests/test.sh", "bash"),
    ):
        assert f"`sum-numbers/{name}`" in page
        (task / name).parent.mkdir(exist_ok=True)
        (task / name).write_text(block(page, language))
    code, count = AGENT.subn("agent = scripted()", block(page, "python"))
    assert count == 1, "the sample does not choose an agent"
    command = "python3 -c 'print(sum(range(101)))' > /srv/answer"
    names = {"__name__": "__main__", "scripted": lambda: scripted(command)}
    exec(compile(code, PAGE.name, "exec"), names)
    expected = re.findall(r"print\(.*\)  # (.*)$", code, re.M)
    assert expected and capsys.readouterr().out.splitlines() == expected
