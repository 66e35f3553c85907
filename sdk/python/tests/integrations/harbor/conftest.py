"""Shared fixtures of the tests of the adapter to Harbor: images and environments."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from images import copy_programs, workspace_image, write_layout
from support import LiveSandboxes

# The framework sends neither statistics nor questions about prices of models.
os.environ["HARBOR_TELEMETRY"] = "off"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

with warnings.catch_warnings():
    # The packages that the framework imports use deprecated parts of others.
    warnings.simplefilter("ignore")
    import harbor.job  # noqa: F401

# What the framework and the scripts of tasks expect of an image, beside a shell and Python.
PROGRAMS = (
    "cat chmod chown cp dirname env false find grep gzip head id ln ls mkdir mkfifo mktemp mv "
    "printf pwd readlink rm rmdir seq setpriv stat tail tar tee test timeout touch tr true wc whoami"
).split()


@pytest.fixture(scope="session")
def images(server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of images: `root`, whose commands run as root, and two with fewer programs:
    `user`, whose commands run as a user without privileges, and `plain`. These have neither bash
    nor `setpriv` nor `tar`."""
    root = tmp_path_factory.mktemp("workspace")
    workspace_image(root, PROGRAMS)
    (root / "srv").mkdir()
    small = tmp_path_factory.mktemp("small")
    copy_programs(small, ("sh",))
    copy_programs(small, ("chmod", "id", "mkdir", "rm"), "usr/bin")
    for name in ("etc", "srv"):
        (small / name).mkdir()
    for name in ("passwd", "group"):
        shutil.copy(root / "etc" / name, small / "etc" / name)
    names = {}
    for kind, files, config in (
        ("root", root, {"User": "root", "WorkingDir": "/srv"}),
        ("user", small, {"User": "agent", "WorkingDir": "/srv"}),
        ("plain", small, {"WorkingDir": "/srv"}),
    ):
        layout = tmp_path_factory.mktemp(f"layout-{kind}")
        write_layout(layout, files, config)
        names[kind] = f"workspace-{kind}:1"
        server.import_image(layout, names[kind], is_layout=True)
        if kind == "root":
            # The image of the sample in the documentation.
            server.import_image(layout, "python:3.12", is_layout=True)
    return names


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a port on which nothing listens the address of the server."""
    monkeypatch.setenv("ISORUN_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ISORUN_API_KEY", "none")


@pytest.fixture
def live_sandboxes(server: Any) -> Iterator[LiveSandboxes]:
    """The sandboxes on the server. At the end of the test none that it created may be left."""
    live = LiveSandboxes(server.url, server.key)
    before = live.ids()
    yield live
    assert live.ids() - before == set(), "the test left sandboxes on the server"


@pytest.fixture
def task(images: dict[str, str], tmp_path: Path) -> Path:
    """The directory of a task, whose solution gets the reward 1."""
    directory = tmp_path / "sum-numbers"
    for name in ("environment", "solution", "tests"):
        (directory / name).mkdir(parents=True)
    (directory / "instruction.md").write_text("Write the sum of 1 to 100 to the file answer.\n")
    (directory / "task.toml").write_text(f'[environment]\ndocker_image = "{images["root"]}"\n')
    (directory / "environment/limit").write_text("101\n")
    (directory / "solution/solve.sh").write_text(
        '#!/bin/bash\nset -euo pipefail\necho "solving"\n'
        'python3 -c "print(sum(range($(cat limit))))" > answer\n'
    )
    (directory / "tests/test.sh").write_text(
        "#!/bin/bash\nif grep -qx 5050 answer; then reward=1; else reward=0; fi\n"
        'echo "verified as $(whoami) in $(pwd)"\n'
        "echo $reward > /logs/verifier/reward.txt\n"
    )
    return directory
