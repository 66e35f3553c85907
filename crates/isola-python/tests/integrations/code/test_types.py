"""The types of the adapters and of their tests, with the frameworks installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[3]


def test_mypy_finds_no_errors(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--no-color-output"),
            *("--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"),
            *("--cache-dir", str(tmp_path)),
            *map(str, sorted(Path(__file__).parent.glob("*.py"))),
            *(f"python/isola/integrations/{name}.py" for name in ("dspy", "fastmcp", "smolagents")),
        ],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
