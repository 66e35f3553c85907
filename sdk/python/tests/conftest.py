"""A real server for all tests, and asynchronous tests."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an asynchronous test in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    # A test that hangs fails, instead of holding up the others for ever.
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 120))
    return True


@dataclass
class Server:
    """A server that the tests started."""

    url: str
    key: str
    config: Path
    """Where it wrote the configuration of clients."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # `cargo xtask test` builds it. Without it these tests fail.
    command = os.environ["ISORUN_COMMAND"]
    data, config = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("config")
    process = subprocess.Popen(
        [command, "serve", "--listen", "127.0.0.1:0", "--no-pull", "--log", "warn"],
        env=os.environ | {"ISORUN_DATA_DIR": str(data), "XDG_CONFIG_HOME": str(config)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        # It has begun when it has told all.
        for line in process.stdout:
            if "ISORUN_API_KEY=" in line:
                break
        else:
            pytest.fail(f"the server did not start: {process.wait()}")
        written = json.loads((config / "isorun" / "client.json").read_text())
        yield Server(written["api_url"], written["api_key"], config)
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(60) == 0


@pytest.fixture(autouse=True)
def configured(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it on the server's machine."""
    monkeypatch.delenv("ISORUN_API_URL", raising=False)
    monkeypatch.delenv("ISORUN_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(server.config))
