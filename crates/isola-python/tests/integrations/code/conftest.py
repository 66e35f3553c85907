"""What the tests of adapters share: the samples of the documentation, and a missing framework."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[5]


def pytest_configure(config: pytest.Config) -> None:
    # Warnings of the frameworks and of what they import are not ours.
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture
def run_page() -> Callable[[str, Path], int]:
    return _run_page


def _run_page(page: str, directory: Path) -> int:
    """Runs the samples of a page, as printed, and returns their number."""
    text = (ROOT / "docs/integrations" / page).read_text()
    samples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for number, source in enumerate(samples):
        program = directory / f"sample_{number}.py"
        program.write_text(source)
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{page}, sample {number}:\n{done.stderr}"
        # The expected output is in the comments after the prints.
        expected = re.findall(r"#> (.*)$", source, re.MULTILINE)
        assert expected, f"{page}: sample {number} shows no output"
        assert done.stdout.splitlines() == expected, f"{page}, sample {number}"
    return len(samples)


@pytest.fixture
def without() -> Callable[[str, str], str]:
    """Returns the error of importing an adapter where its framework is not installed."""
    return _import_without


def _import_without(module: str, framework: str) -> str:
    source = f"import sys\nsys.modules[{framework!r}] = None\nimport {module}\n"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    return done.stderr
