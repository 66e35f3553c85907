"""The types of the adapter, which only this environment can check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[3]


def test_the_adapter_has_correct_types() -> None:
    cache = PACKAGE.parents[1] / "target" / "mypy-integrations-harbor"
    # The sources are checked, not the installed package.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-color-output", "--cache-dir", str(cache)]
        + ["--config-file", "tests/integrations/harbor/mypy.ini"],
        cwd=PACKAGE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
