"""The wheel as it is installed, and the examples of the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# The pages, and the minimum number of examples in each.
PAGES = {
    "README.md": 1,
    "crates/isola-python/README.md": 1,
    "docs/guest/python/data.md": 1,
    "docs/isola/files.md": 1,
    "docs/isola/run-code.md": 1,
    "docs/isola/python/README.md": 7,
    "docs/isola/python/agents.md": 4,
    "docs/isola/python/http.md": 2,
    "docs/isola/python/limits.md": 2,
    "docs/isola/python/streams.md": 2,
    "docs/isola/python/sync.md": 1,
}


def examples(page: str) -> list[str]:
    """Returns the programs of a page: its Python blocks without a file name.

    Blocks with a file name are scripts for a guest, which other tests run.
    """
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "import isola" in block or "from mcp" in block]


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page_print_the_documented_output(page: str, tmp_path: Path) -> None:
    found = examples(page)
    assert len(found) >= PAGES[page]
    # The directory of the command `isola`.
    commands = Path(os.environ["ISOLA_COMMAND"]).parent
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    for number, source in enumerate(found):
        program = tmp_path / f"example_{number}.py"
        program.write_text(source)
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{page}, example {number}:\n{source}\n{done.stderr}"
        # The expected output is in the comments after the prints.
        expected = re.findall(r"#> (.*)$", source, re.MULTILINE)
        assert done.stdout.splitlines() == expected, f"{page}, example {number}"


def test_every_page_of_the_package_is_listed() -> None:
    for page in (ROOT / "docs/isola/python").glob("*.md"):
        assert str(page.relative_to(ROOT)) in PAGES


def test_the_wheel_runs_the_readme_in_an_empty_environment(tmp_path: Path) -> None:
    """The wheel is installed by pip, offline, without other packages."""
    wheel = Path(os.environ["ISOLA_WHEEL"])
    assert wheel.suffix == ".whl"
    assert "-cp310-abi3-" in wheel.name
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "ISOLA", "PIP"))
    }
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-index", str(wheel)],
        env=clean,
        check=True,
        timeout=120,
    )
    for source in examples("README.md"):
        done = subprocess.run(
            [python, "-c", source],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == re.findall(r"#> (.*)$", source, re.MULTILINE)
    # Without httpx, an option that needs it fails with a message.
    done = subprocess.run(
        [
            python,
            "-c",
            "import isola.sync as isola\nisola.build_template('python').instantiate(http=True)",
        ],
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "http=True needs the package httpx: pip install isola[http]" in done.stderr
