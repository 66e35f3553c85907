"""Shared fixtures: a real server, and asynchronous tests."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from images import python_image


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


@dataclass
class Server:
    """A server that the tests started."""

    url: str
    key: str
    config: Path
    """The directory to which it wrote the configuration of clients."""
    data: Path
    """Its data directory."""

    def import_image(self, path: Path, name: str, *, is_layout: bool = False) -> None:
        """Imports the files of an image, or an OCI layout."""
        kind = [] if is_layout else ["--rootfs"]
        subprocess.run(
            [os.environ["ISORUN_COMMAND"], "image", "import", "--quiet", *kind, path, name],
            env=os.environ | {"ISORUN_DATA_DIR": str(self.data)},
            check=True,
            timeout=120,
        )

    def wait_until_gone(self, run: str | None) -> None:
        """Waits until a sandbox was destroyed. The requests do not count as activity in it."""
        headers = {"authorization": f"Bearer {self.key}"}
        end = time.monotonic() + 60
        while httpx.get(f"{self.url}/v1/runs/{run}", headers=headers).status_code == 200:
            assert time.monotonic() < end, "the sandbox still exists"
            time.sleep(0.02)


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
    # `cargo xtask test` builds it. Without it these tests fail.
    command = os.environ["ISORUN_COMMAND"]
    data, config = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("config")
    image = tmp_path_factory.mktemp("image")
    python_image(image)
    subprocess.run(
        [command, "image", "import", "--quiet", "--rootfs", image, "python:3.12"],
        env=os.environ | {"ISORUN_DATA_DIR": str(data)},
        check=True,
        timeout=120,
    )
    process = subprocess.Popen(
        [command, "serve", "--listen", "127.0.0.1:0", "--no-pull", "--log", "warn"],
        env=os.environ | {"ISORUN_DATA_DIR": str(data), "XDG_CONFIG_HOME": str(config)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        # The server has started when it has printed the API key.
        for line in process.stdout:
            if "ISORUN_API_KEY=" in line:
                break
        else:
            pytest.fail(f"the server did not start: {process.wait()}")
        written = json.loads((config / "isorun" / "client.json").read_text())
        yield Server(written["api_url"], written["api_key"], config, data)
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(60) == 0


@pytest.fixture(autouse=True)
def configured(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets up the configuration of a user on the server's machine."""
    monkeypatch.delenv("ISORUN_API_URL", raising=False)
    monkeypatch.delenv("ISORUN_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(server.config))
