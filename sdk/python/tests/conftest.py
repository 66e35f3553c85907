"""Shared fixtures: a real server or cluster, and asynchronous tests."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import python_image
from servers import NODES, SEED, Server, serving


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an asynchronous test in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    # The plugin of anyio runs the suite of a framework.
    if pyfuncitem.get_closest_marker("anyio"):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    # A test that hangs fails instead of blocking the others forever.
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 120))
    return True


def notebook_image(root: Path) -> None:
    """Creates the files of an image with Python, ipykernel, matplotlib and pandas."""
    python_image(root)
    # `cargo xtask test` installs them. Without them these tests fail.
    packages = Path(os.environ["ISORUN_NOTEBOOK_PACKAGES"])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = root / "usr" / "local" / "lib" / version / "site-packages"
    shutil.copytree(
        packages,
        target,
        symlinks=True,
        ignore=shutil.ignore_patterns("tests", "__pycache__", "pip", "setuptools", "sample_data"),
    )
    modules = [str(path) for path in packages.rglob("*.so*") if path.is_file()]
    linked = subprocess.run(["ldd", *modules], capture_output=True, text=True)
    for library in set(re.findall(r"(?<=[\s])(/\S+)(?= \(0x)", linked.stdout)):
        copy = root / library.lstrip("/")
        if packages not in Path(library).parents and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)


@pytest.fixture(scope="session")
def notebook(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image with the packages of a notebook."""
    image = tmp_path_factory.mktemp("notebook")
    notebook_image(image)
    server.import_image(image, "notebook:1")
    return "notebook:1"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    image = tmp_path_factory.mktemp("image")
    python_image(image)
    with serving(tmp_path_factory.mktemp("server")) as server:
        server.import_image(image, "python:3.12")
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows how to repeat what the load balancer has drawn."""
    if NODES > 1:
        terminalreporter.write_line(f"cluster of {NODES} nodes, ISORUN_TEST_SEED={SEED}")


@pytest.fixture(autouse=True)
def configured(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets up the configuration of a user on the server's machine."""
    monkeypatch.delenv("ISORUN_API_URL", raising=False)
    monkeypatch.delenv("ISORUN_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(server.config))
