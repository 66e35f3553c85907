"""The samples of the manual run unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from servers import Server

ROOT = Path(__file__).parents[3]
STATE = ["run-code", "interpreters", "shell", "forking", "hibernation", "snapshots", "fork-hazards"]
PAGES = [
    "README.md",
    "docs/isorun/python-sdk.md",
    "docs/isorun/mcp.md",
    "sdk/python/README.md",
]
PAGES += [f"docs/isorun/{page}.md" for page in STATE]


def samples() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        # README.md contains samples of the package isola, too.
        ours = [code for code in blocks if "isorun" in code or "sb." in code]
        assert ours, f"{page} contains no samples"
        found += [(f"{page}:{number}", code) for number, code in enumerate(ours)]
    assert len(found) >= 5, "the pages contain fewer than 5 samples"
    return found


@pytest.fixture
def shell_environment(server: Server, tmp_path: Path) -> dict[str, str]:
    """Returns the environment of a user who has installed the command."""
    (tmp_path / ".config").symlink_to(server.config)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "isorun").symlink_to(os.environ["ISORUN_COMMAND"])
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return os.environ | {"HOME": str(tmp_path), "PATH": path}


@pytest.mark.parametrize(("location", "code"), samples())
def test_sample_prints_the_documented_output(
    location: str, code: str, shell_environment: dict[str, str]
) -> None:
    # Each sample is run alone, with the import of the first one of its page if necessary.
    if "import" not in code:
        code = "from isorun import Sandbox\n" + code
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=shell_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{location}: {done.stderr}"
    expected = re.findall(r"print\(.*\)  # (.*)$", code, re.M)
    assert [line for line in expected if line not in done.stdout.splitlines()] == []


def test_example_prints_the_expected_output() -> None:
    example = ROOT / "examples" / "linux_sandbox.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "2 + 2 = 4",
        "hello Ada from Linux",
        "step 3",
        "its output was: started",
        "the internet: ConnectionResetError",
    ):
        assert line in done.stdout, done.stdout
