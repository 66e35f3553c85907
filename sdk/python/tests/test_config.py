"""The choice of the server's address and of the API key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isorun import IsorunError
from isorun._config import DEFAULT_URL, Target, find

LOCAL = {"api_url": "http://127.0.0.1:4444", "api_key": "local-key"}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "isorun").mkdir()
    (tmp_path / "isorun" / "client.json").write_text(json.dumps(LOCAL))
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_arguments_override_environment_and_environment_overrides_file(
    environ: dict[str, str], tmp_path: Path
) -> None:
    own = Target("http://127.0.0.1:4444", "local-key")
    assert find(None, None, environ) == own
    named = environ | {"ISORUN_API_URL": "https://a.example/", "ISORUN_API_KEY": "env-key"}
    assert find(None, None, named) == Target("https://a.example", "env-key")
    assert find("https://b.example", "arg-key", named) == Target("https://b.example", "arg-key")
    assert find(None, "arg-key", environ) == Target(own.url, "arg-key")
    nothing = {"XDG_CONFIG_HOME": str(tmp_path / "nowhere")}
    assert find(None, None, nothing) == Target(DEFAULT_URL, None)


def test_local_key_is_used_only_for_loopback_urls(environ: dict[str, str]) -> None:
    assert find("http://localhost:9999", None, environ).key == "local-key"
    assert find("https://example.com", None, environ).key is None
    assert find(None, None, environ | {"ISORUN_API_URL": "http://10.0.0.1:7676"}).key is None


def test_invalid_values_are_refused_with_a_reason(environ: dict[str, str]) -> None:
    with pytest.raises(IsorunError, match="not an http or https URL"):
        find("localhost:7676", None, environ)
    with pytest.raises(IsorunError, match="non-ASCII characters"):
        find(None, "\u20ac", environ)
    path = Path(environ["XDG_CONFIG_HOME"]) / "isorun" / "client.json"
    for damaged in ("", "[]", "{}", '{"api_url": 1, "api_key": 2}'):
        path.write_text(damaged)
        with pytest.raises(IsorunError, match="is damaged"):
            find(None, None, environ)


def test_a_file_that_others_can_write_is_refused(environ: dict[str, str]) -> None:
    path = Path(environ["XDG_CONFIG_HOME"]) / "isorun" / "client.json"
    for mode in (0o644, 0o640, 0o604, 0o600):
        path.chmod(mode)
        assert find(None, None, environ).key == "local-key"
        assert path.stat().st_mode & 0o777 == 0o600, oct(mode)
    for mode in (0o620, 0o666, 0o602):
        path.chmod(mode)
        with pytest.raises(IsorunError, match="chmod 600"):
            find(None, None, environ)
        assert path.stat().st_mode & 0o777 == mode
