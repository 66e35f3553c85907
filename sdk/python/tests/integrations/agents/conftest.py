"""Shared fixtures of the tests of adapters: images, and what failure tests need."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from images import workspace_image, write_layout
from support import LiveSandboxes

# mini-SWE-agent creates its directory when it is imported.
os.environ["MSWEA_GLOBAL_CONFIG_DIR"] = tempfile.mkdtemp(prefix="mini-swe-agent-")
os.environ["MSWEA_SILENT_STARTUP"] = "1"

# What agents and the scripts of frameworks expect of an image, beside a shell and Python.
PROGRAMS = (
    "awk base64 basename cat chmod chown cp cut date dd dirname env expr false find grep gzip head "
    "id ln ls mkdir mkfifo mktemp mv od printf ps pwd readlink realpath rm rmdir sed seq setpriv sort "
    "stat tail tar tee test timeout touch tr true truncate uname uniq wc whoami xargs yes"
).split()

# Replaces the program of Debian, which is written in Perl.
ADDUSER = """#!/bin/sh
for name; do :; done
case $name in -*) echo "usage: adduser [options] user"; exit 1;; esac
echo "$name:x:2000:2000::/home/$name:/bin/sh" >> /etc/passwd
echo "$name:x:2000:" >> /etc/group
"""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of suites that use the plugin of anyio."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def configured_session(server: Any) -> Iterator[None]:
    """Sets up the configuration of a user for fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(server.config))
        yield


@pytest.fixture(scope="session")
def images(server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of two images with the same files: `root`, whose commands run as root, and
    `user`, whose commands run as a user without privileges."""
    root = tmp_path_factory.mktemp("workspace")
    workspace_image(root, PROGRAMS)
    (root / "usr/sbin").mkdir()
    (root / "usr/sbin/adduser").write_text(ADDUSER)
    (root / "usr/sbin/adduser").chmod(0o755)
    names = {}
    for kind, config in (
        ("root", {"User": "root", "WorkingDir": "/root"}),
        ("user", {"User": "agent", "WorkingDir": "/home/agent"}),
    ):
        layout = tmp_path_factory.mktemp(f"layout-{kind}")
        write_layout(layout, root, config)
        names[kind] = f"workspace-{kind}:1"
        server.import_image(layout, names[kind], is_layout=True)
    # The image of the samples in the documentation.
    server.import_image(root, "python:3.12")
    return names


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
