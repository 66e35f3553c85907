"""The first step of the tour, as it is printed, but for the image."""

from __future__ import annotations

import pytest
from conftest import Server

from isorun import Sandbox


def test_step_one(capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox("host") as sb:
        # 1. Run code
        out = sb.exec("python3 -c 'print(2 + 2)'")
        print(out.stdout)  # 4
    assert capsys.readouterr().out == "4\n\n"


def test_step_one_with_the_address_in_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISORUN_API_URL", server.url)
    with Sandbox("host") as sb:
        assert sb.exec("python3 -c 'print(2 + 2)'").stdout == "4\n"
    # All told, and none of it found.
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    monkeypatch.setenv("ISORUN_API_KEY", server.key)
    with Sandbox("host") as sb:
        assert sb.exec("true").ok
